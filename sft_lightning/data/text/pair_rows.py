"""Pairs of texts as samples for an encoder-decoder: source tokens, and target tokens of which each is learned once."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from sft_lightning.core.structures import Texts
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.base import Ragged, Tokens
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.tokens import CHUNK


class PairRows(Tokens):
    """Source texts with target texts.

    Args:
        sources: One for each row.
        references: The texts that would be right, for each row; the first is learned. None if only texts are to be generated.
        table: The table that holds them, to name rows.
        prefix: Written before each source text.
    """

    def __init__(
        self, sources: Sequence[str], references: Sequence[tuple[str, ...]] | None, table: Table, prefix: str = ""
    ) -> None:
        super().__init__(None)
        self.sources, self.prefix, self.table = list(sources), prefix, table
        self.references = None if references is None else list(references)
        self.most: int | None = None
        """Most tokens of a target text"""
        self.target_ids = Ragged([])
        self.cut_targets = np.zeros(0, dtype=bool)
        self._languages: Any = None

    def __len__(self) -> int:
        return len(self.sources)

    def limit_targets(self, most: int | None, languages: Any) -> None:
        """Sets the length of target texts, and the languages with which the tokenizer writes texts."""
        if (most, languages) != (self.most, self._languages):
            self._made_with = None
        self.most, self._languages = most, languages

    def tokenise(self) -> None:
        """Truncates at the end. A target text keeps its end token, so that it is learned."""
        self.ids, self.truncated = self._tokens([self.prefix + text for text in self.sources], self.max_length, {})
        end = self.tokenizer.eos_token_id
        if self.references is None:  # nothing is learned: the decoder needs one token to read
            self.target_ids = Ragged([[0 if end is None else end]] * len(self))
            self.cut_targets = np.zeros(len(self), dtype=bool)
            return
        as_target = {"as_target": True}
        ends = end is None or end in self._call([""], None, **as_target)[0]
        most = self.most if ends or self.most is None else self.most - 1
        texts = [texts[0] if texts else "" for texts in self.references]
        self.target_ids, self.cut_targets = self._tokens(texts, most, as_target, [] if ends else [end])

    def _tokens(
        self, texts: Sequence[str], most: int | None, how: dict[str, bool], last: Sequence[int] = ()
    ) -> tuple[Ragged, np.ndarray]:
        """(tokens of each text, which were truncated to `most`); `last` is written after each."""
        made: list[list[int]] = []
        for start in range(0, len(texts), CHUNK):
            made += self._call(texts[start : start + CHUNK], None, **how)
        cut = np.array([most is not None and len(ids) > most for ids in made], dtype=bool)
        if cut.any():
            rows = np.flatnonzero(cut)
            for row, ids in zip(rows, self._call([texts[int(r)] for r in rows], most, **how), strict=True):
                made[row] = ids
        return Ragged([[*ids, *last] for ids in made]), cut

    def _call(self, texts: Sequence[str], most: int | None, as_target: bool = False) -> list[list[int]]:
        limit: dict[str, Any] = {"truncation": True, "max_length": most} if most else {"truncation": False}
        given: dict[str, Any] = {"text_target": list(texts)} if as_target else {"text": list(texts)}
        found: list[list[int]] = self.tokenizer(**given, **limit, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        return found

    def lengths(self) -> np.ndarray | None:
        self.ready()  # here, before workers are forked
        return self.ids.lengths + self.target_ids.lengths if self.group_by_length else None

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """`target_ids[B, U]`, `select[B, U]` at target tokens, and `y`, these tokens in the same order."""
        x: dict[str, Any] = self.batch(rows)
        lengths = torch.from_numpy(self.target_ids.lengths[list(rows)])
        longest = int(lengths.max())
        width = max(longest, min(-(-longest // self.multiple) * self.multiple, self.most or longest))
        targets = self.target_ids.padded(rows, width, self.tokenizer.pad_token_id or 0, left=False)
        marked = torch.arange(width)[None] < lengths[:, None]
        if self.references is None:
            return {**x, "target_ids": targets, "select": torch.zeros_like(marked)}
        return {**x, "target_ids": targets, "select": marked, "y": targets[marked]}

    def prompts(self, rows: Sequence[int]) -> dict[str, Any]:
        """The source texts, and all their references."""
        return {
            "prompt": self.batch(rows),
            "references": Texts(self.references[r] if self.references else () for r in rows),
        }

    def texts_of(self, rows: Sequence[int] | np.ndarray) -> Iterator[str]:
        """Source texts with their prefix, and the target texts that are learned."""
        for row in rows:
            yield self.prefix + self.sources[row]
            yield from self.references[row][:1] if self.references else ()

    def digest(self) -> bytes:
        said = repr((self.prefix, self.sources, self.references))
        return sha256(said.encode("utf-8", "surrogatepass")).digest()

    def contents(self) -> np.ndarray:
        """Equal for equal source texts, whatever their targets."""
        said = (content(text.encode("utf-8", "surrogatepass")) for text in self.sources)
        return np.fromiter(said, dtype=np.uint64, count=len(self))

    def bad_rows(self) -> dict[int, str]:
        return self.table.bad or {}

    def raw(self, row: int) -> dict[str, Any]:
        return {"text": self.prefix + self.sources[row]}

    def name(self, row: int) -> str:
        return self.table.name(row)
