"""Speech recognition with CTC by models of transformers: one vector for each frame of a sound, and an output layer."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.audio_extractor import MASK, by_length, calm, drop_mask, load_extractor, padding_shows
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.hf import hf_export, load_hf
from sft_lightning.networks.transcripts import CharacterWriter
from sft_lightning.networks.transformers_lm import note_new
from sft_lightning.networks.transformers_text import checkpoint_gradients, load_tokenizer
from sft_lightning.networks.transforms import Transform


class TransformersCTC(Network):
    """A model of transformers' AutoModelForCTC that takes waveforms, such as wav2vec2, HuBERT or WavLM.

    The model keeps its output layer, so outputs can be compared with the pretrained network's. Weights without one get a new
    layer for the characters of the tokenizer. Models whose answers depend on padding get sounds of one length at a time.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory; null for random ones.
        config: For random weights, a folder or hub name with a config.json, or the settings themselves with model_type.
        tokenizer: Folder or hub name of the tokenizer of characters; default the one that comes with pretrained.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks: ClassVar[tuple[str, ...]] = ("ctc",)
    library = "transformers"
    shares_outputs = True

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        tokenizer: str | None = None,
        dropout: float | None = None,
        gradient_checkpointing: bool = False,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from transformers import AutoModelForCTC

        self.tokenizer = load_tokenizer(tokenizer or pretrained, self, trust_remote_code)
        blank = self.tokenizer.pad_token_id
        sizes = {"vocab_size": len(self.tokenizer), "pad_token_id": blank} if tokenizer is not None else {}
        if pretrained is None and isinstance(config, dict):
            config = {**config, **sizes}
        more = sizes if pretrained is not None else {}
        model = load_hf(AutoModelForCTC, pretrained, config, self, trust_remote_code, trim=drop_mask, **more)
        outputs = int(model.config.vocab_size)
        if max(self.tokenizer.get_vocab().values()) >= outputs:
            raise UserError(
                "network.tokenizer",
                f"has {len(self.tokenizer)} tokens, and the network has {outputs} outputs",
                "choose the tokenizer that belongs to the network",
            )
        self._whole = [model]  # in a list: the same weights must not be registered twice
        if not hasattr(model, "lm_head") or not hasattr(model, "_get_feat_extract_output_lengths"):
            raise UserError(
                "network", f"{type(model).__name__} is not built as TransformersCTC expects", "choose another model"
            )
        self.encoder, self.head = model.base_model, model.lm_head
        note_new(self, model)
        self.writer = CharacterWriter(self.tokenizer)
        self.task = replace(task, num_outputs=outputs, labels=self.writer.labels(outputs, model.config.pad_token_id))
        set_dropout(model, dropout)
        if gradient_checkpointing:
            checkpoint_gradients(model)
        self.extractor = load_extractor(self, model, trust_remote_code)
        if self.extractor.name != "input_values":
            raise UserError(
                "network", f"{type(model).__name__} takes {self.extractor.name}, not waveforms", "choose another model"
            )
        self.report.notes += calm(model)
        self.task = replace(self.task, frame_seconds=self._frame_seconds())
        self.takes_mask, self.one_length = bool(getattr(self.extractor.own, "return_attention_mask", False)), False
        self.one_length = padding_shows(self.extractor, self.encode)
        if self.one_length:
            self.report.notes.append("padding would change answers: sounds of one length are encoded together")

    def frames(self, samples: Tensor) -> Tensor:
        """Frames of sounds of so many samples, which shorter sounds are padded to: int64 `[B]`."""
        frames: Tensor = self._whole[0]._get_feat_extract_output_lengths(samples.clamp(min=self.extractor.least))
        return frames.long()

    def _frame_seconds(self) -> float:
        """Seconds between frames: those of ten minutes, whose first and last frame hardly count."""
        samples = 600 * self.extractor.rate
        return round(samples / float(self.frames(torch.tensor([samples])))) / self.extractor.rate

    @property
    def input_spec(self) -> InputSpec:
        extract = self.extractor
        return InputSpec(
            "speech",
            sample_rate=extract.rate,
            max_seconds=extract.max_seconds,
            extract=extract,
            frames=self.frames,
            tokenizer=self.writer,
        )

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, T, D]`, one vector for each frame"""
        if self.one_length:
            return by_length(x, self.extractor.name, self._run)
        names = (self.extractor.name, MASK) if self.takes_mask else (self.extractor.name,)
        return self._run({name: x[name] for name in names if name in x})

    def _run(self, inputs: dict[str, Tensor]) -> Tensor:
        hidden: Tensor = self.encoder(**inputs).last_hidden_state
        return hidden

    def save_pretrained(self, folder: str) -> None:
        """Writes a transformers folder with tokenizer and feature extractor."""
        hf_export(self, self._whole[0], folder)
        self.tokenizer.save_pretrained(folder)
        self.extractor.own.save_pretrained(folder)
