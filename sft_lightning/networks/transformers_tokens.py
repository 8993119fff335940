"""Any token classifier of transformers: a pretrained encoder with a new output layer on each token."""

from dataclasses import replace
from inspect import signature
from typing import Any, ClassVar, Literal

from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.hf import hf_export, load_hf, split_head
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.transformers_text import (
    check_vocabulary,
    checkpoint_gradients,
    decodes,
    load_tokenizer,
    positions,
    token_limit,
)
from sft_lightning.networks.transforms import Transform


class TransformersTokens(Network):
    """A pretrained text model of transformers that tags words: one output for each token that the data select.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory; null for random ones.
        config: For random weights, a folder or hub name with a config.json, or the settings themselves with model_type.
        tokenizer: Folder or hub name of the tokenizer; default the one that comes with pretrained.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        max_length: Most tokens the network takes; default what the tokenizer and the positions allow.
        gradient_checkpointing: Recompute activations in the backward pass, to save memory.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks: ClassVar[tuple[str, ...]] = ("token_classification",)
    library = "transformers"

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        tokenizer: str | None = None,
        dropout: float | None = None,
        max_length: int | None = None,
        gradient_checkpointing: bool = False,
        keep_source_head: bool | Literal["source"] = True,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from transformers import AutoModelForTokenClassification

        model = load_hf(AutoModelForTokenClassification, pretrained, config, self, trust_remote_code)
        self.head_name = split_head(self, model, keep_source_head is True and was_tagger(model))
        if self.source_task is not None:
            self.source_task = replace(self.source_task, name=task.name)
        take_source_head(self, pretrained, keep_source_head)
        self.encoder = model
        self.tokenizer = by_word(load_tokenizer(tokenizer or pretrained, self, trust_remote_code))
        if not decodes(model):  # an encoder counts positions from the beginning of the row
            self.tokenizer.padding_side = "right"
        check_vocabulary(self.tokenizer, model)
        self.max_length = token_limit(self.tokenizer, model, max_length)
        set_dropout(model, dropout)
        if gradient_checkpointing:
            checkpoint_gradients(model)
        takes = signature(model.forward).parameters
        self._takes_types, self._takes_positions = "token_type_ids" in takes, "position_ids" in takes and decodes(model)

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec("words", tokenizer=self.tokenizer, max_length=self.max_length)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, T, D]`"""
        inputs = {"input_ids": x["input_ids"], "attention_mask": x["attention_mask"]}
        if self._takes_types and "token_type_ids" in x:
            inputs["token_type_ids"] = x["token_type_ids"]
        if self._takes_positions:
            inputs["position_ids"] = positions(x["attention_mask"])
        features: Tensor = self.encoder(**inputs).logits
        return features

    def export_config(self) -> dict[str, Any]:
        return {"max_length": self.max_length}

    def save_pretrained(self, folder: str) -> None:
        """Writes a genuine transformers folder with the tokenizer."""
        hf_export(self, self.encoder, folder, self.head_name)
        self.tokenizer.save_pretrained(folder)


def was_tagger(model: Any) -> bool:
    """Whether pretrained weights are a token classifier's, or do not say: a text classifier's layer may have its name."""
    saved_as = str((getattr(model.config, "architectures", None) or ["ForTokenClassification"])[0])
    return saved_as.endswith("ForTokenClassification")


def by_word(tokenizer: Any) -> Any:
    """Sets the tokenizer up for sentences as lists of words. Raises UserError if it cannot map pieces to words."""
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "network.tokenizer",
            f"{type(tokenizer).__name__} does not map pieces to words",
            "choose a fast tokenizer",
        )
    before = tokenizer.backend_tokenizer.pre_tokenizer
    if hasattr(before, "add_prefix_space") and not before.add_prefix_space:
        # Byte pairs: treat the first word like all others.
        before.add_prefix_space = True
        tokenizer.add_prefix_space = True
    return tokenizer
