"""Infers a data block from a table whose texts have sets of labels: lists, separated names, or columns of 0 and 1."""

from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.autoconfig import infer_columns as columns
from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, classes_said
from sft_lightning.autoconfig.one_load import load_as_fit_does, settings_of
from sft_lightning.core.errors import UserError
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.text.label_sets import indicator
from sft_lightning.data.text.labels import is_list
from sft_lightning.data.text.multi_label import MultiLabelTable

NAMES = columns.LABELS | {"tags", "categories", "topics", "genres", "emotions", "codes", "keywords", "intents"}
SURE = (";", "|")
"""Separators that are recognised without --task multi_label; a comma may be part of a name"""


def sets_of(table: Table, said: Overrides) -> dict[str, Any] | None:
    """The arguments of MultiLabelTable on labels; None if the table has one label a row."""
    if said.task not in (None, "multi_label") or "tokens" in table.columns:
        return None
    given = said.label_column
    if given is not None and given not in table.columns:
        parts = [part.strip() for part in given.split(",")]
        several = len(parts) > 1 and all(part in table.columns for part in parts)
        return {"label_columns": parts} if several or given.endswith("*") else None
    for column in [given] if given is not None else columns.named(table.columns, NAMES):
        if holds_lists(table.columns[column]):
            return {"label_column": column}
        if separator := separator_of(table.columns[column], (*SURE, ",") if said.task else SURE):
            return {"label_column": column, "label_separator": separator}
    if given is None and (found := indicators_of(table)):
        return {"label_columns": found}
    if said.task == "multi_label":
        if given is not None:
            return {"label_column": given}
        raise UserError(
            "--task",
            f"{table.where} has no sets of labels that are recognised (columns: {', '.join(table.columns)})",
            "set --label_column to a column of lists, or to several columns of 0 and 1 with commas between",
        )
    return None


def holds_lists(values: list[Any]) -> bool:
    """Whether a column holds lists of names or numbers."""
    there = [v for v in values if not missing(v)]
    lists = [v for v in there if isinstance(v, list) or (isinstance(v, str) and v.lstrip()[:1] == "[" and is_list(v))]
    plain = all(isinstance(one, str | int) for v in lists if isinstance(v, list) for one in v)
    return len(lists) * 2 > len(there) and plain


def separator_of(values: list[Any], among: tuple[str, ...]) -> str | None:
    """What separates the labels of a column; None if cells look like one label each. Labels recur in sets, so that there are
    no more of them than there are different cells.
    """
    cells = [v for v in values if isinstance(v, str) and v.strip()]
    for separator in among:
        pieces = [piece.strip() for cell in cells for piece in cell.split(separator)]
        if any(separator in cell for cell in cells) and len(set(pieces)) <= len(set(cells)) and all(pieces):
            return separator
    return None


def indicators_of(table: Table) -> list[str]:
    """Two or more columns of 0 and 1, if no other column could be the labels."""
    found = [c for c, values in table.columns.items() if all(indicator(v) is not None for v in values)]
    others = [c for c in table.columns if c not in found]
    named = [c for c in columns.named(others, columns.LABELS) if columns.could_be_label(table.columns[c])]
    if len(found) < 2 or named or columns.named(found, columns.LABELS):
        return []
    return [] if any(columns.few_values(table.columns[c]) for c in others) else found


def sets_plan(files: dict[str, Path], table: Table, labels: dict[str, Any], said: Overrides) -> DataPlan:
    """Plans `MultiLabelTable` data; `labels` are its arguments on labels."""
    texts = columns.texts_of(table, said.text_column, labels.get("label_column"))
    init: dict[str, Any] = {"text_column": texts[0], **labels}
    init |= {"pair_column": texts[1]} if len(texts) > 1 else {}
    plan = DataPlan("text", "multi_label", {"class_path": "MultiLabelTable", "init_args": init}, 0)
    reader = MultiLabelTable(**init | settings_of(MultiLabelTable, said))
    for split, file in files.items():
        if split != "train" and reader.unlabelled(read_table(file, "--data")):
            use = "test on" if split == "test" else "validate on"
            plan.lines.append(f"{file} has no labels: left out, to {use} a share of train")
        else:
            init[split] = str(file)
    loaded = load_as_fit_does(plan, MultiLabelTable, said)
    targets = loaded.train.targets
    assert targets is not None
    used = np.delete(targets, list(loaded.train.bad_rows()), axis=0)
    plan.counts = dict(zip(loaded.labels, used.sum(0, dtype=np.int64).tolist(), strict=True))
    plan.texts = [" ".join(str(table.columns[t][row] or "") for t in texts) for row in columns.spread(len(table))]
    where = f"column '{init['label_column']}'" if "label_column" in init else f"{len(loaded.labels)} columns of 0 and 1"
    each, none = used.sum(1), int((used.sum(1) == 0).sum())
    counts = classes_said(plan, ("label", "s"))
    plan.lines.insert(
        0,
        f"{table.where}: {plan.train:,} texts in column '{texts[0]}', sets of labels in {where}: {counts}; "
        f"{each.mean():.2f} a text, {none:,} texts without any",
    )
    return plan
