"""Texts as token ids: tokenised once, padded to the longest of each batch."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sft_lightning.core import cache
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.samples import Samples
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.packing import layout

CHUNK = 4096  # texts per call of the tokenizer: enough for its threads, few enough for memory


class Ragged:
    """Rows of integers of different lengths in one flat array: small, and cheap to share with workers."""

    def __init__(self, rows: Sequence[Sequence[int]], dtype: Any = np.int32) -> None:
        self.lengths = np.array([len(r) for r in rows], dtype=np.int64)
        self.ends = np.cumsum(self.lengths)
        self.flat = np.fromiter((v for r in rows for v in r), dtype=dtype, count=int(self.lengths.sum()))

    @classmethod
    def cut(cls, flat: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> "Ragged":
        """Rows `flat[start:end]`, which may overlap and share the array's memory."""
        made = cls.__new__(cls)
        made.flat, made.lengths, made.ends = flat, ends - starts, ends
        return made

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.flat[self.ends[row] - self.lengths[row] : self.ends[row]]

    def padded(self, rows: Sequence[int], width: int, fill: int, left: bool) -> Tensor:
        """`[B, width]` int64."""
        out = np.full((len(rows), width), fill, dtype=np.int64)
        for at, row in enumerate(rows):
            values = self[row]
            start = width - len(values) if left else 0
            out[at, start : start + len(values)] = values
        return torch.from_numpy(out)


def identity(tokenizer: Any) -> object:
    """A value that is equal for tokenizers that make the same tokens; the tokenizer itself if that is unknown."""
    if not cache.DATA.on or not hasattr(tokenizer, "backend_tokenizer"):
        return tokenizer
    sides = (
        tuple(tokenizer.model_input_names),
        tokenizer.padding_side,
        tokenizer.truncation_side,
        tokenizer.chat_template,
    )
    return type(tokenizer).__name__, tokenizer.backend_tokenizer.to_str(), repr(tokenizer.special_tokens_map), *sides


class Tokens(Samples):
    """Samples that become token ids once a tokenizer is known.

    Tokenising waits for the first use, since a tokenizer may still have to learn its words (a checkpoint brings them). It
    is repeated if its words change.
    """

    group_by_length = True
    packing = False
    """Whether batches say how samples share rows"""

    def __init__(self, targets: np.ndarray | None) -> None:
        self.targets = targets
        self.tokenizer: Any = None
        self.max_length: int | None = None
        self.multiple = 1
        self.ids = Ragged([])
        self.types: Ragged | None = None
        """Token types; None if the tokenizer gives none"""
        self.truncated = np.zeros(0, dtype=bool)
        self._made_with: Any = None
        self._made_by: Any = None

    def use(self, tokenizer: Any, max_length: int | None, multiple: int = 1) -> None:
        """Sets the tokenizer and lengths. Keeps tokens that the same settings made in another run of a study."""
        made_by = (identity(tokenizer), max_length)
        if not cache.DATA.on or made_by != self._made_by:
            self._made_with = None
        self.tokenizer, self.max_length, self.multiple, self._made_by = tokenizer, max_length, multiple, made_by

    def forget(self) -> None:
        """Forgets the tokens, as the texts are others than they were made of."""
        self._made_with = self._made_by = None

    def ready(self) -> None:
        """Tokenises, unless the tokens are up to date."""
        state = getattr(self.tokenizer, "state", 0)
        if self._made_with != (state,):
            self.tokenise()
            self._made_with = (state,)

    @abstractmethod
    def tokenise(self) -> None:
        """Sets `ids`, `types` and `truncated`, one for each row."""

    def texts_of(self, rows: Sequence[int] | np.ndarray) -> Iterator[str]:
        """The texts of these rows, from which a tokenizer learns its words."""
        raise NotImplementedError(f"{type(self).__name__} does not give its texts to a tokenizer")

    def lengths(self) -> np.ndarray | None:
        self.ready()  # here, before workers are forked
        return self.ids.lengths if self.group_by_length else None

    def width(self, rows: Sequence[int]) -> int:
        """Tokens of the longest row, rounded up to a multiple that suits the device, at most `max_length`."""
        longest = max(1, int(self.ids.lengths[list(rows)].max()))
        rounded = -(-longest // self.multiple) * self.multiple
        return max(longest, min(rounded, self.max_length or rounded))

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and any `token_type_ids`: `[B, T]`, padded on the tokenizer's side.

        With packing, `packed_row` and `packed_start` `[B]` say where a network puts each sample.
        """
        self.ready()
        left, width = self.left, self.width(rows)
        mask = torch.arange(width)[None] < torch.from_numpy(self.ids.lengths[list(rows)])[:, None]
        fill = self.tokenizer.pad_token_id or 0
        x = {
            "input_ids": self.ids.padded(rows, width, fill, left),
            "attention_mask": (mask.flip(-1) if left else mask).long(),
        }
        if self.types is not None:
            x["token_type_ids"] = self.types.padded(rows, width, 0, left)
        if self.packing:
            lengths = self.ids.lengths[list(rows)]
            row, start = layout(lengths.tolist(), self.max_length or int(lengths.max()))
            x |= {"packed_row": torch.from_numpy(row), "packed_start": torch.from_numpy(start)}
        return x

    def shown(self, row: int) -> dict[str, Any]:
        """The text that its tokens stand for."""
        if not hasattr(self.tokenizer, "decode"):
            return {}
        return {"text": self.tokenizer.decode(self.ids[row].tolist(), skip_special_tokens=True)}

    @property
    def left(self) -> bool:
        return bool(getattr(self.tokenizer, "padding_side", "right") == "left")


class TextRows(Tokens):
    """Texts, or pairs of texts.

    Args:
        texts: One for each row.
        pairs: Second texts, if rows are pairs.
        targets: Class numbers or values.
        table: The table that holds them, to name rows.
    """

    def __init__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        targets: np.ndarray | None = None,
        table: Table | None = None,
    ) -> None:
        super().__init__(targets)
        self.texts, self.pairs, self.table = list(texts), None if pairs is None else list(pairs), table
        self._contents: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def tokenise(self) -> None:
        """Truncates pairs from the longer text's end."""
        ids: list[list[int]] = []
        types: list[list[int]] = []
        self.truncated = np.zeros(len(self), dtype=bool)
        for start in range(0, len(self), CHUNK):
            rows = range(start, min(start + CHUNK, len(self)))
            made = self._call(rows, self.max_length)
            ids += made["input_ids"]
            types += made.get("token_type_ids", [])
            full = [r for r in rows if len(ids[r]) == self.max_length]
            if full:
                longer = [len(i) > len(ids[r]) for r, i in zip(full, self._call(full, None)["input_ids"], strict=True)]
                self.truncated[full] = longer
        self.ids, self.types = Ragged(ids), Ragged(types, np.int8) if types else None

    def _call(self, rows: Sequence[int], max_length: int | None) -> Any:
        texts, pairs = [self.texts[r] for r in rows], self.pairs and [self.pairs[r] for r in rows]
        cut: dict[str, Any] = {"truncation": True, "max_length": max_length} if max_length else {"truncation": False}
        return self.tokenizer(texts, pairs, **cut, return_attention_mask=False, verbose=False)

    def rewritten(self, write: Callable[[list[str], int], list[str]], rows: Sequence[int]) -> "TextRows | None":
        if type(self) is not TextRows:
            return None
        made = copy(self)
        made.forget()
        made._contents = None
        made.texts, made.pairs = list(self.texts), None if self.pairs is None else list(self.pairs)
        for row in rows:
            both = [self.texts[row], *(self.pairs[row : row + 1] if self.pairs is not None else [])]
            made.texts[row], *second = write(both, row)
            if made.pairs is not None:
                made.pairs[row] = second[0]
        return made

    def texts_of(self, rows: Sequence[int] | np.ndarray) -> Iterator[str]:
        return (t for r in rows for t in (self.texts[r], *(self.pairs[r : r + 1] if self.pairs else ())))

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        return self.batch(rows)

    def shown(self, row: int) -> dict[str, Any]:
        """The text, or both of a pair, in lines of their own."""
        return {"text": "\n".join(texts[row] for texts in (self.texts, self.pairs) if texts is not None)}

    def raw(self, row: int) -> dict[str, Any]:
        return {"text": self.texts[row], **({"pair": self.pairs[row]} if self.pairs is not None else {})}

    def digest(self) -> bytes:
        digest = sha256()
        for text in [*self.texts, *(self.pairs or [])]:
            raw = text.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little") + raw)
        return digest.digest()

    def contents(self) -> np.ndarray:
        if self._contents is None:
            pairs = self.pairs or [""] * len(self)
            both = (
                (t.encode("utf-8", "surrogatepass"), p.encode("utf-8", "surrogatepass"))
                for t, p in zip(self.texts, pairs, strict=True)
            )
            self._contents = np.fromiter((content(*texts) for texts in both), dtype=np.uint64, count=len(self))
        return self._contents

    def bad_rows(self) -> dict[int, str]:
        return (self.table.bad or {}) if self.table is not None else {}

    def name(self, row: int) -> str:
        return self.table.name(row) if self.table is not None else super().name(row)
