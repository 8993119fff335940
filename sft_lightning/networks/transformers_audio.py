"""Audio classification networks of transformers, by name, folder or configuration."""

from typing import Any, ClassVar, Literal

from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.audio_extractor import MASK, by_length, calm, drop_mask, load_extractor, padding_shows
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.hf import hf_export, load_hf, split_head
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.transformers_text import checkpoint_gradients
from sft_lightning.networks.transforms import Transform


class TransformersAudio(Network):
    """Any model of transformers' AutoModelForAudioClassification, its last linear layer replaced.

    The model's own feature extractor makes the inputs. Models whose answers depend on padding, such as wav2vec2-base, get
    sounds of one length at a time. Exports are transformers folders, which AutoFeatureExtractor loads too.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory, a state dict file
            (with config); null for random ones of config.
        config: The architecture without a pretrained folder: a folder or hub name with a config.json, or its
            values, such as `{model_type: wav2vec2, hidden_size: 192}`.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    library = "transformers"

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        dropout: float | None = None,
        gradient_checkpointing: bool = False,
        keep_source_head: bool | Literal["source"] = True,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from transformers import AutoModelForAudioClassification

        model = load_hf(AutoModelForAudioClassification, pretrained, config, self, trust_remote_code, trim=drop_mask)
        self.head_name = split_head(self, model, keep_source_head is True)
        take_source_head(self, pretrained, keep_source_head)
        set_dropout(model, dropout)
        if gradient_checkpointing:
            checkpoint_gradients(model)
        self.encoder = model
        self.extractor = load_extractor(self, model, trust_remote_code)
        self.report.notes += calm(model)
        self.takes_mask = bool(getattr(self.extractor.own, "return_attention_mask", False))
        self.one_length = False
        """Whether the network gets sounds of one length at a time"""
        self.one_length = padding_shows(self.extractor, self.encode)
        if self.one_length and self.extractor.name != "input_values":
            raise UserError(
                "network",
                f"the answers of {type(model).__name__} depend on padding, and its inputs are not waveforms",
                "choose another model",
            )
        if self.one_length:
            self.report.notes.append("padding would change answers: sounds of one length are encoded together")

    @property
    def input_spec(self) -> InputSpec:
        extract = self.extractor
        return InputSpec("audio", sample_rate=extract.rate, max_seconds=extract.max_seconds, extract=extract)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, D]`, the input of the model's output layer"""
        if self.one_length:
            return by_length(x, self.extractor.name, self._run)
        names = (self.extractor.name, MASK) if self.takes_mask else (self.extractor.name,)
        return self._run({name: x[name] for name in names if name in x})

    def _run(self, inputs: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.encoder(**inputs).logits
        return features

    def save_pretrained(self, folder: str) -> None:
        """Writes a transformers folder with its feature extractor."""
        hf_export(self, self.encoder, folder, self.head_name)
        self.extractor.own.save_pretrained(folder)
