"""Your own questions with choices, one of which is right, from files or the hub."""

from collections import Counter
from typing import Any, Literal

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.split_column import divided
from sft_lightning.data.text.base import TokenData
from sft_lightning.data.text.choice_rows import ChoiceRows
from sft_lightning.data.text.choice_table import MEANS, find_reader, read_choices, right_ones
from sft_lightning.data.text.files import Table, check_hub, hub_tables, read_table
from sft_lightning.data.text.labels import all_unlabelled
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.table import no_labels


class MultipleChoice(TokenData):
    """Questions with two or more choices, one of which is right, from files or the hub.

    Questions may have different numbers of choices. A choice is read together with its question, as the pair (question,
    choice). With a context, the pair is (context, question and choice), and if that is too long only the context is truncated.

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
        max_length: Most tokens of a question with a choice and any context, special ones included; longer ones are truncated;
            default the network's.
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
        check_hub(self.path, self.config, self.files)
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
        used = (self.question_column, self.context_column, self.choices_column, *(self.choice_columns or ()))
        tables = divided(
            {n: read_table(f, f"data.{n}", self.skips) for n, f in named.items()}, self.label_column, *used
        )
        for name, table in list(tables.items()):
            if name != "train" and all_unlabelled(table, self.label_column):
                if name in named:
                    raise no_labels(name, table, self.label_column)
                del tables[name]  # a part of the training file, by its column `split`
                tables["train"].notes.append(f"{table.where}: no row of {name} has a label, so they are left out")
        return tables

    def load(self) -> Splits:
        tables, notes, how = self._tables(), Notes(), str(self.label_is)
        rows, said = dict[str, ChoiceRows](), list[str]()
        for name, table in tables.items():
            asked = self._asked_of(table)
            choices = read_choices(table, self.choice_columns, self.choices_column, notes)
            guessed = how == "auto"
            if guessed:  # the training file comes first
                found = find_reader(table, self.label_column, choices)
                said.append(
                    f"labels in column '{self.label_column}' are read as {MEANS[found]} (data.label_is {found})"
                )
                how = found
            targets = right_ones(table, self.label_column, choices, how)
            if guessed and how == "index" and not (targets == 0).any():
                said[-1] += "; none of them is 0: if they count from 1, subtract 1 from each"
            rows[name] = ChoiceRows(asked[0], choices, targets, table, asked[1])
        said += dict.fromkeys(note for table in tables.values() for note in table.notes)
        return Splits(rows["train"], rows.get("val"), rows.get("test"), [], [*said, *notes.lines()])

    def load_for_prediction(self) -> Samples | None:
        """Reads the file `predict` without its labels."""
        file = self.files["predict"]
        if file is None:
            return None
        table = read_table(file, "data.predict", self.skips)
        questions, contexts = self._asked_of(table)
        choices = read_choices(table, self.choice_columns, self.choices_column, Notes())
        return ChoiceRows(questions, choices, None, table, contexts)

    def _asked_of(self, table: Table) -> tuple[list[str], list[str] | None]:
        """(questions, contexts or None)"""
        questions = table.texts(self.question_column, "data.question_column")
        if self.context_column is None:
            return questions, None
        return questions, table.texts(self.context_column, "data.context_column")

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
