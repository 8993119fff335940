"""IMDB: 25,000 training and 25,000 test film reviews, negative or positive."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import Splits
from sft_lightning.data.text.base import TextData, TextRows
from sft_lightning.data.text.files import Table, hub_tables
from sft_lightning.data.text.labels import class_numbers
from sft_lightning.data.text.local_copy import root_table

HUB = "stanfordnlp/imdb"
LABELS = ["neg", "pos"]


class IMDB(TextData):
    """Sentiment of a film review (Maas et al. 2011). The reviews are long, so max_length matters.

    Args:
        root: The unpacked `aclImdb` folder, a local clone of the hub's `stanfordnlp/imdb`, or a folder with train.jsonl
            and test.jsonl (`text`, `label`); null to fetch it.
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
            tables = {name: self._local(self.root, name) for name in names}
        train, test = (
            TextRows(t.texts("text", "data.root"), None, class_numbers(t, "label", LABELS), t)
            for t in (tables[name] for name in names)
        )
        return Splits(train, test=test, labels=LABELS)

    def _local(self, root: str, split: str) -> Table:
        folder = Path(root).expanduser() / split
        if not (folder / "pos").is_dir():
            return root_table(root, split, self.skips)
        files = [(path, label) for label in LABELS for path in sorted((folder / label).glob("*.txt"))]
        if not files:
            raise UserError("data.root", f"{folder} has no reviews in {' and '.join(LABELS)}", "unpack aclImdb again")
        table = Table(str(folder), {"text": [], "label": [label for _, label in files]}, bad={} if self.skips else None)
        for row, (path, _) in enumerate(files):
            try:
                table.columns["text"].append(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                why = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"cannot be read: {error.strerror}"
                table.columns["text"].append("")
                table.refuse(row, UserError("data", f"{path} {why}", "mend or remove it"))
        return table
