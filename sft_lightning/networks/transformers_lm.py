"""Any causal language model of transformers: the encoder gives a vector per token, the head is the model's own."""

import warnings
from dataclasses import replace
from importlib.util import find_spec
from inspect import signature
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, Output, TaskInfo
from sft_lightning.networks.base import Network
from sft_lightning.networks.generation import Generation
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.hf import hf_export, load_hf
from sft_lightning.networks.packed import ROW, encode_packed, why_not_apart
from sft_lightning.networks.transformers_text import (
    check_vocabulary,
    checkpoint_gradients,
    load_tokenizer,
    positions,
    token_limit,
)
from sft_lightning.networks.transforms import Transform


class TransformersLM(Network):
    """A causal language model. Computes logits only at supervised tokens.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory, a .gguf file (its
            weights dequantised); null for random ones.
        config: For random weights, a folder or hub name with a config.json, or the settings themselves with model_type.
        tokenizer: Folder or hub name of the tokenizer; default the one that comes with pretrained.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        max_length: Most tokens the network takes; default what the tokenizer and the positions allow.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        dtype: Data type of the weights; bfloat16 halves the memory, but rounds the optimizer's steps.
        max_new_tokens: Most tokens of a generated text; at most half of max_length.
        num_beams: Beams of the search for a generated text; 1 takes the most likely token each time.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks: ClassVar[tuple[str, ...]] = ("causal_lm",)
    library = "transformers"
    shares_outputs = True

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        tokenizer: str | None = None,
        dropout: float | None = None,
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        dtype: Literal["float32", "bfloat16"] = "float32",
        max_new_tokens: int = 128,
        num_beams: int = 1,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        if dtype not in ("float32", "bfloat16"):
            raise UserError("network.dtype", f"must be float32 or bfloat16, got '{dtype}'")
        self.generation = Generation(max_new_tokens, num_beams)
        model = self._load(pretrained, config, getattr(torch, dtype), trust_remote_code)
        self.tokenizer = load_tokenizer(tokenizer or pretrained, self, trust_remote_code)
        check_vocabulary(self.tokenizer, model)
        self.max_length = token_limit(self.tokenizer, model, max_length)
        self._whole = [model]  # in a list: the same weights must not be registered twice
        self.encoder, self.head = model.base_model, model.get_output_embeddings()
        note_new(self, model)
        self.task = replace(task, num_outputs=int(model.get_output_embeddings().weight.shape[0]))
        text_config = model.config.get_text_config()
        self.cap = getattr(text_config, "final_logit_softcapping", None)
        self.scale = float(getattr(text_config, "logit_scale", None) or 1.0)
        self.scale /= float(getattr(text_config, "logits_scaling", None) or 1.0)
        self._takes_positions = "position_ids" in signature(self.encoder.forward).parameters
        set_dropout(model, dropout)
        self._check(model)
        if gradient_checkpointing:
            checkpoint_gradients(model)

    def _load(
        self, pretrained: str | None, config: str | dict[str, Any] | None, dtype: torch.dtype, trust: bool
    ) -> Any:
        from transformers import AutoModelForCausalLM

        quantised = pretrained is not None and pretrained.endswith(".gguf")
        if quantised and (find_spec("gguf") is None or find_spec("accelerate") is None):
            raise UserError(
                "network.pretrained", "reading a .gguf file needs more packages", "pip install 'sft-lightning[gguf]'"
            )
        model = load_hf(AutoModelForCausalLM, pretrained, config, self, trust, dtype=dtype).to(dtype)
        if quantised:
            # The loaded model still counts as quantised, which cannot be saved: move its weights to a model that does not.
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            clean = AutoModelForCausalLM.from_config(model.config).to(dtype).eval()
            clean.load_state_dict(model.state_dict())
            clean.generation_config = model.generation_config
            return clean
        return model

    @torch.no_grad()
    def _check(self, model: Any) -> None:
        """Raises UserError if the model's own logits differ from those of encoder and head. Needs evaluation mode."""
        ids = torch.arange(4)[None] % self.task.num_outputs
        x = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        mine, theirs = self(x).logits.float(), model(**x).logits.float()
        if not torch.allclose(mine, theirs, rtol=1e-2, atol=1e-3 + 1e-3 * float(theirs.abs().max())):
            raise UserError(
                "network",
                f"{type(model).__name__} computes its logits in a way that TransformersLM does not support",
                "choose another model",
            )

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec(
            "tokens",
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            why_not_packed=lambda: why_not_apart(self, self.task.num_outputs, self.max_length),
        )

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, T, D]`. If `x` has a layout of packed rows, the encoder runs on these."""
        mask = x["attention_mask"]
        if ROW in x:
            return encode_packed(x, positions(mask), self._encode_rows, self.tokenizer.pad_token_id or 0)
        inputs: dict[str, Any] = {"input_ids": x["input_ids"], "attention_mask": mask, "use_cache": False}
        if self._takes_positions:
            inputs["position_ids"] = positions(mask)
        hidden: Tensor = self.encoder(**inputs).last_hidden_state
        return hidden

    def _encode_rows(self, ids: Tensor, at: Tensor) -> Tensor:
        """`[P, W, D]` of rows that hold several samples, each of which begins at position 0."""
        inputs = {"position_ids": at} if self._takes_positions else {}
        hidden: Tensor = self.encoder(input_ids=ids, use_cache=False, **inputs).last_hidden_state
        return hidden

    def forward(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """One encoder pass; logits only at the positions that `select` marks."""
        output = super().forward(x, select)
        logits = output.logits
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.cap:
            logits = torch.tanh(logits / self.cap) * self.cap
        return output._replace(logits=logits)

    def generate(self, prompt: dict[str, Tensor]) -> list[str]:
        """Continues prompts, which are padded on the left, up to an end token of the training answers or of the tokenizer.

        Prompt and text have at most max_length tokens together, and a text at most half of them; a longer prompt loses its
        beginning, with a warning.
        """
        model, width = self._whole[0], prompt["input_ids"].shape[1]
        stop_at(settings := self.generation.settings(self.tokenizer), list(self.input_view.ends or ()), self.tokenizer)
        if (keep := self.longest_prompt) is not None and self.max_length is not None:
            settings.max_new_tokens = min(settings.max_new_tokens, max(1, self.max_length // 2))
            if width > keep:
                warnings.warn(
                    f"prompts of more than {keep} tokens lose their beginning, to leave room for {settings.max_new_tokens} new "
                    "ones: set network.max_length higher, or network.max_new_tokens lower"
                )
                prompt = {name: values[:, -keep:] for name, values in prompt.items()}
        made = self.generation.run(model, prompt, settings)[:, prompt["input_ids"].shape[1] :]
        texts: list[str] = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return texts

    @property
    def longest_prompt(self) -> int | None:
        """Most tokens of a prompt that loses nothing; None without a limit."""
        if self.max_length is None:
            return None
        new = min(self.generation.settings(self.tokenizer).max_new_tokens, max(1, self.max_length // 2))
        return int(max(1, self.max_length - new))

    def export_config(self) -> dict[str, Any]:
        return {"max_length": self.max_length}

    def save_pretrained(self, folder: str) -> None:
        """Writes a genuine transformers folder with the tokenizer. Its generation stops at the end tokens that were trained."""
        model = self._whole[0]
        stop_at(model.generation_config, list(self.input_view.ends or ()), self.tokenizer)
        hf_export(self, model, folder)
        self.tokenizer.save_pretrained(folder)


def note_new(network: Network, model: Any) -> None:
    """Renames a language model's new tensors as below `encoder.`. With a new output layer, the outputs are not the pretrained
    ones.
    """
    own = {id(t): n for n, t in network.encoder.state_dict(keep_vars=True).items()}
    new = {n: t for n, t in model.state_dict(keep_vars=True).items() if n in network.fresh}
    network.fresh = {own[id(t)] for t in new.values() if id(t) in own}
    if any(t is p for t in new.values() for p in network.head.parameters() if id(p) not in own):
        network.shares_outputs = False
        network.report.notes.append(
            "the output layer is new, because the pretrained weights lack it; outputs cannot be compared with theirs"
        )


def stop_at(settings: Any, ends: list[int], tokenizer: Any) -> None:
    """Adds `ends` to the tokens at which transformers' generation settings stop, and sets the padding token.

    A base model's settings have its end of text only. A model that was tuned with a chat template ends its turns with
    another token (`<|im_end|>`).
    """
    known = settings.eos_token_id
    before = [] if known is None else list(known) if isinstance(known, list | tuple) else [known]
    if not before and tokenizer.eos_token_id is not None:
        before = [tokenizer.eos_token_id]
    stops = list(dict.fromkeys([*ends, *before]))
    settings.eos_token_id = (stops[0] if len(stops) == 1 else stops) if stops else None
    if settings.pad_token_id is None:
        settings.pad_token_id = tokenizer.pad_token_id
