"""TREC: 5,452 training and 500 test questions, by the kind of thing that they ask for: six coarse classes."""

from typing import Any

from sft_lightning.data.base import Splits
from sft_lightning.data.text.base import TextData, TextRows
from sft_lightning.data.text.files import hub_tables
from sft_lightning.data.text.labels import class_numbers
from sft_lightning.data.text.local_copy import root_table

HUB, REVISION = "CogComp/trec", "refs/convert/parquet"  # its main branch is a script, which is never run
JSONL_LABELS = ["DESC", "ENTY", "ABBR", "HUM", "LOC", "NUM"]
HUB_LABELS = ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]


class TREC(TextData):
    """Type of a question (Li and Roth 2002).

    Args:
        root: A folder with train.jsonl and test.jsonl (`text`, `label` in 0 DESC, 1 ENTY, 2 ABBR, 3 HUM, 4 LOC, 5 NUM),
            or a local clone of the parquet branch of the hub's `CogComp/trec`; null to fetch that.
        **kwargs: max_length, group_by_length, subset, split, batches; see TextTable.
    """

    def __init__(self, root: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def load(self) -> Splits:
        names = ("train", "test")
        if self.root is None:
            tables = hub_tables(HUB, revision=REVISION, skip=self.skips)
        else:
            tables = {name: root_table(self.root, name, self.skips) for name in names}
        on_hub = "coarse_label" in tables["train"].columns
        column, labels = ("coarse_label", HUB_LABELS) if on_hub else ("label", JSONL_LABELS)
        train, test = (
            TextRows(t.texts("text", "data.root"), None, class_numbers(t, column, labels), t)
            for t in (tables[name] for name in names)
        )
        return Splits(train, test=test, labels=labels)
