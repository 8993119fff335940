"""Base classes of text data: tokenising for a network, and texts with one label each."""

from dataclasses import replace
from itertools import islice
from typing import Any, ClassVar

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.data.arguments import PositiveInt, check_arguments
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.loaders import training_order
from sft_lightning.data.text.packing import SAMPLED, padding
from sft_lightning.data.text.tokens import Ragged, TextRows, Tokens
from sft_lightning.data.text.unknown import MUCH, unknown_share

__all__ = ["Ragged", "TextData", "TextRows", "TokenData", "Tokens"]

TAKES = {
    "image": "images",
    "masks": "images to segment",
    "audio": "sounds to classify",
    "speech": "speech to write down",
    "text": "texts to classify",
    "tokens": "texts to continue",
    "words": "words to tag",
    "choices": "questions with choices",
    "questions": "questions to answer",
    "pairs": "texts with target texts",
}
"""Names of the samples for each kind of a network's input"""


class TokenData(SFTDataModule, base=True):
    """Base of all text data: tokenises the samples for a network.

    Args:
        max_length: Most tokens of a sample, special ones included; longer samples are truncated; default the network's.
        group_by_length: Make batches of samples of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind: ClassVar[str] = "text"
    packing: bool = False
    """Whether samples of a micro-batch share rows"""

    def __init__(self, max_length: PositiveInt | None = None, group_by_length: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_arguments(TokenData.__init__, locals())
        self.max_length, self.group_by_length = max_length, group_by_length
        self.truncated: dict[str, float] = {}
        """Share of each split's samples that were cut at max_length"""
        self.unknown = 0.0
        """Share of unknown tokens in the training file's texts"""

    def settle(self, spec: InputSpec) -> InputView:
        """Tokenises for a network, and again for a network with another tokenizer."""
        if self.spec is not None and spec.tokenizer is not self.spec.tokenizer:
            self.view = None
        view = super().settle(spec)
        assert self.spec is not None
        self.spec = replace(self.spec, why_not_packed=None)  # which would keep the network in memory
        return view

    def prepare(self, spec: InputSpec) -> InputView:
        """Tokenises every split; a tokenizer that learns its words learns them from the training samples."""
        tokenizer = spec.tokenizer
        if spec.kind != self.kind or tokenizer is None:
            raise UserError(
                "network",
                f"{spec.network} takes {TAKES.get(spec.kind, spec.kind)}, {type(self).__name__} has {TAKES[self.kind]}",
                "choose another network or other data",
            )
        if self.packing:
            self._check_packing(spec)
        length = self._length(spec)
        view = InputView(max_length=length)
        multiple = 8 if self._on_gpu() else 1
        for samples in self._all_samples():
            samples.group_by_length, samples.packing = self.group_by_length, self.packing
            samples.use(tokenizer, length, multiple)
        if not getattr(tokenizer, "fitted", True):
            if "train" not in self.splits:
                return view  # a checkpoint will bring the words
            split = self.splits["train"]
            assert isinstance(split.samples, Tokens)
            tokenizer.fit(split.samples.texts_of(split.rows))
        for samples in self._all_samples():
            samples.ready()
        if "train" in self.splits:
            train = self.splits["train"].samples
            assert isinstance(train, Tokens)
            self.unknown = unknown_share(tokenizer, train.ids.flat)
        for name, split in self.splits.items():
            assert isinstance(split.samples, Tokens)
            self.truncated[name] = float(split.samples.truncated[split.rows].mean())
        return view

    def _check_packing(self, spec: InputSpec) -> None:
        """Raises UserError for a network that cannot keep the samples of a row apart."""
        why = spec.why_not_packed() if spec.why_not_packed is not None else "it takes one sample a row"
        if why:
            raise UserError(
                "data.packing",
                f"the network {spec.network} cannot keep samples in one row apart: {why}",
                "set it to false, or choose another network",
            )
        _, ranks, accumulate = self._world()
        if max(self.batch_size // (ranks * accumulate), self.eval_batch_size or self.batch_size // ranks) < 2:
            raise UserError(
                "data.packing",
                "true has no effect with 1 sample per micro-batch",
                "set data.batch_size higher, or leave it out",
            )

    def _padding(self) -> str:
        """The share of padding in training without and with packing, on the first micro-batches; empty without packing."""
        split = self.splits.get("train")
        if not self.packing or self.view is None or split is None:
            return ""
        assert isinstance(split.samples, Tokens)
        _, ranks, accumulate = self._world()
        order = training_order(split, self.batch_size, 0, ranks, accumulate, self.seed or 0, True)
        lengths = split.samples.ids.lengths[split.rows]
        some = ([lengths[key.position] for key in keys] for keys in islice(order, SAMPLED))
        apart, together = padding(map(np.array, some), self.view.max_length)
        return f"packing: {together:.1%} of the training tokens are padding, instead of {apart:.1%}"

    def _all_samples(self) -> list[Tokens]:
        found = {id(s.samples): s.samples for s in self.splits.values()}
        return [s for s in found.values() if isinstance(s, Tokens)]

    def _length(self, spec: InputSpec) -> int | None:
        if self.max_length is None:
            return spec.max_length
        if spec.max_length is not None and self.max_length > spec.max_length:
            raise UserError(
                "data.max_length",
                f"{self.max_length} is more than the {spec.max_length} tokens that the network takes",
                f"set it to {spec.max_length} or less",
            )
        special = getattr(spec.tokenizer, "num_special_tokens_to_add", lambda pair: 0)(pair=True)
        if self.max_length <= special:
            raise UserError(
                "data.max_length",
                f"{self.max_length} leaves no room for text beside {special} special tokens",
                "set it higher",
            )
        return self.max_length

    def _on_gpu(self) -> bool:
        strategy = getattr(getattr(self, "trainer", None), "strategy", None)
        return bool(strategy is not None and strategy.root_device.type == "cuda")

    def found(self) -> dict[str, Any]:
        """Adds the share of unknown tokens, if it is large."""
        return {**super().found(), **({"unknown_tokens": round(self.unknown, 4)} if self.unknown > MUCH else {})}

    def describe(self) -> str:
        """Adds the shares of samples that were truncated."""
        line = super().describe()
        cut = [f"{share:.1%} of {name}" for name, share in self.truncated.items() if share > 0]
        if cut and self.view is not None:
            line += f"; truncated to {self.view.max_length} tokens: {', '.join(cut)}"
        return "; ".join(part for part in (line, self._padding()) if part)


class TextData(TokenData, base=True):
    """Texts, or pairs of texts, with one label or value each.

    Args:
        max_length: Most tokens of a sample, special ones included; longer samples are truncated; default the network's.
        group_by_length: Make batches of samples of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """
