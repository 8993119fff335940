"""Samples to answer, as they are read from files, folders, tables and lines."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from sft_lightning.serve.items import Item

KEY = "--input"


@dataclass
class Inputs:
    """Samples to answer, read one by one.

    Args:
        where: Their file or folder, for messages.
        labels: For each sample, what names it in the output: `line` or `file`.
        item: Reads one sample by its number. Raises UserError for one that cannot be used.
        digest: Hash of the samples, and of how they are read.
        notes: What was left out.
    """

    where: str
    labels: Sequence[dict[str, Any]]
    item: Callable[[int], Item]
    digest: str
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


def digest_of(content: Any) -> str:
    """Hash of plain values."""
    return sha256(json.dumps(content, default=str).encode("utf-8", "surrogatepass")).hexdigest()
