"""GLUE: nine tasks of sentences and sentence pairs, with their official metrics."""

from typing import Any, Literal, NamedTuple

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.base import Splits
from sft_lightning.data.text.base import TextData, TextRows
from sft_lightning.data.text.files import Table, hub_tables
from sft_lightning.data.text.labels import class_numbers
from sft_lightning.data.text.local_copy import root_table

HUB = "nyu-mll/glue"
ENTAILMENT = ["entailment", "not_entailment"]


class Subset(NamedTuple):
    """A task: its columns, labels and official metrics."""

    text: str
    pair: str | None
    labels: list[str]
    metrics: list[str]


SUBSETS = {
    "cola": Subset("sentence", None, ["unacceptable", "acceptable"], ["matthews"]),
    "sst2": Subset("sentence", None, ["negative", "positive"], ["accuracy"]),
    "mrpc": Subset("sentence1", "sentence2", ["not_equivalent", "equivalent"], ["accuracy", "f1"]),
    "qqp": Subset("question1", "question2", ["not_duplicate", "duplicate"], ["accuracy", "f1"]),
    "stsb": Subset("sentence1", "sentence2", [], ["pearson", "spearman"]),
    "mnli": Subset("premise", "hypothesis", ["entailment", "neutral", "contradiction"], ["accuracy"]),
    "qnli": Subset("question", "sentence", ENTAILMENT, ["accuracy"]),
    "rte": Subset("sentence1", "sentence2", ENTAILMENT, ["accuracy"]),
    "wnli": Subset("sentence1", "sentence2", ENTAILMENT[::-1], ["accuracy"]),
}


class GLUE(TextData):
    """One task of GLUE. The labels of its test sets are hidden, so the official validation split is the test split
    here. The validation split, which chooses checkpoints and settings, is cut from the training samples.

    Args:
        subset: Which task; stsb is regression on similarities from 0 to 5, the others are classification.
        root: A local clone of the hub's `nyu-mll/glue` (a folder per task, parquet in it); null to fetch it.
        mismatched: Test MNLI on its mismatched validation split, from other genres than the training samples.
        **kwargs: max_length, group_by_length, subset, split, batches; see TextTable.
    """

    def __init__(
        self,
        subset: Literal["cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"] = "sst2",
        root: str | None = None,
        mismatched: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if subset not in SUBSETS:
            raise UserError(
                "data.subset",
                f"GLUE has no task '{subset}'{nearest(subset, SUBSETS)}",
                f"use one of {', '.join(SUBSETS)}",
            )
        if mismatched and subset != "mnli":
            raise UserError("data.mismatched", f"only subset mnli has this split, {subset} does not", "leave it false")
        self.subset, self.root, self.mismatched = subset, root, mismatched
        self.about = SUBSETS[subset]
        self.task_name = "regression" if subset == "stsb" else "classification"
        self.metrics = self.about.metrics
        self.held_out = "validation"
        if subset == "mnli":
            self.held_out = "validation_mismatched" if mismatched else "validation_matched"

    def load(self) -> Splits:
        if self.root is not None:
            root = f"{self.root}/{self.subset}"
            tables = {name: root_table(root, name, self.skips) for name in ("train", self.held_out)}
        else:
            tables = hub_tables(HUB, self.subset, skip=self.skips)
        return Splits(
            self._rows_of(tables["train"]), test=self._rows_of(tables[self.held_out]), labels=self.about.labels
        )

    def _rows_of(self, table: Table) -> TextRows:
        text, pair = (c and table.texts(c, "data.root", allow_empty=True) for c in (self.about.text, self.about.pair))
        assert text is not None
        if self.about.labels:
            return TextRows(text, pair, class_numbers(table, "label", self.about.labels), table)
        return TextRows(text, pair, table.numbers("label", "data.root"), table)

    def describe(self) -> str:
        """Adds which splits of GLUE the test and validation splits are."""
        return f"{super().describe()}; {self.subset}: test is GLUE's {self.held_out}, val is cut from its train"
