"""Base of data with a tag for each word: finds the tags' scheme, and reads a user's own texts to predict on."""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.text.base import TokenData
from sft_lightning.data.text.notes import together
from sft_lightning.data.text.own_texts import AS_COLUMNS, holds_texts, how_split, read_texts
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.split_words import SplitWords
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.tasks.schemes import OUTSIDE, irregular, is_prefixed, recognise, scheme_of, type_of, types_of

SPELLED = re.compile(r"[BIESLUM]_.+|.+[-_][BIESLUM]|[bieslum][-_].+|[BIESLUM]")
"""Tags of entities as some write them: B_PER, PER-B, b-per, and B without a type"""
Scheme = Literal["IOB1", "IOB2", "IOBES", "BILOU"]


class TaggedData(TokenData, base=True):
    """Words with one tag each. Entities are measured if the tags have a scheme, otherwise words alone.

    The scheme is recognised from the training tags. `predict` also takes plain texts: a .txt file with one a line, or a
    table with a column of texts. Predictions on these have the place of each word and entity in the text.

    Args:
        train: File with the training sentences.
        val: File with the validation sentences; default a share of the training sentences.
        test: File with the test sentences.
        predict: File to predict on: sentences without tags in the same format, or texts (.txt, .csv, .tsv, .json, .jsonl,
            .parquet).
        labels: All tags in order; default those that the file names, else those of the training sentences, O first.
        scheme: Scheme of the tags of entities; default the one recognised.
        text_column: Column of the texts to predict on; default text.
        split_words: Where the texts to predict on are split into words: at white space and punctuation, or at white space
            alone; default punctuation.
        max_length: Most tokens of a sentence, special ones included; words beyond it are counted, and are in no loss and no
            metric; default the network's.
        group_by_length: Make batches of sentences of similar length, to save padding.
        types: Types of entities that count; words of others are tagged O. Default all.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind = "words"
    task_name = "token_classification"
    reader: ClassVar[str] = "file"
    """What reads a file to predict on that holds no texts, for messages"""

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        labels: list[str] | None = None,
        scheme: Scheme | None = None,
        text_column: str | None = None,
        split_words: SplitWords | None = None,
        max_length: int | None = None,
        group_by_length: bool = True,
        types: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length=max_length, group_by_length=group_by_length, **kwargs)
        check_arguments(TaggedData.__init__, locals())
        self.types = types
        self.files = {"train": train, "val": val, "test": test, "predict": predict}
        self.labels, self.scheme, self.text_column, self.split_words = labels, scheme, text_column, split_words
        if labels is not None and len(set(labels)) < len(labels):
            raise UserError("data.labels", f"names a tag twice: {', '.join(labels)}", "name each tag once")
        if self.classes is not None:
            raise UserError("data.classes", "cannot choose sentences, which have many tags", "use data.types")

    @abstractmethod
    def read(self, split: str, file: str, tagged: bool = True) -> Sentences:
        """Reads a split's file; `data.SPLIT` is the key of its errors."""

    def read_all(self) -> dict[str, Sentences]:
        """The sentences of each split."""
        if self.files["train"] is None:
            raise UserError("data.train", "must be given", "set it to a file with the training sentences")
        named = {name: file for name, file in self.files.items() if file is not None and name != "predict"}
        return {name: self.read(name, file) for name, file in named.items()}

    def load(self) -> Splits:
        read = self.read_all()
        train = read["train"]
        used = [train.tags[row] for row in train.good()]
        labels = self.labels or train.names or in_order({tag for tags in used for tag in tags})
        for name, sentences in read.items():
            check_tags(sentences, labels, name, self.labels is not None)
        scheme = self._scheme(labels, used)
        if self.types is not None:
            labels = self._of_types(labels, scheme, read)
        if scheme:
            for sentences in read.values():
                for row in sentences.good():
                    for what in irregular(sentences.tags[row], scheme):
                        sentences.notes.add(what, sentences.name(row))
        about = dict.fromkeys(line for sentences in read.values() for line in sentences.about)
        notes = [*scheme_notes(labels, scheme), *about, *together(sentences.notes for sentences in read.values())]
        rows = {name: TaggedRows(sentences, labels, scheme) for name, sentences in read.items()}
        return Splits(rows["train"], rows.get("val"), rows.get("test"), list(labels), notes)

    def _scheme(self, labels: Sequence[str], sentences: Sequence[Sequence[str]]) -> str:
        """The tags' scheme. Raises UserError if `scheme` names one that they do not have."""
        found = recognise(labels, sentences)
        if self.scheme is None or self.scheme == found:
            return found
        if not found or scheme_of(labels) != self.scheme.replace("IOB1", "IOB2"):
            odd = next((t for t in labels if t != OUTSIDE and not (found and is_prefixed(t))), "")
            why = f"the tag '{odd}' has none" if odd else f"the tags {', '.join(labels[:5])} have {found or 'none'}"
            raise UserError("data.scheme", f"is {self.scheme}, but {why}", "leave it null")
        return self.scheme

    def _of_types(self, labels: Sequence[str], scheme: str, read: dict[str, Sentences]) -> list[str]:
        """The tags of `types`. Words of entities of other types are tagged O, and counted."""
        assert self.types is not None
        if not scheme or OUTSIDE not in labels:
            why = "have no scheme for entities" if not scheme else "have no O for words outside of entities"
            raise UserError("data.types", f"is set, but the tags {', '.join(labels[:5])} {why}", "leave it null")
        for name in self.types:
            if name not in types_of(labels):
                problem = f"there is no type '{name}'{nearest(name, types_of(labels))}"
                raise UserError("data.types", problem, f"choose from {', '.join(types_of(labels))}")
        for sentences in read.values():
            for row in sentences.good():
                for at, tag in enumerate(sentences.tags[row]):
                    if tag != OUTSIDE and type_of(tag) not in self.types:
                        sentences.tags[row][at] = OUTSIDE
                        sentences.notes.add(f"a word of the type {type_of(tag)} is tagged O", sentences.name(row))
        return [tag for tag in labels if tag == OUTSIDE or type_of(tag) in self.types]

    def _share_out(self, loaded: Splits) -> None:
        super()._share_out(loaded)
        assert self.task_info is not None
        check_several(loaded, self.fewest_classes)
        if getattr(loaded.train, "scheme", "") == "IOB1":  # labels tell every other scheme
            self.task_info = replace(self.task_info, scheme="IOB1")

    # ---- a user's own texts ----

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict` without tags."""
        file = self.files["predict"]
        if file is None:
            return None
        by_column = holds_texts(file) and not self.reads_table(file)
        if by_column:
            sentences = read_texts(file, self.text_column, self.split_words or "punctuation", self.skips)
        else:
            sentences = self.read("predict", file, tagged=False)
        if sentences.texts is None:
            for option in ("text_column", "split_words"):
                if getattr(self, option) is not None and not (option == "text_column" and by_column):
                    raise UserError(
                        f"data.{option}", f"has no effect on {file}, whose words are given", "leave it null"
                    )
        how = [] if sentences.texts is None else [how_split(self.split_words or "punctuation")]
        if not how and known_suffix(file, ".txt"):
            how = [AS_COLUMNS]
        self.notes = [*how, *sentences.about, *sentences.notes.lines()]
        return TaggedRows(sentences, None)

    def reads_table(self, file: str) -> bool:
        """Whether a table to predict on is in the data's own format."""
        return False

    # ---- saying what it is ----

    def describe(self) -> str:
        """Adds the scheme, the words that are beyond max_length, and those that became the unknown token."""
        line = super().describe()
        train = self.splits.get("train")
        if self.task_info is not None and train is not None and isinstance(train.samples, TaggedRows):
            if scheme := train.samples.scheme:
                line += f"; {plural(len(types_of(self.task_info.labels)), 'type')} of entities in {scheme}"
            if self.shots_per_class is not None:
                line += f"; at least {plural(self.shots_per_class, 'sentence')} of each type"
        for name, split in self.splits.items():
            samples = split.samples
            assert isinstance(samples, TaggedRows)
            if lost := int(samples.lost[split.rows].sum()) if len(samples.lost) else 0:
                use = "which get no tag" if name == "predict" else "in no loss and no metric"
                line += f"; {plural(lost, 'word')} of {name} beyond max_length, {use}"
        if unwritten := sum(s.unwritten for s in self._all_samples() if isinstance(s, TaggedRows)):
            line += f"; {plural(unwritten, 'word')} without a piece became the unknown token"
        return line


def in_order(tags: set[str]) -> list[str]:
    """O first, then by type, B before I."""
    return sorted(tags, key=lambda tag: (tag != OUTSIDE, tag.partition("-")[2], tag))


def scheme_notes(labels: Sequence[str], scheme: str) -> list[str]:
    """A note on how entities are read, if the tags say too little, or that entities are not measured."""
    if scheme == "IOB1":
        return ["tags are read as IOB1, in which I- begins most entities (data.scheme says otherwise)"]
    if labels and all(tag.isdecimal() for tag in labels):
        return [f"entities are not measured: tags such as {labels[-1]!r} are numbers, taken as names (write the names)"]
    others = [tag for tag in labels if tag.upper() != OUTSIDE]
    if not scheme and others and all(SPELLED.fullmatch(tag) for tag in others):
        return [
            f"entities are not measured: tags such as {others[0]!r} have a scheme in another spelling (write B-PER, I-PER)"
        ]
    if scheme or not any(is_prefixed(tag) for tag in labels):
        return []
    odd = [tag for tag in labels if tag != OUTSIDE and not is_prefixed(tag)]
    why = f"the tag {odd[0]!r} is" if odd else f"the tags {', '.join(labels[:5])} are"
    return [f"entities are not measured: {why} not of a known scheme (IOB1, IOB2, IOBES, BILOU)"]


def check_tags(sentences: Sentences, labels: Sequence[str], split: str, given: bool) -> None:
    """Refuses a sentence with a tag that is not among `labels`; if `given`, these come from data.labels."""
    known = set(labels)
    for row in sentences.good():
        tag = next((tag for tag in sentences.tags[row] if tag not in known), None)
        if tag is not None:
            lacking = "data.labels lacks" if given else "the training sentences lack"
            problem = (
                f"the sentence at {sentences.name(row)} has the tag '{tag}', which {lacking}{nearest(tag, labels)}"
            )
            sentences.refuse(row, UserError(f"data.{split}", problem, "correct it, or set data.labels to all tags"))


def check_several(loaded: Splits, fewest: int) -> None:
    """Raises UserError for tags of which there are fewer than `fewest`, one or two: nothing could be learned."""
    if len(loaded.labels) < fewest:
        assert isinstance(loaded.train, TaggedRows)
        found = f"1 tag ({loaded.labels[0]})" if loaded.labels else "no tags"
        where = loaded.train.sentences.where
        raise UserError("data", f"{where} has {found}, but at least {fewest} are needed", "name another column of tags")


def known_suffix(file: str, *suffixes: str) -> bool:
    """Whether a file's name ends so."""
    return Path(file).suffix.lower() in suffixes
