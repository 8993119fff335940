"""AG News: 120,000 training and 7,600 test news items (title and first lines) on four topics."""

from typing import Any

from sft_lightning.data.base import Splits
from sft_lightning.data.text.base import TextData, TextRows
from sft_lightning.data.text.files import hub_tables
from sft_lightning.data.text.labels import class_numbers
from sft_lightning.data.text.local_copy import root_table

HUB = "fancyzhx/ag_news"
LABELS = ["World", "Sports", "Business", "Sci/Tech"]


class AGNews(TextData):
    """Topic of a news item (Zhang, Zhao and LeCun 2015).

    Args:
        root: A local clone of the hub's `fancyzhx/ag_news`, or a folder with train.jsonl and test.jsonl (`text`,
            `label`); null to fetch it.
        **kwargs: max_length, group_by_length, subset, split, batches; see TextTable.
    """

    def __init__(self, root: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = root

    def load(self) -> Splits:
        names = ("train", "test")
        if self.root is None:
            tables = hub_tables(HUB, skip=self.skips)
        else:
            tables = {name: root_table(self.root, name, self.skips) for name in names}
        train, test = (
            TextRows(t.texts("text", "data.root"), None, class_numbers(t, "label", LABELS), t)
            for t in (tables[name] for name in names)
        )
        return Splits(train, test=test, labels=LABELS)
