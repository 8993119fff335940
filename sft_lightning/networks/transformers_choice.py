"""Any multiple-choice model of transformers: a pretrained encoder that scores each choice with its question."""

from dataclasses import replace
from inspect import signature
from typing import Any, ClassVar, Literal

from torch import Tensor

from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.hf import hf_export, load_hf, split_head
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.tensors import align
from sft_lightning.networks.transformers_text import (
    check_vocabulary,
    checkpoint_gradients,
    load_tokenizer,
    token_limit,
)
from sft_lightning.networks.transforms import Transform


class TransformersChoice(Network):
    """A pretrained text model of transformers that chooses: one score for each choice, read together with its question.

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

    tasks: ClassVar[tuple[str, ...]] = ("multiple_choice",)
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
        from transformers import AutoModelForMultipleChoice

        model = load_hf(AutoModelForMultipleChoice, pretrained, config, self, trust_remote_code)
        align(model)  # a layer of one output, which scores choices, is rounded by where its weight lies
        self.head_name = split_head(self, model, keep_source_head is True, num_labels=1)
        if self.source_task is not None:
            self.source_task = replace(self.source_task, name=task.name)
        take_source_head(self, pretrained, keep_source_head)
        self.encoder = model
        self.tokenizer = load_tokenizer(tokenizer or pretrained, self, trust_remote_code)
        self.tokenizer.padding_side = "right"  # an encoder counts positions from the beginning of the row
        check_vocabulary(self.tokenizer, model)
        self.max_length = token_limit(self.tokenizer, model, max_length)
        set_dropout(model, dropout)
        if gradient_checkpointing:
            checkpoint_gradients(model)
        self._takes_types = "token_type_ids" in signature(model.forward).parameters

    @property
    def input_spec(self) -> InputSpec:
        return InputSpec("choices", tokenizer=self.tokenizer, max_length=self.max_length)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, K, D]` for the K choices of B questions, 0 for choices that a question lacks: these have padding alone."""
        there = x["attention_mask"].any(-1)
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if self._takes_types else [])]
        # As questions with one choice each: `logits` are the features, since the output layer is split off.
        inputs = {name: x[name][there][:, None] for name in names if name in x}
        found: Tensor = self.encoder(**inputs).logits
        if self._below_new is not None and self._below_new.ndim == 2:
            self._below_new = in_place(self._below_new, there)
        return in_place(found.view(len(inputs["input_ids"]), -1), there)

    def export_config(self) -> dict[str, Any]:
        return {"max_length": self.max_length}

    def save_pretrained(self, folder: str) -> None:
        """Writes a genuine transformers folder with the tokenizer."""
        hf_export(self, self.encoder, folder, self.head_name)
        self.tokenizer.save_pretrained(folder)


def in_place(rows: Tensor, there: Tensor) -> Tensor:
    """`rows[R, D]` at the R places that `there[B, K]` marks, and 0 elsewhere: `[B, K, D]`."""
    if len(rows) == there.numel():
        return rows.view(*there.shape, -1)
    return rows.new_zeros(*there.shape, rows.shape[-1]).masked_scatter(there[..., None], rows)
