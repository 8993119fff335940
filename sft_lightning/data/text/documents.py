"""Plain texts as samples: documents of any length as tokens, and the blocks into which they are cut.

A document is `start, text, end`: the tokenizer's token that begins texts (BOS, or EOS as GPT-2 uses it), and EOS. All but the
first token are predicted, each in exactly one block. Each block but a document's first begins with the last token, or the
last `overlap` tokens, of the block before it. They are context, and are not predicted again.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.tokens import CHUNK, Ragged, TextRows, Tokens


def start_and_end(tokenizer: Any) -> tuple[int | None, int | None]:
    """The tokens before and after each document; None for a tokenizer without them."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    return (eos if bos is None else bos), eos


class Documents(TextRows):
    """Whole documents as tokens, each with the number of bytes it stands for.

    Args:
        table: The table that holds them.
        column: The column of texts.
        argument: The key that names the column, for messages.
        end: Whether EOS, at the end of a document, is predicted.
    """

    def __init__(self, table: Table, column: str, argument: str, end: bool) -> None:
        super().__init__(table.texts(column, argument), table=table)
        self.end = end
        self.sizes = Ragged([])
        """Bytes of each token; those of a document add up to its UTF-8 bytes, without those of a first token that nothing
        precedes"""
        self.unpredicted = 0
        """Documents whose first token is not predicted, because the tokenizer has no token that begins texts"""

    def tokenise(self) -> None:
        """Truncates nothing."""
        before, after = start_and_end(self.tokenizer)
        after = after if self.end else None
        ids: list[list[int]] = []
        sizes: list[np.ndarray] = []
        offsets = bool(getattr(self.tokenizer, "is_fast", False))
        for first in range(0, len(self), CHUNK):
            texts = self.texts[first : first + CHUNK]
            made = self.tokenizer(
                texts,
                add_special_tokens=False,
                truncation=False,
                return_attention_mask=False,
                return_offsets_mapping=offsets,
                verbose=False,
            )
            for at, (text, own) in enumerate(zip(texts, made["input_ids"], strict=True)):
                of = bytes_of(text, len(own), made["offset_mapping"][at] if offsets else None)
                ids.append([*([] if before is None else [before]), *own, *([] if after is None else [after])])
                of = np.concatenate([np.zeros(int(before is not None), np.int64), of, [0] * int(after is not None)])
                if not len(own) and after is not None:  # the tokenizer drops all of this text
                    of[-1] = len(text.encode("utf-8", "surrogatepass"))
                of[:1] = 0
                sizes.append(of)
        self.ids, self.truncated = Ragged(ids), np.zeros(len(self), dtype=bool)
        self.sizes = Ragged([of.tolist() for of in sizes], np.int64)
        self.unpredicted = len(self) if before is None else 0


def bytes_of(text: str, tokens: int, offsets: Sequence[tuple[int, int]] | None) -> np.ndarray:
    """UTF-8 bytes for each of a text's tokens, int64; they add up to the bytes of the text.

    A token has the bytes from the end of the tokens before it to its own end, in characters; the last token has the rest. So
    spaces that a tokenizer drops belong to the next token, and a character that is several tokens to the first of them.
    Without offsets, tokens have equal shares.
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    widths = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    ends = np.concatenate([[0], np.cumsum(widths)])
    if not tokens:
        return np.zeros(0, dtype=np.int64)
    if offsets is None:
        reached = np.arange(1, tokens + 1) * int(ends[-1]) // tokens
    else:
        reached = np.maximum.accumulate(ends[np.array(offsets, dtype=np.int64).reshape(-1, 2)[:, 1]])
    reached[-1] = ends[-1]
    return np.diff(reached, prepend=0)


class Blocks(Tokens):
    """The blocks of documents: each token but a document's first is predicted in exactly one of them.

    Args:
        documents: The documents.
        overlap: Tokens of context that a block repeats from the one before, at least 1.
    """

    def __init__(self, documents: Documents, overlap: int) -> None:
        super().__init__(None)
        self.documents, self.overlap = documents, overlap
        self.document = np.zeros(0, dtype=np.int64)
        """The document of each block"""
        self.begin = np.zeros(0, dtype=np.int64)
        """The first token of each block, counted in its document"""
        self.context = np.zeros(0, dtype=np.int64)
        """Tokens at each block's start that are not predicted in it"""
        self.bytes = np.zeros(0, dtype=np.int64)
        """UTF-8 bytes of the tokens predicted in each block"""

    def __len__(self) -> int:
        return len(self.document)

    def tokenise(self) -> None:
        """Cuts the documents into blocks; the last block of a document is shorter."""
        self.documents.ready()
        whole, most = self.documents.ids, self.max_length
        assert most is not None
        lengths = whole.lengths
        more = -(-np.maximum(lengths - most, 0) // (most - self.overlap))
        number = np.where(lengths > 1, 1 + more, 0)
        self.document = np.repeat(np.arange(len(whole)), number)
        place = np.arange(len(self.document)) - np.repeat(np.cumsum(number) - number, number)
        self.begin = place * (most - self.overlap)
        stop = np.minimum(self.begin + most, lengths[self.document])
        self.context = np.where(place > 0, self.overlap, 1)
        starts = (whole.ends - lengths)[self.document]
        self.ids = Ragged.cut(whole.flat, starts + self.begin, starts + stop)
        reached = np.concatenate([[0], np.cumsum(self.documents.sizes.flat)])
        self.bytes = reached[starts + stop] - reached[starts + self.begin + self.context]
        self.truncated = np.zeros(len(self), dtype=bool)

    def rows_of(self, documents: np.ndarray) -> np.ndarray:
        """The blocks of these documents, ascending."""
        return np.flatnonzero(np.isin(self.document, documents))

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """`select[B, T]` at the positions whose next token is predicted; `y` those tokens; `bytes[B]` of their text."""
        x: dict[str, Any] = self.batch(rows)
        ids = x["input_ids"]
        lengths = torch.from_numpy(self.ids.lengths[list(rows)])[:, None]
        place = torch.arange(ids.shape[1])[None] - (ids.shape[1] - lengths if self.left else 0)
        target = (place >= torch.from_numpy(self.context[list(rows)])[:, None]) & (place < lengths)
        select = torch.zeros_like(target)
        select[:, :-1] = target[:, 1:]
        return {
            **x,
            "select": select,
            "y": ids[:, 1:][target[:, 1:]],
            "bytes": torch.from_numpy(self.bytes[list(rows)]),
        }

    def digest(self) -> bytes:
        settings = f"{self.max_length} {self.overlap} {self.documents.end}"
        return sha256(self.documents.digest() + settings.encode()).digest()

    def contents(self) -> np.ndarray:
        """Of the predicted tokens."""
        self.ready()
        said = (content(self.ids[row][self.context[row] :].tobytes()) for row in range(len(self)))
        return np.fromiter(said, dtype=np.uint64, count=len(self))

    def bad_rows(self) -> dict[int, str]:
        return {}

    def name(self, row: int) -> str:
        return f"{self.documents.name(int(self.document[row]))} from token {self.begin[row]}"
