"""Speech recognition by encoder-decoders of transformers, such as Whisper: a vector for each token of a transcript."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.audio_extractor import LENGTHS, MASK, calm, drop_mask, load_extractor
from sft_lightning.networks.base import Network
from sft_lightning.networks.generation import Generation
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.hf import hf_export, load_hf
from sft_lightning.networks.transcripts import TextWriter
from sft_lightning.networks.transformers_lm import note_new
from sft_lightning.networks.transformers_text import check_vocabulary, checkpoint_gradients, load_tokenizer
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.whisper_settings import settings_for_export
from sft_lightning.networks.word_times import Words, can_follow, token_times, words_of
from sft_lightning.sharding.tensors import is_sharded


class SpeechEncoderDecoder(nn.Module):
    """The encoder and the decoder of a transformers model, without its output layer. They stay parts of that model too.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = model.get_encoder(), model.get_decoder()

    def forward(self, sounds: Tensor, decoder_ids: Tensor) -> Tensor:
        """The decoder's vectors `[B, U, D]` for spectrograms `sounds[B, M, T]` and decoder inputs `[B, U]`."""
        heard = self.encoder(sounds).last_hidden_state
        hidden: Tensor = self.decoder(
            input_ids=decoder_ids, encoder_hidden_states=heard, use_cache=False
        ).last_hidden_state
        return hidden


class TransformersSpeech(Network):
    """A transformers model that writes down speech one token after another, and whose extractor fixes the length: Whisper.

    Logits are computed only at target tokens. Tokens for language and task are given, not learned. The model keeps its output
    layer, so outputs can be compared with the pretrained network's.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory; null for random ones.
        config: For random weights, a folder or hub name with a config.json, or the settings themselves with model_type.
        tokenizer: Folder or hub name of the tokenizer; default the one that comes with pretrained.
        language: Language of the transcripts, such as english, for multilingual models; default the tokenizer's own setting.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        max_new_tokens: Most tokens of a generated text.
        num_beams: Beams of the search for a generated text; 1 takes the most likely token each time.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks: ClassVar[tuple[str, ...]] = ("seq2seq",)
    library = "transformers"
    shares_outputs = True

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        tokenizer: str | None = None,
        language: str | None = None,
        dropout: float | None = None,
        gradient_checkpointing: bool = False,
        max_new_tokens: int = 128,
        num_beams: int = 1,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from transformers import AutoModelForSpeechSeq2Seq

        self.generation = Generation(max_new_tokens, num_beams)
        model = load_hf(AutoModelForSpeechSeq2Seq, pretrained, config, self, trust_remote_code, trim=drop_mask)
        self.tokenizer = load_tokenizer(tokenizer or pretrained, self, trust_remote_code)
        self.language = language
        if language is not None:
            self._set_language(language)
        check_vocabulary(self.tokenizer, model)
        self.extractor = load_extractor(self, model, trust_remote_code)
        if self.extractor.name != "input_features" or self.extractor.max_seconds is None:
            raise UserError(
                "network",
                f"TransformersSpeech is for models that take spectrograms of a fixed length, unlike {type(model).__name__}",
                "choose a Whisper model, or TransformersCTC",
            )
        self.start = int(model.config.decoder_start_token_id)
        self.writer = TextWriter(self.tokenizer, self.start)
        positions = int(getattr(model.config, "max_target_positions", 0) or 0) or None
        self.max_length = positions
        if positions is not None and max_new_tokens > positions - 1 - self.writer.first:
            self.generation.max_new_tokens = positions - 1 - self.writer.first
        self._whole = [model]  # in a list: the same weights must not be registered twice
        self.encoder, self.head = SpeechEncoderDecoder(model), model.get_output_embeddings()
        note_new(self, model)
        self.task = replace(task, num_outputs=int(model.get_output_embeddings().weight.shape[0]))
        self.report.notes += calm(model)
        set_dropout(model, dropout)
        if gradient_checkpointing:
            checkpoint_gradients(model)

    def _set_language(self, language: str) -> None:
        set_prefix = getattr(self.tokenizer, "set_prefix_tokens", None)
        if set_prefix is None:
            raise UserError("network.language", f"{type(self.tokenizer).__name__} has no languages", "leave it out")
        try:
            set_prefix(language=language, task="transcribe")
            self.tokenizer("")  # which fails if there is no such language
        except (ValueError, KeyError) as error:
            raise UserError("network.language", str(error).splitlines()[0], "use a language of the model") from None

    @property
    def input_spec(self) -> InputSpec:
        extract = self.extractor
        return InputSpec(
            "speech",
            sample_rate=extract.rate,
            max_seconds=extract.max_seconds,
            extract=extract,
            tokenizer=self.writer,
            max_length=self.max_length,
        )

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, U, D]`, one vector for each target token"""
        targets = x["target_ids"]
        start = torch.full_like(targets[:, :1], self.start)
        hidden: Tensor = self.encoder(x[self.extractor.name], torch.cat([start, targets[:, :-1]], 1))
        return hidden

    def generate(self, prompt: dict[str, Tensor]) -> list[str]:
        """Transcripts, by beam search, after the given tokens. The model's own suppressed tokens stay suppressed.

        Whisper's own `generate` is not used: it would add rules for long sounds, temperatures and time stamps.
        """
        return self._read(self._write(prompt))

    def _read(self, made: Tensor) -> list[str]:
        """The texts of `_write`, without the given tokens."""
        own = made[:, 1 + len(self.writer.given) :]
        return [str(text).strip() for text in self.tokenizer.batch_decode(own, skip_special_tokens=True)]

    def generate_timed(self, prompt: dict[str, Tensor]) -> tuple[list[str], list[Words] | None]:
        """The transcripts of `generate`, and their words with times by the decoder's attention on the sound."""
        model, made = self._whole[0], self._write(prompt)
        texts = self._read(made)
        if not can_follow(model):
            return texts, None
        positions = int(model.config.max_source_positions)
        seconds = float(self.extractor.max_seconds or 0.0) / positions
        given, found = [self.start, *self.writer.given], list[Words]()
        special = set(self.tokenizer.all_special_ids)
        for row, ids in enumerate(made.tolist()):  # one at a time, so that nothing depends on the batch
            text = [number for number in ids[len(given) :] if number not in special]
            if not text:
                found.append([])
                continue
            places = min(positions, max(1, int(prompt[LENGTHS][row]) // self.extractor.own.hop_length // 2))
            heard = model.get_encoder()(prompt[self.extractor.name][row : row + 1]).last_hidden_state
            times = token_times(model, heard, given, text, places) * seconds
            found.append(words_of(self.tokenizer, text, times))
        return texts, found

    def _write(self, prompt: dict[str, Tensor]) -> Tensor:
        """Token ids `[B, U]` of the transcripts, the given tokens first."""
        from transformers import GenerationMixin

        model = self._whole[0]
        if any(map(is_sharded, model.parameters())):
            raise UserError(
                "data.generate_samples",
                "texts cannot be generated with trainer.strategy fsdp2",
                "set it to 0, or use strategy ddp",
            )
        settings, own = self.generation.settings(self.tokenizer), model.generation_config
        settings.decoder_start_token_id = self.start
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            setattr(settings, name, getattr(own, name, None))
        inputs = {name: values for name, values in prompt.items() if name not in (LENGTHS, MASK)}
        given = torch.tensor([[self.start, *self.writer.given]], device=model.device).expand(
            len(inputs[self.extractor.name]), -1
        )
        try:
            model.generation_config = type(own)()  # whose values transformers takes for all that `settings` leave open
            made: Tensor = GenerationMixin.generate(
                model, **inputs, decoder_input_ids=given, generation_config=settings
            )
        finally:
            model.generation_config = own
        return made

    def export_config(self) -> dict[str, Any]:
        return {} if self.language is None else {"language": self.language}

    def save_pretrained(self, folder: str) -> None:
        """Writes a transformers folder with tokenizer, feature extractor, and settings with which it generates as here."""
        hf_export(self, self._whole[0], folder)
        own = self._whole[0].generation_config
        settings_for_export(
            self.generation.settings(self.tokenizer), own, self.start, self.writer.given
        ).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.extractor.own.save_pretrained(folder)
