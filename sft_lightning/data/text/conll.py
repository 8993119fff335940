"""Sentences with one tag for each word, in columns: one word a line, a blank line after each sentence (CoNLL)."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.base import Ragged, TokenData, Tokens
from sft_lightning.data.text.utf8 import not_utf8, open_text
from sft_lightning.tasks.token_classification import OUTSIDE, has_scheme

BLANK = " \t\r\n"  # of a line between sentences; a word may be another space, such as U+00A0
DOCUMENT = "-DOCSTART-"
RANGE = re.compile(
    r"\d+[-.]\d+(\t[^\t]*){9}$"
)  # CoNLL-U's ten columns: words written as one, and words that are not written
ENTITY_METRICS = ("entity_f1", "entity_precision", "entity_recall", "token_accuracy")


class Sentences:
    """A file's sentences: words, tags, and the line on which each begins.

    Args:
        path: The file.
        key: The option that names it, for messages.
        columns: Which columns hold word and tag, from 0; negative from the right.
        tagged: Whether there are tags to read.
    """

    def __init__(self, path: str, key: str, columns: tuple[int, int], tagged: bool = True) -> None:
        self.where = path
        self.words: list[list[str]] = []
        self.tags: list[list[str]] = []
        self.lines: list[int] = []
        self.comments = self.ranges = 0
        place, inside = Path(path).expanduser(), False
        if not place.is_file():
            here = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
            raise UserError(f"{key}: {path} does not exist{nearest(place.name, here)}")
        lines = read_lines(place)
        full = [line for line in lines if line.strip(BLANK)]
        tabs = 2 * sum("\t" in line.strip(BLANK) for line in full) > len(full)
        for number, line in enumerate(lines, 1):
            cells = line.strip(BLANK)
            if not cells or (not inside and cells.replace("\t", " ").split(" ")[0] == DOCUMENT):
                inside = False
            elif not inside and is_comment(cells, tabs):
                self.comments += 1
            elif RANGE.match(cells):
                self.ranges += 1
            else:
                word, tag = self._cells(line.rstrip("\r\n"), number, columns, tagged)
                if not inside:
                    self.lines.append(number)
                    self.words.append([])
                    self.tags.append([])
                    inside = True
                self.words[-1].append(word)
                self.tags[-1].append(tag)
        if not self.words:
            raise UserError(f"{key}: {path} has no sentences")

    @classmethod
    def of(cls, words: list[list[str]], where: str) -> "Sentences":
        """Sentences in memory, without tags."""
        made = cls.__new__(cls)
        made.where, made.words, made.comments, made.ranges = where, words, 0, 0
        made.tags, made.lines = [[""] * len(w) for w in words], list(range(1, len(words) + 1))
        return made

    def _cells(self, line: str, number: int, columns: tuple[int, int], tagged: bool) -> tuple[str, str]:
        cells = [c.strip(" ") for c in line.split("\t")] if "\t" in line else [c for c in line.split(" ") if c]
        if tagged and len(cells) < 2:
            raise UserError(f"data: {self.where} line {number} has one column, so no tag: {line!r:.40}: add the tag")
        try:
            word, tag = cells[columns[0]], cells[columns[1]] if tagged else ""
        except IndexError:
            asked = columns[0] if not -len(cells) <= columns[0] < len(cells) else columns[1]
            raise UserError(
                f"data: {self.where} line {number} has {len(cells)} columns, no column {asked}: mend the line, or set "
                "data.word_column and data.tag_column"
            ) from None
        for what, value in (("word", word), *([("tag", tag)] if tagged else [])):
            if not value.strip(BLANK):
                raise UserError(f"data: {self.where} line {number}: the {what} is empty: fill it, or remove the line")
        return word, tag

    def name(self, row: int) -> str:
        """`train.conll line 7`."""
        return f"{self.where} line {self.lines[row]}"


def is_comment(line: str, tabs: bool) -> bool:
    """Whether a line before a sentence is a comment, as CoNLL-U has: `# name = value`, or `# …` in a file that `tabs` separate.

    Where spaces separate, `# O` is a word with its tag.
    """
    return line.startswith("# ") and "\t" not in line and (tabs or re.match(r"# [\w.:-]+ = ", line) is not None)


def read_lines(path: Path) -> list[str]:
    """A UTF-8 file's lines. Raises UserError that names the first wrong byte."""
    try:
        with open_text(path, strict=True) as file:
            return re.split("\r*\n|\r", file.read())
    except UnicodeDecodeError:
        raise not_utf8(path) from None
    except OSError as error:
        raise UserError(f"data: {path} cannot be read: {error}") from None


class TaggedRows(Tokens):
    """Sentences as word pieces; the first piece of each word is its item.

    Args:
        sentences: Where they come from.
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
        """Words of each row behind max_length, which are in no loss and no metric"""
        self.unwritten = 0
        """Words that the tokenizer makes nothing of, and that stand as its unknown token"""

    def __len__(self) -> int:
        return len(self.sentences.words)

    def tokenise(self) -> None:
        """Truncates at the end."""
        cut: dict[str, Any] = {"truncation": True, "max_length": self.max_length} if self.max_length else {}
        ids, first, tags, lost = [], [], [], []
        self.unwritten = 0
        for row, words in enumerate(self.sentences.words):
            made = self._pieces(words)
            whole = made["input_ids"]
            if self.max_length is not None and len(whole) > self.max_length:
                made = self.tokenizer(self._written, is_split_into_words=True, verbose=False, **cut)
            of = made.word_ids()
            begins = [int(w is not None and w not in of[:at]) for at, w in enumerate(of)]
            seen = sorted({w for w in of if w is not None})
            ids.append(made["input_ids"])
            first.append(begins)
            tags.append([int(self.tags[row][w]) for w in seen])
            lost.append(len(words) - len(seen))
        self.ids, self.first, self.kept_tags = Ragged(ids), Ragged(first, np.int8), Ragged(tags)
        self.lost = np.array(lost, dtype=np.int64)
        self.truncated = self.lost > 0

    def _pieces(self, words: list[str]) -> Any:
        """The whole sentence; a word that has no piece, such as a lone zero-width space, becomes the unknown token."""
        self._written = words
        made = self.tokenizer(words, is_split_into_words=True, verbose=False, truncation=False)
        silent = set(range(len(words))) - {w for w in made.word_ids() if w is not None}
        if silent:
            instead = self.tokenizer.unk_token or self.tokenizer.eos_token
            self.unwritten += len(silent)
            self._written = [instead if at in silent else word for at, word in enumerate(words)]
            made = self.tokenizer(self._written, is_split_into_words=True, verbose=False, truncation=False)
        return made

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

    def name(self, row: int) -> str:
        return self.sentences.name(row)


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
        max_length: Most tokens of a sentence, special ones included; words behind it are in no loss and no metric, which is
            said. Default the network's.
        group_by_length: Make batches of sentences of like length, so that little is padded.
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
            raise UserError(f"data.labels names a tag twice: {', '.join(labels)}")
        if self.on_bad_sample != "fail":
            raise UserError(
                "data.on_bad_sample: skip is not for CoNLL, where a wrong line may break a sentence: mend the line"
            )
        for option in ("classes", "shots_per_class"):
            if getattr(self, option) is not None:
                raise UserError(f"data.{option}: a sentence has many tags; use data.train_fraction")

    def load(self) -> Splits:
        if self.files["train"] is None:
            raise UserError("data: CoNLL needs train, a file")
        read = {
            name: Sentences(file, f"data.{name}", self.columns)
            for name, file in self.files.items()
            if file is not None and name != "predict"
        }
        labels = self.labels or in_order({tag for tags in read["train"].tags for tag in tags})
        for name, sentences in read.items():
            check_tags(sentences, labels, name)
        notes = [note for sentences in read.values() for note in notes_on(sentences)]
        if not has_scheme(labels) and any(tag[:2] in ("B-", "I-") for tag in labels):
            odd = next(tag for tag in labels if tag != OUTSIDE and tag[:2] not in ("B-", "I-"))
            notes.append(f"entities are not measured: the tag {odd!r} is not O, B-type or I-type")
        rows = {name: TaggedRows(sentences, labels) for name, sentences in read.items()}
        return Splits(rows["train"], rows.get("val"), rows.get("test"), labels, notes)

    def setup(self, stage: str = "fit") -> None:
        """Loads; tags with a scheme are measured by entities."""
        super().setup(stage)
        if self.task_info is not None and has_scheme(self.task_info.labels):
            self.task_info = replace(self.task_info, metrics=list(ENTITY_METRICS))

    def load_for_prediction(self) -> Samples | None:
        """The file `predict`, its tags unread."""
        file = self.files["predict"]
        return None if file is None else TaggedRows(Sentences(file, "data.predict", self.columns, tagged=False), None)

    def describe(self) -> str:
        """With the words that are lost, or that the tokenizer does not know to write."""
        line = super().describe()
        for name, split in self.splits.items():
            samples = split.samples
            assert isinstance(samples, TaggedRows)
            if lost := int(samples.lost[split.rows].sum()) if len(samples.lost) else 0:
                line += f"; {lost} words of {name} lie behind max_length and count nowhere"
        if unwritten := sum(s.unwritten for s in self._all_samples() if isinstance(s, TaggedRows)):
            line += f"; {unwritten} words have no piece of their own and stand as the unknown token"
        return line


def in_order(tags: set[str]) -> list[str]:
    """O first, then by type, B before I."""
    return sorted(tags, key=lambda tag: (tag != OUTSIDE, tag.partition("-")[2], tag))


def check_tags(sentences: Sentences, labels: Sequence[str], split: str) -> None:
    """Raises UserError for a tag that is not among the classes."""
    known = set(labels)
    for row, tags in enumerate(sentences.tags):
        for tag in tags:
            if tag not in known:
                where = "data.labels" if split == "train" else "the training sentences"
                raise UserError(
                    f"data.{split}: the sentence at {sentences.name(row)} has the tag '{tag}'{nearest(tag, labels)}, which "
                    f"{where} lack: correct it, or set data.labels to all tags"
                )


def notes_on(sentences: Sentences) -> list[str]:
    """What was left out, or may surprise: comments, and I- tags that continue no entity of their type."""
    notes = []
    if sentences.comments:
        notes.append(f"{sentences.where}: {sentences.comments} comment lines are left out")
    if sentences.ranges:
        notes.append(f"{sentences.where}: {sentences.ranges} lines of ranges and empty nodes (1-2, 8.1) are left out")
    found: Counter[str] = Counter()
    for tags in sentences.tags:
        for before, tag in zip([OUTSIDE, *tags[:-1]], tags, strict=True):
            if tag.startswith("I-") and before[2:] != tag[2:]:
                found[tag] += 1
    if found:
        count, kinds = sum(found.values()), ", ".join(found)
        notes.append(f"{sentences.where}: {count} I- tags follow no tag of their type, and begin an entity ({kinds})")
    return notes
