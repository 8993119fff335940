"""Sentences with one tag for each word: named entities, parts of speech, chunks."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.base import Ragged, TokenData, Tokens
from sft_lightning.data.text.notes import together
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.tokens import CHUNK
from sft_lightning.tasks.token_classification import OUTSIDE, has_scheme


class TaggedRows(Tokens):
    """Sentences as word pieces; the first piece of each word is its item.

    Args:
        sentences: The sentences of a file.
        labels: The tags, in class order; None for sentences without tags.
    """

    def __init__(self, sentences: Sentences, labels: Sequence[str] | None) -> None:
        super().__init__(None)
        self.sentences, self.tagged = sentences, labels is not None
        numbers = {tag: number for number, tag in enumerate(labels or [])}
        self.tags = Ragged([[numbers[t] for t in tags] if numbers else [0] * len(tags) for tags in sentences.tags])
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

    def shown(self, row: int) -> dict[str, Any]:
        return {"words": self.sentences.words[row]}

    def name(self, row: int) -> str:
        return self.sentences.name(row)


def first_pieces(word_ids: Sequence[int | None]) -> dict[int, int]:
    """The place of each word's first piece, by the number of the word."""
    places = list(enumerate(word_ids))
    return {word: at for at, word in reversed(places) if word is not None}


class CoNLL(TokenData):
    """Words with one tag each (named entities, parts of speech, chunks) from files in columns.

    Tags B-type, I-type and O are measured by entities (precision, recall, F1 as conlleval defines them), others by words.

    Args:
        train: File with the training sentences.
        val: File with the validation sentences; default a share of the training sentences.
        test: File with the test sentences.
        predict: File to predict on; it needs no tags, and predicting needs no training data.
        word_column: Column of the word, from 0; negative counts from the right.
        tag_column: Column of the tag, from 0; negative counts from the right.
        labels: All tags in order; default those of the training sentences, O first, then sorted.
        max_length: Most tokens of a sentence, special ones included; words beyond it are counted, and are in no loss and no
            metric; default the network's.
        group_by_length: Make batches of sentences of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind = "words"
    task_name = "token_classification"

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        word_column: int = 0,
        tag_column: int = -1,
        labels: list[str] | None = None,
        max_length: int | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length=max_length, group_by_length=group_by_length, **kwargs)
        self.files = {"train": train, "val": val, "test": test, "predict": predict}
        self.columns, self.labels = (word_column, tag_column), labels
        if labels is not None and len(set(labels)) < len(labels):
            raise UserError("data.labels", f"names a tag twice: {', '.join(labels)}", "name each tag once")
        if self.on_bad_sample != "fail":
            raise UserError(
                "data.on_bad_sample",
                f"CoNLL cannot {self.on_bad_sample} samples, since a wrong line may break a sentence",
                "set it to fail, and mend the line",
            )
        for option in ("classes", "shots_per_class"):
            if getattr(self, option) is not None:
                raise UserError(
                    f"data.{option}", "cannot choose sentences, which have many tags", "use data.train_fraction"
                )

    def load(self) -> Splits:
        if self.files["train"] is None:
            raise UserError("data.train", "must be given", "set it to a file with the training sentences")
        read = {
            name: Sentences(file, f"data.{name}", self.columns)
            for name, file in self.files.items()
            if file is not None and name != "predict"
        }
        labels = self.labels or in_order({tag for tags in read["train"].tags for tag in tags})
        for name, sentences in read.items():
            check_tags(sentences, labels, name, self.labels is not None)
        notes = together(sentences.notes for sentences in read.values())
        if not has_scheme(labels) and any(tag[:2] in ("B-", "I-") for tag in labels):
            odd = next(tag for tag in labels if tag != OUTSIDE and tag[:2] not in ("B-", "I-"))
            notes.append(f"entities are not measured: the tag {odd!r} is not O, B-type or I-type")
        rows = {name: TaggedRows(sentences, labels) for name, sentences in read.items()}
        return Splits(rows["train"], rows.get("val"), rows.get("test"), labels, notes)

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict` without its tags."""
        file = self.files["predict"]
        return None if file is None else TaggedRows(Sentences(file, "data.predict", self.columns, tagged=False), None)

    def describe(self) -> str:
        """Adds the words that are beyond max_length, and those that became the unknown token."""
        line = super().describe()
        for name, split in self.splits.items():
            samples = split.samples
            assert isinstance(samples, TaggedRows)
            if lost := int(samples.lost[split.rows].sum()) if len(samples.lost) else 0:
                line += f"; {plural(lost, 'word')} of {name} beyond max_length, in no loss and no metric"
        if unwritten := sum(s.unwritten for s in self._all_samples() if isinstance(s, TaggedRows)):
            line += f"; {plural(unwritten, 'word')} without a piece became the unknown token"
        return line


def in_order(tags: set[str]) -> list[str]:
    """O first, then by type, B before I."""
    return sorted(tags, key=lambda tag: (tag != OUTSIDE, tag.partition("-")[2], tag))


def check_tags(sentences: Sentences, labels: Sequence[str], split: str, given: bool) -> None:
    """Raises UserError for a tag that is not among `labels`; if `given`, these come from data.labels."""
    known = set(labels)
    for row, tags in enumerate(sentences.tags):
        for tag in tags:
            if tag not in known:
                lacking = "data.labels lacks" if given else "the training sentences lack"
                raise UserError(
                    f"data.{split}",
                    f"the sentence at {sentences.name(row)} has the tag '{tag}', which {lacking}{nearest(tag, labels)}",
                    "correct it, or set data.labels to all tags",
                )
