"""Sentences with a list of words and a list of tags in each row: JSONL, JSON, parquet, CSV, TSV, or a data set on the hub."""

from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.split_column import divided
from sft_lightning.data.text.cell_lists import as_lists
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.files import DELIMITED, FORMATS, Table, check_hub, hub_tables, read_table
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.own_texts import check_words
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.split_words import SplitWords
from sft_lightning.data.text.tagged import Scheme, TaggedData, known_suffix


class TaggedTable(TaggedData):
    """Words with one tag each from tables whose rows have a list of words and a list of tags, or from the hub.

    The cells of a .csv or .tsv are lists as JSON, Python or numpy writes them, or words with blanks between them. Tags are
    names. Numbers need names too: those of the file (a `ClassLabel` of datasets), else `labels`.

    Args:
        path: Name of a data set on the hub, where its splits train, validation and test are taken; null for files.
        config: Which of the hub data set's configurations.
        train: File with the training sentences (.json, .jsonl, .parquet, .csv, .tsv).
        val: File with the validation sentences; default a share of the training sentences.
        test: File with the test sentences.
        predict: File to predict on; it needs no tags, and predicting needs no training data. It may also hold texts, one a
            line (.txt) or in a table (.csv, .tsv, .json, .jsonl, .parquet).
        token_column: Column with the lists of words.
        tag_column: Column with the lists of tags.
        labels: All tags in order; default the names that the file gives, else those of the training sentences, O first.
        scheme: Scheme of the tags of entities; default the one recognised.
        text_column: Column of the texts to predict on; default text.
        split_words: Where texts to predict on are split into words: at white space and punctuation, or at white space alone;
            default punctuation.
        max_length: Most tokens of a sentence, special ones included; words beyond it are counted, and are in no loss and no
            metric; default the network's.
        group_by_length: Make batches of sentences of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits. `shots_per_class` counts sentences with each type of entity.
    """

    def __init__(
        self,
        path: str | None = None,
        config: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        token_column: str = "tokens",
        tag_column: str = "tags",
        labels: list[str] | None = None,
        scheme: Scheme | None = None,
        text_column: str | None = None,
        split_words: SplitWords | None = None,
        max_length: int | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            train, val, test, predict, labels, scheme, text_column, split_words, max_length, group_by_length, **kwargs
        )
        self.path, self.config, self.token_column, self.tag_column = path, config, token_column, tag_column
        if path is not None and train is not None:
            raise UserError(
                "data", "path (a data set on the hub) and train (a file) are both set", "set only one of them"
            )
        check_hub(self.path, self.config, self.files)

    def read_all(self) -> dict[str, Sentences]:
        """The sentences of each split, from files or the hub."""
        if self.path is None and self.files["train"] is None:
            return super().read_all()  # which raises
        if self.path is None:
            named = {name: file for name, file in self.files.items() if file is not None and name != "predict"}
            tables = {name: read_table(file, f"data.{name}", self.skips) for name, file in named.items()}
            tables = divided(tables, self.token_column, self.tag_column)
            return {name: self._of_table(table) for name, table in tables.items()}
        hub = hub_tables(self.path, self.config, skip=self.skips)
        if "train" not in hub:
            raise UserError(
                "data.path", f"{self.path} has no split train, only {', '.join(hub)}", "use another data set"
            )
        ours = {"train": "train", "val": "validation", "test": "test"}
        return {name: self._of_table(hub[theirs]) for name, theirs in ours.items() if theirs in hub}

    def read(self, split: str, file: str, tagged: bool = True) -> Sentences:
        """Reads a table; with `on_bad_sample: skip`, rows that cannot be used are left out."""
        return self._of_table(read_table(file, f"data.{split}", self.skips), tagged)

    def reads_table(self, file: str) -> bool:
        """Whether a table to predict on has the column of words."""
        return (
            known_suffix(file, *FORMATS)
            and self.text_column is None
            and self.token_column in read_table(file, "data.predict", True).columns
        )

    def _of_table(self, table: Table, tagged: bool = True) -> Sentences:
        words = table.column(self.token_column, "data.token_column")
        tags = table.column(self.tag_column, "data.tag_column") if tagged else [None] * len(table)
        names = table.names.get(self.tag_column)
        found = Sentences(table.where, self.skips)
        found.about += table.notes
        if known_suffix(table.where, *DELIMITED):
            words, how = as_lists(words)
            found.about.append(f"{table.where}: column '{self.token_column}' holds {how}")
            if tagged:
                tags, how = as_lists(tags)
                found.about.append(f"{table.where}: column '{self.tag_column}' holds {how}")
        found.unit, found.names = "line" if table.lines else "row", names
        for row, (said, marked) in enumerate(zip(words, tags, strict=True)):
            found.add([], [], table.lines[row] if table.lines else row)
            where = found.name(row)
            try:
                if why := (table.bad or {}).get(row):
                    raise UserError("data", f"{where}: {why}")
                if missing(said):
                    raise UserError("data", f"{where}: column '{self.token_column}' has no value", "remove the row")
                found.words[row] = check_words(said, self.token_column, where)
                found.tags[row] = (
                    self._tags(marked, len(said), names or self.labels, where, found.notes)
                    if tagged
                    else [""] * len(said)
                )
            except UserError as error:
                found.refuse(row, error)
        return found

    def _tags(self, tags: Any, words: int, names: list[str] | None, where: str, notes: Notes) -> list[str]:
        """The names of a row's tags. Raises UserError unless each word has a tag, and each number a name."""
        if not isinstance(tags, list):
            kind = "no value" if missing(tags) else f"{tags!r:.40}, not a list of tags"
            raise UserError("data", f"{where}: column '{self.tag_column}' has {kind}", "write a tag for each word")
        if len(tags) != words:
            problem = f"{where} has {plural(len(tags), 'tag')} for {plural(words, 'word')}"
            raise UserError("data", problem, "write one tag for each word")
        return [self._name(tag, at, names, where, notes) for at, tag in enumerate(tags)]

    def _name(self, tag: Any, at: int, names: list[str] | None, where: str, notes: Notes) -> str:
        if isinstance(tag, str) and tag.strip():
            if tag != tag.strip():
                notes.add("white space around a tag is left out", where)
            return tag.strip()
        if isinstance(tag, int | float) and not isinstance(tag, bool) and float(tag).is_integer():
            if names is None:
                problem = f"{where}: tag {at} is the number {tag:g}, and the file does not name the tags"
                raise UserError("data.labels", problem, "set data.labels to all tags in the order of their numbers")
            if 0 <= tag < len(names):
                return names[int(tag)]
            raise UserError("data", f"{where}: tag {at} is {tag:g}, but tags are 0 to {len(names) - 1}", "correct it")
        kind = "empty" if tag == "" or tag is None else f"{tag!r:.40}, not a name or a number"
        raise UserError("data", f"{where}: tag {at} is {kind}", "write a tag for each word")
