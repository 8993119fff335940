"""Sentences with a tag for each word, as word pieces."""

from collections.abc import Callable, Sequence
from copy import copy
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.own_texts import located
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.tokens import CHUNK, Ragged, Tokens
from sft_lightning.tasks.schemes import OUTSIDE, scheme_of, type_of


class TaggedRows(Tokens):
    """Sentences as word pieces; the first piece of each word is its item.

    Args:
        sentences: The sentences of a file.
        labels: The tags, in class order; None for sentences without tags.
        scheme: The tags' scheme; empty for none.
    """

    def __init__(self, sentences: Sentences, labels: Sequence[str] | None, scheme: str = "") -> None:
        super().__init__(None)
        self.sentences, self.tagged, self.scheme = sentences, labels is not None, scheme
        numbers = {tag: number for number, tag in enumerate(labels or [])}
        bad = sentences.bad or {}
        self.tags = Ragged(
            [
                [0] * len(words) if row in bad or not numbers else [numbers[t] for t in tags]
                for row, (words, tags) in enumerate(zip(sentences.words, sentences.tags, strict=True))
            ]
        )
        self.first = Ragged([])
        self.kept_tags = Ragged([])
        self.lost = np.zeros(0, dtype=np.int64)
        """Words of each row beyond max_length, which are in no loss and no metric"""
        self.unwritten = 0
        """Words without a token of their own, which the unknown token replaces"""

    def __len__(self) -> int:
        return len(self.sentences.words)

    def tokenise(self) -> None:
        """Truncates at the end."""
        ids: list[list[int]] = []
        types: list[list[int]] = []
        first, tags = [], []
        self.lost, self.unwritten = np.zeros(len(self), dtype=np.int64), 0
        for start in range(0, len(self), CHUNK):
            words = self.sentences.words[start : start + CHUNK]
            made = self._pieces(words)
            ids += made["input_ids"]
            types += made.get("token_type_ids", [])
            for row, of in enumerate(words, start):
                begins = first_pieces(made.word_ids(row - start))
                places = set(begins.values())
                first.append([int(at in places) for at in range(len(ids[row]))])
                tags.append([int(self.tags[row][word]) for word in sorted(begins)])
                self.lost[row] = len(of) - len(begins)
        self.ids, self.types = Ragged(ids), Ragged(types, np.int8) if types else None
        self.first, self.kept_tags, self.truncated = Ragged(first, np.int8), Ragged(tags), self.lost > 0

    def _pieces(self, sentences: list[list[str]]) -> Any:
        """Tokenises sentences. A word without a piece, such as a lone zero-width space, becomes the unknown token."""
        made = self._call(sentences, None)
        silent = [set(range(len(words))) - first_pieces(made.word_ids(at)).keys() for at, words in enumerate(sentences)]
        longest = max(len(ids) for ids in made["input_ids"])
        if not any(silent) and (self.max_length is None or longest <= self.max_length):
            return made
        self.unwritten += sum(map(len, silent))
        unknown = self.tokenizer.unk_token or self.tokenizer.eos_token
        written = [
            [unknown if at in without else word for at, word in enumerate(words)]
            for words, without in zip(sentences, silent, strict=True)
        ]
        return self._call(written, self.max_length)

    def _call(self, sentences: list[list[str]], max_length: int | None) -> Any:
        cut: dict[str, Any] = {"truncation": True, "max_length": max_length} if max_length else {"truncation": False}
        return self.tokenizer(sentences, is_split_into_words=True, verbose=False, **cut)

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """`select[B, T]` at the first piece of each word; `y` the words' tags, in the same order."""
        x: dict[str, Any] = self.batch(rows)
        x["select"] = self.first.padded(rows, x["input_ids"].shape[1], 0, self.left).bool()
        if self.tagged:
            x["y"] = torch.from_numpy(np.concatenate([self.kept_tags[row] for row in rows]).astype(np.int64))
        return x

    def digest(self) -> bytes:
        said = zip(self.sentences.words, self.sentences.tags, strict=True)
        return sha256(repr(list(said)).encode("utf-8", "surrogatepass")).digest()

    def contents(self) -> np.ndarray:
        said = (content(*(w.encode("utf-8", "surrogatepass") for w in words)) for words in self.sentences.words)
        return np.fromiter(said, dtype=np.uint64, count=len(self))

    def rewritten(self, write: Callable[[list[str], int], list[str]], rows: Sequence[int]) -> "TaggedRows":
        made, made_of = copy(self), copy(self.sentences)
        made.forget()
        made_of.words, made_of.texts, made_of.spans = list(made_of.words), None, []
        for row in rows:
            made_of.words[row] = write(self.sentences.words[row], row)
        made.sentences = made_of
        return made

    def types_in(self) -> list[frozenset[str]]:
        """The types of each sentence's entities; without a scheme, its tags."""
        if self.scheme:
            return [frozenset(type_of(t) for t in tags if t != OUTSIDE) for tags in self.sentences.tags]
        return [frozenset(tags) for tags in self.sentences.tags]

    def bad_rows(self) -> dict[int, str]:
        return self.sentences.bad or {}

    def completed(self, row: int, prediction: dict[str, Any], task: TaskInfo | None) -> dict[str, Any]:
        """Adds the places of words and entities in the text, if the words were split from one, and the line it is on."""
        of = self.sentences
        if of.texts is None:
            return prediction
        in_scheme = bool(task is not None and scheme_of(task.labels))
        return {of.unit: of.lines[row], **located(of.texts[row], of.spans[row], prediction, in_scheme)}

    def shown(self, row: int) -> dict[str, Any]:
        return {"words": self.sentences.words[row]}

    def raw(self, row: int) -> dict[str, Any]:
        """Empty if a word has no token of its own, since a plain tokenizer leaves it out."""
        words = self.sentences.words[row]
        there = {word for word in self._call([words], None).word_ids(0) if word is not None}
        return {"words": words} if len(there) == len(words) else {}

    def name(self, row: int) -> str:
        return self.sentences.name(row)


def first_pieces(word_ids: Sequence[int | None]) -> dict[int, int]:
    """The place of each word's first piece, by the number of the word."""
    places = list(enumerate(word_ids))
    return {word: at for at, word in reversed(places) if word is not None}
