"""Your own questions with choices, one of which is right, from files or the hub."""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.base import TextRows, TokenData, Tokens
from sft_lightning.data.text.choice_table import MEANS, Choices, find_reader, read_choices, right_ones
from sft_lightning.data.text.files import Table, hub_tables, read_table
from sft_lightning.data.text.labels import all_unlabelled
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.table import no_labels


class ChoiceRows(Tokens):
    """Questions with their choices: each choice is one row of input, read together with its question.

    Args:
        questions: One for each sample.
        choices: The choices of each sample; none in samples that are left out.
        targets: The place of the right choice; None for unlabelled samples.
        table: The table that holds them, to name rows.
    """

    one_item_each = True

    def __init__(
        self, questions: Sequence[str], choices: Sequence[Choices], targets: np.ndarray | None, table: Table
    ) -> None:
        super().__init__(targets)
        self.questions, self.choices, self.table = list(questions), [c.texts for c in choices], table
        self.counts = np.array([len(texts) for texts in self.choices], dtype=np.int64)
        self.ends = np.cumsum(self.counts)
        asked = [q for q, texts in zip(self.questions, self.choices, strict=True) for _ in texts]
        self.pairs = TextRows(asked, [text for texts in self.choices for text in texts])

    def __len__(self) -> int:
        return len(self.questions)

    def tokenise(self) -> None:
        """As pairs (question, choice), truncated from the longer text's end; `ids` and `types` have a row for each choice."""
        self.pairs.use(self.tokenizer, self.max_length, self.multiple)
        self.pairs.tokenise()
        self.ids, self.types = self.pairs.ids, self.pairs.types
        of_choice = np.repeat(np.arange(len(self)), self.counts)
        self.truncated = np.bincount(of_choice[self.pairs.truncated], minlength=len(self)) > 0

    def lengths(self) -> np.ndarray | None:
        """Tokens of each sample's longest choice."""
        if super().lengths() is None:
            return None
        longest = np.zeros(len(self), dtype=np.int64)
        np.maximum.at(longest, np.repeat(np.arange(len(self)), self.counts), self.ids.lengths)
        return longest

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """Inputs `[B, K, T]` for up to K choices, and `select[B, K]`, the choices that there are; others are padding."""
        self.ready()
        flat = self.batch([int(at) for row in rows for at in range(self.ends[row] - self.counts[row], self.ends[row])])
        counts = torch.from_numpy(self.counts[list(rows)])
        there = torch.arange(int(counts.max()))[None] < counts[:, None]
        x: dict[str, Any] = {"select": there}
        for name, values in flat.items():
            fill = (self.tokenizer.pad_token_id or 0) if name == "input_ids" else 0
            x[name] = values.new_full((*there.shape, values.shape[1]), fill)
            x[name][there] = values
        return x

    def digest(self) -> bytes:
        held = list(zip(self.questions, self.choices, strict=True))
        return sha256(repr(held).encode("utf-8", "surrogatepass")).digest()

    def contents(self) -> np.ndarray:
        every = ([question, *texts] for question, texts in zip(self.questions, self.choices, strict=True))
        made = (content(*(text.encode("utf-8", "surrogatepass") for text in texts)) for texts in every)
        return np.fromiter(made, dtype=np.uint64, count=len(self))

    def bad_rows(self) -> dict[int, str]:
        return self.table.bad or {}

    def name(self, row: int) -> str:
        return self.table.name(row)

    def completed(self, row: int, prediction: dict[str, Any]) -> dict[str, Any]:
        """Adds the text of the chosen choice."""
        return {**prediction, "text": self.choices[row][prediction["choice"]]}


class MultipleChoice(TokenData):
    """Questions with two or more choices, one of which is right, from files or the hub.

    Questions may have different numbers of choices. A choice is read together with its question, and with the context before
    it if there is one.

    Args:
        path: Name of a data set on the hub, where its splits train, validation and test are taken; null for files.
        config: Which of the hub data set's configurations.
        train: File with the training samples (.csv, .tsv, .json, .jsonl, .parquet).
        val: File with the validation samples; default a share of the training samples.
        test: File with the test samples.
        predict: File to predict on; it needs no labels, and predicting needs no training data.
        question_column: Column with the questions.
        context_column: Column with a text that stands before the question; null for none.
        choices_column: Column with lists of choices; default choices.
        choice_columns: Columns with one choice each, in order, in place of a list.
        label_column: Column that names the right choice.
        label_is: How labels name a choice: its place from 0, its letter from A, or its text; auto takes what fits.
        max_length: Most tokens of a question with a choice, special ones included; longer ones are truncated; default the
            network's.
        group_by_length: Make batches of samples of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind = "choices"
    task_name = "multiple_choice"

    def __init__(
        self,
        path: str | None = None,
        config: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        question_column: str = "question",
        context_column: str | None = None,
        choices_column: str | None = None,
        choice_columns: list[str] | None = None,
        label_column: str = "label",
        label_is: Literal["auto", "index", "letter", "text"] = "auto",
        max_length: int | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_length=max_length, group_by_length=group_by_length, **kwargs)
        check_arguments(MultipleChoice.__init__, locals())
        self.path, self.config, self.label_column, self.label_is = path, config, label_column, label_is
        self.files = {"train": train, "val": val, "test": test, "predict": predict}
        self.question_column, self.context_column = question_column, context_column
        self.choices_column, self.choice_columns = choices_column or "choices", choice_columns
        if path is not None and train is not None:
            raise UserError(
                "data", "path (a data set on the hub) and train (a file) are both set", "set only one of them"
            )
        if choices_column is not None and choice_columns is not None:
            raise UserError("data.choices_column", "has no effect with data.choice_columns", "set only one of the two")
        if choice_columns is not None and len(set(choice_columns)) < max(2, len(choice_columns)):
            raise UserError(
                "data.choice_columns",
                f"must name at least 2 different columns, got {', '.join(choice_columns) or 'none'}",
                "name one column for each choice",
            )
        for option in ("classes", "shots_per_class"):
            if getattr(self, option) is not None:
                raise UserError(
                    f"data.{option}", "needs classes, and each question has its own choices", "use data.train_fraction"
                )

    def count_outputs(self, labels: list[str], loaded: Splits) -> int:
        """One score for each choice."""
        return 1

    def _tables(self) -> dict[str, Table]:
        if self.path is not None:
            hub = hub_tables(self.path, self.config, skip=self.skips)
            if "train" not in hub:
                raise UserError(
                    "data.path", f"{self.path} has no split train, only {', '.join(hub)}", "use another data set"
                )
            ours = {"train": "train", "val": "validation", "test": "test"}
            tables = {name: hub[theirs] for name, theirs in ours.items() if theirs in hub}
            if "test" in tables and all_unlabelled(tables["test"], self.label_column):
                tables["train"].notes.append(f"{tables.pop('test').where} has no labels, and is left out")
            return tables
        if self.files["train"] is None:
            raise UserError(
                "data", "MultipleChoice needs train (a file) or path (a data set on the hub)", "set one of them"
            )
        named = {n: f for n, f in self.files.items() if f is not None and n != "predict"}
        tables = {n: read_table(f, f"data.{n}", self.skips) for n, f in named.items()}
        for name, table in tables.items():
            if name != "train" and all_unlabelled(table, self.label_column):
                raise no_labels(name, table, self.label_column)
        return tables

    def load(self) -> Splits:
        tables, notes, how = self._tables(), Notes(), str(self.label_is)
        rows, said = dict[str, ChoiceRows](), list[str]()
        for name, table in tables.items():
            questions = self._questions_of(table)
            choices = read_choices(table, self.choice_columns, self.choices_column, notes)
            if how == "auto":  # the training file comes first
                found = find_reader(table, self.label_column, choices)
                said.append(
                    f"labels in column '{self.label_column}' are read as {MEANS[found]} (data.label_is {found})"
                )
                how = found
            targets = right_ones(table, self.label_column, choices, how)
            rows[name] = ChoiceRows(questions, choices, targets, table)
        said += dict.fromkeys(note for table in tables.values() for note in table.notes)
        return Splits(rows["train"], rows.get("val"), rows.get("test"), [], [*said, *notes.lines()])

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict` without its labels."""
        file = self.files["predict"]
        if file is None:
            return None
        table = read_table(file, "data.predict", self.skips)
        questions = self._questions_of(table)
        return ChoiceRows(
            questions, read_choices(table, self.choice_columns, self.choices_column, Notes()), None, table
        )

    def _questions_of(self, table: Table) -> list[str]:
        questions = table.texts(self.question_column, "data.question_column")
        if self.context_column is None:
            return questions
        contexts = table.texts(self.context_column, "data.context_column")
        return [f"{context} {question}" for context, question in zip(contexts, questions, strict=True)]

    def describe(self) -> str:
        """Adds the numbers of choices, and the share of the most frequent place of the right one in validation."""
        line = super().describe()
        split = self.splits.get("train") or self.splits["predict"]
        assert isinstance(split.samples, ChoiceRows)
        numbers = sorted(Counter(split.samples.counts[split.rows].tolist()).items())
        line += "; " + ", ".join(f"{plural(n, 'question')} with {k} choices" for k, n in numbers[:4])
        line += ", …" if len(numbers) > 4 else ""
        val = self.splits.get("val")
        if val is None or val.targets is None:
            return line
        return f"{line}; the most frequent place is right in {np.bincount(val.targets).max() / len(val):.2f} of val"
