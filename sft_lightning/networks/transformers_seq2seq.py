"""Any encoder-decoder of transformers that writes texts: a vector per target token, and the model's own output layer."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.base import Network
from sft_lightning.networks.generation import Generation
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.hf import hf_export, load_hf
from sft_lightning.networks.languages import set_languages
from sft_lightning.networks.learned_tokenizer import TRAIN, LearnedTokenizer, with_vocabulary
from sft_lightning.networks.transformers_lm import note_new
from sft_lightning.networks.transformers_text import check_vocabulary, checkpoint_gradients, load_tokenizer, token_limit
from sft_lightning.networks.transforms import Transform


class EncoderDecoder(nn.Module):
    """The encoder and the decoder of a transformers model, without its output layer. They stay parts of that model too.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.decoder = model.get_encoder(), model.get_decoder()

    def forward(self, ids: Tensor, mask: Tensor, decoder_ids: Tensor) -> Tensor:
        """The decoder's vectors `[B, U, D]` for source tokens `ids[B, T]` with `mask[B, T]`, and decoder inputs `[B, U]`.

        The decoder reads from left to right, so that padding after a target text has no effect on it.
        """
        source = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        hidden: Tensor = self.decoder(
            input_ids=decoder_ids, encoder_hidden_states=source, encoder_attention_mask=mask, use_cache=False
        ).last_hidden_state
        return hidden


class OutputLayer(nn.Module):
    """Logits as the model has them: its output layer on scaled features, plus the model's fixed bias on tokens.

    Args:
        linear: The model's output layer, which may share its weight with the embeddings.
        scale: Factor on the features (T5 with tied weights).
        bias: `[1, V]`, not trained (`final_logits_bias` of BART and Marian); None for none.
    """

    def __init__(self, linear: nn.Module, scale: float, bias: Tensor | None) -> None:
        super().__init__()
        self.linear, self.scale = linear, scale
        self.bias: Tensor | None
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """`[…, V]`"""
        logits: Tensor = self.linear(features if self.scale == 1.0 else features * self.scale)
        return logits if self.bias is None else logits + self.bias[0]


class TransformersSeq2Seq(Network):
    """A transformers model that writes a target text for a source text: translation, summaries.

    Logits are computed only at target tokens. The model keeps its output layer, so outputs can be compared with the
    pretrained network's.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory; null for random ones.
        config: For random weights, a folder or hub name with a config.json, or the settings themselves with model_type.
        tokenizer: Folder or hub name of the tokenizer; default the one that comes with pretrained; train learns one from the
            training texts (byte-level BPE, for random weights alone), which checkpoints and exports hold.
        vocabulary_size: Number of tokens that tokenizer train may learn, special ones included.
        source_language: The tokenizer's code for the language of source texts, for tokenizers with languages (mBART, NLLB).
        target_language: The same for target texts; generated texts begin with it.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        max_length: Most tokens of a source or target text; default what the tokenizer and the positions allow.
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
        vocabulary_size: int | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        dropout: float | None = None,
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        max_new_tokens: int = 128,
        num_beams: int = 1,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from transformers import AutoModelForSeq2SeqLM

        self.generation = Generation(max_new_tokens, num_beams)
        if tokenizer == TRAIN:
            config = with_vocabulary(config, pretrained, vocabulary_size)
        elif vocabulary_size is not None:
            raise UserError(
                "network.vocabulary_size", "sizes a tokenizer that is trained", "leave it out, or set tokenizer: train"
            )
        model = load_hf(AutoModelForSeq2SeqLM, pretrained, config, self, trust_remote_code)
        if (
            getattr(model.config, "decoder_start_token_id", None) is None
        ):  # plain settings of T5, which starts with padding
            model.config.decoder_start_token_id = model.config.pad_token_id
        self.tokenizer: Any
        if tokenizer == TRAIN:
            self.tokenizer = LearnedTokenizer(vocabulary_size or 0)
        else:
            self.tokenizer = load_tokenizer(tokenizer or pretrained, self, trust_remote_code)
            self.tokenizer.padding_side = "right"  # encoders count positions from the beginning of the row
            check_vocabulary(self.tokenizer, model)
        self.languages = {"source_language": source_language, "target_language": target_language}
        self.language_token = set_languages(self.tokenizer, source_language, target_language)
        self.max_length = token_limit(self.tokenizer, model, max_length)
        positions = getattr(model.config, "max_position_embeddings", None)
        if isinstance(positions, int) and max_new_tokens > positions - 1:
            self.generation.max_new_tokens = positions - 1
            self.report.notes.append(
                f"generated texts have at most {positions - 1} tokens, which is all its positions hold"
            )
        self._whole = [model]  # in a list: the same weights must not be registered twice
        self.encoder = EncoderDecoder(model)
        self.head = self._output_layer(model)
        note_new(self, model)
        self.task = replace(task, num_outputs=int(model.get_output_embeddings().weight.shape[0]))
        set_dropout(model, dropout)
        if gradient_checkpointing:
            checkpoint_gradients(model)

    @torch.no_grad()
    def _output_layer(self, model: Any) -> OutputLayer:
        """The head that gives the model's own logits. Raises UserError if none does. Needs evaluation mode."""
        linear, bias = model.get_output_embeddings(), getattr(model, "final_logits_bias", None)
        ids = (torch.arange(4)[None] + 1) % model.get_input_embeddings().num_embeddings
        x = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "target_ids": ids}
        try:
            whole = {"input_ids": ids, "attention_mask": x["attention_mask"], "decoder_input_ids": self.shifted(ids)}
            theirs = model(**whole).logits.float()
            features = self.encode(x)
            for scale in (1.0, float(getattr(model.config, "d_model", None) or 1.0) ** -0.5):
                head = OutputLayer(linear, scale, bias)
                if torch.allclose(head(features).float(), theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max())):
                    return head
        except (AttributeError, TypeError):
            pass  # the model has no decoder of its own, or it takes other inputs
        raise UserError(
            "network",
            f"{type(model).__name__} computes its logits in a way that TransformersSeq2Seq does not support",
            "choose another model",
        )

    def shifted(self, targets: Tensor) -> Tensor:
        """Decoder inputs `[B, U]` for target tokens `[B, U]`: one place later, after the model's own start."""
        model = self._whole[0]
        if hasattr(model, "prepare_decoder_input_ids_from_labels"):
            inputs: Tensor = model.prepare_decoder_input_ids_from_labels(labels=targets)
            return inputs
        start = torch.full_like(targets[:, :1], model.config.decoder_start_token_id)
        return torch.cat([start, targets[:, :-1]], 1)

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec("pairs", tokenizer=self.tokenizer, max_length=self.max_length)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, U, D]`, one vector for each target token"""
        hidden: Tensor = self.encoder(x["input_ids"], x["attention_mask"], self.shifted(x["target_ids"]))
        return hidden

    def generate(self, prompt: dict[str, Tensor]) -> list[str]:
        """Target texts, by beam search. Settings that are not this network's are the model's own (first token, length)."""
        model, settings = self._whole[0], self.generation.settings(self.tokenizer)
        if isinstance(self.head, OutputLayer) and self.head.bias is not None:
            model.final_logits_bias = (
                self.head.bias
            )  # the model is no part of this network, so it stayed where it was built
        self._begin(settings)
        made = self.generation.run(model, prompt, settings)
        texts: list[str] = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return texts

    def _begin(self, settings: Any) -> None:
        """Makes generation begin as target texts do in training."""
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        empty = self.tokenizer(text_target=[""])["input_ids"][0] or end
        settings.decoder_start_token_id = int(self.shifted(torch.tensor([empty], device=self._whole[0].device))[0, 0])
        if self.language_token is not None and empty[0] == self.language_token:
            settings.forced_bos_token_id = self.language_token

    def export_config(self) -> dict[str, Any]:
        given = {name: code for name, code in self.languages.items() if code is not None}
        return {"max_length": self.max_length, **given}

    def save_pretrained(self, folder: str) -> None:
        """Writes a genuine transformers folder with the tokenizer, whose generation has this network's settings."""
        model = self._whole[0]
        kept = model.generation_config
        kept.num_beams, kept.max_new_tokens, kept.do_sample = (
            self.generation.num_beams,
            self.generation.max_new_tokens,
            False,
        )
        kept.max_length = None
        self._begin(kept)
        hf_export(self, model, folder)
        self.tokenizer.save_pretrained(folder)
