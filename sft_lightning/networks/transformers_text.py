"""Any text encoder or decoder of transformers, with a new head on one vector per text."""

from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import fresh_linear, set_dropout
from sft_lightning.networks.hf import find, hf_export, load_hf, split_head, user_errors
from sft_lightning.networks.joint_head import plain_head
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.vocabulary import check_words, has_tokenizer, has_words, no_tokenizer
from sft_lightning.networks.weights import Source

HEAD = "sft_head."
"""Prefix of the head's names in exports with our own pooling"""
WEIGHTS = "model.safetensors"


class TransformersText(Network):
    """A pretrained text model of transformers with a new output layer.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory; null for random ones.
        config: For random weights, a folder or hub name with a config.json, or the settings themselves with model_type.
        tokenizer: Folder or hub name of the tokenizer; default the one that comes with pretrained.
        pooling: How a text becomes one vector: model as the pretrained model does it before its own output layer, mean
            of the tokens, cls the first token, last the last one; except for model, encoder-decoders use the encoder
            alone.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        max_length: Most tokens the network takes; default what the tokenizer and the positions allow.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    library = "transformers"

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        tokenizer: str | None = None,
        pooling: Literal["model", "mean", "cls", "last"] = "model",
        dropout: float | None = None,
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        keep_source_head: bool | Literal["source"] = True,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from transformers import AutoModel, AutoModelForSequenceClassification

        if pooling not in ("model", "mean", "cls", "last"):
            raise UserError("network.pooling", f"must be model, mean, cls or last, got '{pooling}'")
        ours = find(pretrained, self).ours if pretrained is not None else {}
        if pooling == "model":  # an export of ours keeps its pooling
            pooling = (ours.get("init_args") or {}).get("pooling", "model")
        self.pooling: str = pooling
        self.head_name: str | None = None
        self.encodes_alone = False
        if pooling == "model":
            model = load_hf(AutoModelForSequenceClassification, pretrained, config, self, trust_remote_code)
            self.head_name = split_head(self, model, keep_source_head is True)
            if self.head_name == "score":  # a decoder scores each token, and the last score counts
                self.pooling = "last"
        else:
            model = load_hf(AutoModel, pretrained, config, self, trust_remote_code, trim=self._drop_decoder)
            self._own_head(model, ours, pretrained, keep_source_head is True)
        if (
            keep_source_head == "source"
            and (exported := (ours.get("init_args") or {}).get("pooling", "model")) != pooling
        ):
            raise UserError(
                "network.keep_source_head",
                f"the kept source head was trained with pooling {exported}, and network.init_args.pooling is {pooling}",
                f"set pooling to {exported}, or use false",
            )
        take_source_head(self, pretrained, keep_source_head)
        self.encoder = model
        self.tokenizer = load_tokenizer(tokenizer or pretrained, self, trust_remote_code)
        if self.encodes_alone or not decodes(model):
            # An encoder counts positions, and takes its vector, from the beginning of the row.
            self.tokenizer.padding_side = "right"
        check_vocabulary(self.tokenizer, model)
        if model.config.pad_token_id is None or self.head_name == "score":  # transformers needs it in exports
            model.config.pad_token_id = self.tokenizer.pad_token_id
        self.max_length = token_limit(self.tokenizer, model, max_length)
        set_dropout(model, dropout)
        if gradient_checkpointing:
            checkpoint_gradients(model)
        self.body = "encoder" if self.encodes_alone else model.base_model_prefix if self.head_name == "score" else ""
        self.at_end = self.pooling == "model" and pools_at_end(model)
        takes = signature((model.get_submodule(self.body) if self.body else model).forward).parameters
        self._takes_types, self._takes_positions = "token_type_ids" in takes, "position_ids" in takes and decodes(model)

    def _drop_decoder(self, model: Any) -> None:
        """Removes the decoder of an encoder-decoder, which is not used here and would get no gradient."""
        if all(isinstance(getattr(model, part, None), nn.Module) for part in ("encoder", "decoder")):
            del model.decoder
            self.encodes_alone = True

    def _own_head(self, model: Any, ours: dict[str, Any], pretrained: str | None, keep: bool) -> None:
        """Sets a head on our own pooling; the source head comes from an export of ours, if there is one."""
        if getattr(model, "pooler", None) is not None:  # it would get no gradient
            model.pooler = None
            self.fresh = {n for n in self.fresh if not n.startswith("pooler.")}
            self.report.missing = [n for n in self.report.missing if not n.startswith("pooler.")]
        width = int(model.config.get_text_config().hidden_size)
        self.head = fresh_linear(width, self.task.num_outputs)
        self.report.unexpected = [n for n in self.report.unexpected if not n.startswith(HEAD)]
        same = (ours.get("init_args") or {}).get("pooling") == self.pooling
        if pretrained is None or not (keep and same):
            return
        folder = find(pretrained, self).folder
        state = load_file(folder / WEIGHTS) if folder is not None else {}
        if f"{HEAD}weight" in state:
            old = nn.Linear(width, len(state[f"{HEAD}bias"]))
            old.load_state_dict({n: state[HEAD + n] for n in ("weight", "bias")})
            task = ours.get("task", {})
            self.keep_source_head(old, list(task.get("labels", [])), task.get("name"))

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec("text", tokenizer=self.tokenizer, max_length=self.max_length)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, D]`"""
        ids, mask = x["input_ids"], x["attention_mask"]
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self._takes_types and "token_type_ids" in x:
            inputs["token_type_ids"] = x["token_type_ids"]
        if self._takes_positions:
            inputs["position_ids"] = positions(mask)
        if self.at_end:
            return at_last_end(self.encoder, inputs)
        if self.pooling == "model":
            logits: Tensor = self.encoder(**inputs).logits
            return logits
        model = self.encoder.get_submodule(self.body) if self.body else self.encoder
        return pool(model(**inputs).last_hidden_state, mask, self.pooling)

    def export_config(self) -> dict[str, Any]:
        own = {} if self.head_name is not None else {"pooling": self.pooling}
        return {**own, "max_length": self.max_length}

    def save_pretrained(self, folder: str) -> None:
        """Writes a genuine transformers folder. With our own pooling it holds the encoder, and the head under `sft_head.`."""
        hf_export(self, self.encoder, folder, self.head_name)
        if self.head_name is None:
            path = Path(folder) / WEIGHTS
            head = {HEAD + n: v.detach().cpu().contiguous() for n, v in plain_head(self.head).state_dict().items()}
            save_file({**load_file(path), **head}, path, metadata={"format": "pt"})
        self.tokenizer.save_pretrained(folder)


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """`hidden[B, T, D]` to `[B, D]` over the tokens that `mask[B, T]` keeps, whichever side is padded."""
    rows = torch.arange(len(hidden), device=hidden.device)
    if pooling == "mean":
        weights = mask[:, :, None].to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    if pooling == "cls":
        return hidden[rows, mask.argmax(-1)]
    return hidden[rows, (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1)]


def pools_at_end(model: Any) -> bool:
    """Whether a model's own pooling takes the decoder's vector at the end token, as in BART and T5."""
    return bool(model.config.is_encoder_decoder and hasattr(model, "classification_head"))


def at_last_end(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The model's own pooling and head at the last end token of each row: `[B, D]`.

    transformers' forward does the same, but refuses a batch whose rows have unequal numbers of end tokens.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    shifted = {"decoder_input_ids": model._shift_right(ids)} if hasattr(model, "_shift_right") else {}
    hidden = getattr(model, model.base_model_prefix)(**inputs, **shifted, use_cache=False)[0]
    end = model.config.eos_token_id
    ends = ids.eq(end[0] if isinstance(end, list) else end) & mask.bool()
    vector = pool(hidden, torch.where(ends.any(-1, keepdim=True), ends.to(mask.dtype), mask), "last")
    features: Tensor = model.classification_head(vector)
    return features


def positions(mask: Tensor) -> Tensor:
    """Position of each token, counted from the first real one, so that padding on the left has no effect: `[B, T]`."""
    here = torch.arange(mask.shape[1], device=mask.device)
    return (here[None] - mask.argmax(-1, keepdim=True)).clamp(min=0)


# ---- what text networks share ----


def load_tokenizer(name: str | None, network: Network, trust: bool = False) -> Any:
    """Loads the tokenizer of a folder, a run directory, a .gguf file or the hub, and makes sure of a padding token."""
    from transformers import AutoTokenizer

    if name is None:
        raise UserError(
            "network.tokenizer",
            f"{type(network).__name__} needs a tokenizer, because pretrained is null",
            "set it to a folder or hub name",
        )
    here = Path(name).expanduser()
    # A folder may hold a tokenizer without a network.
    alone = here.is_dir() and has_tokenizer(here) and not (here / "config.json").is_file()
    source = Source(name, folder=here) if alone else find(name, network)
    extra: dict[str, Any] = {}
    if source.file is not None and source.file.suffix == ".gguf":
        extra["gguf_file"] = source.file.name
    elif source.file is not None:
        raise UserError("network.tokenizer", f"{name} is a state dict alone", "set it to a folder or hub name")
    if source.folder is not None and not extra and not has_tokenizer(source.folder):
        raise no_tokenizer(name)
    try:
        with user_errors("network.tokenizer", name, type(network).__name__):
            tokenizer = AutoTokenizer.from_pretrained(
                source.hub or str(source.folder), trust_remote_code=trust, **extra
            )
    except UserError:
        if source.folder is not None and not extra and not has_words(source.folder):
            raise no_tokenizer(name) from None
        raise
    check_words(tokenizer, name)
    if tokenizer.pad_token is None:
        if (instead := tokenizer.eos_token or tokenizer.unk_token) is None:
            raise UserError("network.tokenizer", f"{name} has neither a padding nor an end token", "choose another one")
        tokenizer.pad_token = instead
    return tokenizer


def check_vocabulary(tokenizer: Any, model: Any) -> None:
    """Raises UserError if the model lacks embeddings for some of the tokenizer's ids."""
    rows = model.get_input_embeddings().num_embeddings
    if (last := max(tokenizer.get_vocab().values(), default=0)) >= rows:
        raise UserError(
            "network.tokenizer",
            f"its ids go up to {last}, and the network has embeddings for {rows} ids",
            f"set network.init_args.config.vocab_size to {last + 1}, or choose the tokenizer that belongs to the network",
        )


def token_limit(tokenizer: Any, model: Any, wanted: int | None) -> int | None:
    """Most tokens the network takes: `wanted`, or the smaller of the tokenizer's limit and the number of positions."""
    table = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    absolute = [
        m for n, m in model.named_modules() if n.endswith("position_embeddings") and isinstance(m, nn.Embedding)
    ]
    if absolute and absolute[0].padding_idx is not None:  # RoBERTa and similar models count from padding_idx + 1
        table = absolute[0].num_embeddings - absolute[0].padding_idx - 1
    positions = table if isinstance(table, int) and table > 0 else None
    if wanted is not None:
        if wanted < 1:
            raise UserError("network.max_length", f"must be at least 1 token, got {wanted}")
        if positions is not None and wanted > positions:
            raise UserError(
                "network.max_length",
                f"{wanted} is more than the {positions} positions of the model",
                f"set it to {positions} or less",
            )
        return wanted
    said = tokenizer.model_max_length
    limits = [n for n in (said if said and said < 10**9 else None, positions) if n]
    return min(limits) if limits else None


def checkpoint_gradients(model: Any) -> None:
    """Recomputes activations in the backward pass."""
    if not model.supports_gradient_checkpointing:
        raise UserError(
            "network.gradient_checkpointing", f"{type(model).__name__} does not support it", "set it to false"
        )
    if hasattr(model, "activation_checkpointing_enable"):  # the newer name in transformers
        model.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.gradient_checkpointing_enable({"use_reentrant": False})


def decodes(model: Any) -> bool:
    """Whether the architecture is a decoder alone, which may be padded on the left."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    return type(model.config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(model.config) not in MODEL_FOR_MASKED_LM_MAPPING
