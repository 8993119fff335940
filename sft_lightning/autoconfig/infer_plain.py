"""Infers a data block from plain text: .txt files, or a table with a column of texts and nothing that could be labels."""

from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.autoconfig import infer_columns as columns
from sft_lightning.autoconfig.data_plan import LEAST, DataPlan, Overrides, fits
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.text.documents import Documents
from sft_lightning.data.text.files import FORMATS, Table
from sft_lightning.data.text.plain_text import LONGEST, PlainText, is_plain
from sft_lightning.data.text.text_file import SAID, Division, read_documents

NAMES = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


def plain_files(path: Path) -> dict[str, Path] | None:
    """Plain text files by split: the file itself, those of a folder by name, or its only one; None for other data."""
    if path.is_file():
        return {"train": path} if is_plain(str(path)) else None
    inside = [p for p in sorted(path.iterdir()) if p.is_file() and not p.name.startswith(".")]
    texts = [p for p in inside if is_plain(p.name) and p.stem.lower() not in ("readme", "license", "notice")]
    if not texts or any(p.suffix.lower() in FORMATS for p in inside):
        return None
    found = {
        s: next((p for name in names for p in texts if p.stem.lower() == name), None) for s, names in NAMES.items()
    }
    if found["train"] is not None:
        return {split: file for split, file in found.items() if file is not None}
    if len(texts) > 1:
        some = ", ".join(p.name for p in texts[:4])
        raise UserError("--data", f"{path} has {len(texts)} text files ({some}), but no train.txt", "name one file")
    return {"train": texts[0]}


def plain_plan(files: dict[str, Path], kinds: tuple[str, ...], network: str, said: Overrides) -> DataPlan:
    """Plans `PlainText` on text files: documents are separated by blank lines, or are lines if there are few blank ones."""
    where = str(files["train"])
    other = " (--task token_classification reads words and tags in columns)" if "words" in kinds else ""
    fits(kinds, ("tokens",), network, f"{where} is plain text without labels{other}")
    given = (("--text_column", said.text_column), ("--label_column", said.label_column))
    for flag, value in (*given, ("data.text_column", said.settings.get("text_column"))):
        if value is not None:
            raise UserError(flag, f"{where} is plain text, which has no columns", "leave it out")
    if said.task not in (None, "causal_lm"):
        raise UserError("--task", f"{where} is plain text, which has no labels for {said.task}", "use causal_lm")
    init: dict[str, Any] = {split: str(file) for split, file in files.items()}
    division: Division = said.settings.get("documents") or "blank_lines"
    skip = said.settings.get("on_bad_sample") == "skip"
    documents = {way: len(read_documents(where, "--data", way, skip)) for way in (division, "lines")}
    if "documents" not in said.settings and documents[division] < LEAST <= documents["lines"]:
        division = init["documents"] = "lines"
    plan = planned(init, said)
    other = "lines" if division == "blank_lines" else "blank_lines"
    ends = "" if "documents" in said.settings else f" (--set data.documents={other} divides it otherwise)"
    how = f"{where}: plain text, {plural(plan.train, 'document')} {SAID.get(division, division)}{ends}"
    plan.lines = [how, *(line for line in plan.lines if "data.documents" not in line)]
    return plan


def plain_column(table: Table, said: Overrides) -> str | None:
    """The column of a table's plain texts; None if other columns could be labels, or if there are no texts."""
    column = said.text_column or "text"
    if column not in table.columns or {"chosen", "rejected"} <= table.columns.keys():
        return None
    if said.task == "causal_lm":
        return column
    others = [c for c in table.columns if c != column]
    if said.task is not None or said.label_column is not None or not columns.is_text(table.columns[column]):
        return None
    labels = columns.named(others, columns.LABELS) or [c for c in others if columns.few_values(table.columns[c])]
    return None if labels else column


def plain_table_plan(files: dict[str, Path], table: Table, column: str, said: Overrides) -> DataPlan:
    """Plans `PlainText` on tables."""
    init: dict[str, Any] = {split: str(file) for split, file in files.items()}
    if column != "text":
        init["text_column"] = column
    plan = planned(init, said)
    rows = plural(plan.train, "document")
    plan.lines = [
        f"{table.where}: plain text, {rows} in column '{column}' (a --label_column makes it texts with labels)",
        *columns.unused(table, [column]),
        *plan.lines,
    ]
    return plan


def planned(init: dict[str, Any], said: Overrides) -> DataPlan:
    """The plan for documents, which are read as `fit` does."""
    plan = DataPlan("tokens", "causal_lm", {"class_path": PlainText.__name__, "init_args": init}, 0)
    train = load_as_fit_does(plan, PlainText, said).train
    assert isinstance(train, Documents)
    plan.texts = [train.texts[row] for row in columns.spread(len(train))]
    return plan


def samples_of(plan: DataPlan, lengths: list[int], block: int | None) -> int:
    """About how many samples are left for training: blocks of plain text, of at most `block` tokens."""
    if plan.block["class_path"] != PlainText.__name__ or not lengths:
        return plan.labelled
    most = block or LONGEST
    return max(1, round(plan.labelled * float(np.mean([max(1, ceil((n - 1) / (most - 1))) for n in lengths]))))
