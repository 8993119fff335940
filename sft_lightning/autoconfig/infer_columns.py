"""Finds a table's columns of labels, texts and images. If two columns could be meant, the user must name one."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.text.cells import missing, numbers, whole
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.label_sets import indicator
from sft_lightning.data.text.labels import wrong
from sft_lightning.data.vision.walk import SUFFIXES

LABELS = {
    *("label", "labels", "class", "classes", "category", "target", "targets", "y", "sentiment", "intent", "topic"),
    *("emotion", "species", "diagnosis", "gold", "gold_label", "answer_type", "stars", "rating", "score", "similarity"),
}
TEXTS = {
    *("text", "texts", "sentence", "content", "review", "comment", "tweet", "utterance", "document", "body", "message"),
    *("question", "query", "description", "abstract", "headline", "article"),
}
PAIRS = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2")),
    *(("sentence_1", "sentence_2"), ("text_a", "text_b"), ("sentence_a", "sentence_b"), ("question", "sentence")),
    *(("question", "passage"), ("question", "context"), ("query", "passage"), ("query", "document")),
)
LOOKED_AT = 500
"""Number of rows whose texts are looked at"""
MOST_CLASSES = 1000
FEW_NUMBERS = 20
"""Whole numbers with up to so many different values are classes"""


def named(columns: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The columns whose names, in lower case, are among the wanted ones."""
    known = set(wanted)
    return [c for c in columns if c.lower().strip() in known]


def check_given(table: Table, column: str, flag: str, others: Sequence[str] = ()) -> str:
    """Returns a column that the user names; raises UserError if the table lacks it."""
    if column in (here := [*table.columns, *others]):
        return column
    raise UserError(
        f"--{flag}", f"{table.where} has no column '{column}'{nearest(column, here)}", f"use one of {', '.join(here)}"
    )


def listed(columns: Sequence[str]) -> str:
    """`'a', 'b' and 'c'`."""
    quoted = [f"'{c}'" for c in columns]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else quoted[0]


def unused(table: Table, used: Sequence[str]) -> list[str]:
    """A line on the columns that are not used; none if all are."""
    others = [name for name, values in table.columns.items() if name not in used and any(v is not None for v in values)]
    more = ", …" if len(others) > 8 else ""
    return [f"{table.where}: columns not used: {', '.join(others[:8])}{more}"] if others else []


def spread(rows: int) -> list[int]:
    """Row numbers spread evenly over a table, as files may be sorted."""
    return [int(row) for row in np.linspace(0, rows - 1, min(rows, LOOKED_AT))]


# ---- values ----


def task_of(values: Sequence[Any], given: str | None = None) -> str | None:
    """The task, 'classification' or 'regression', of a column of labels without missing values; None if it fits neither.

    Fractions are values to predict. Whole numbers are classes if few values differ, or if they count up from 0 or 1 with
    at least 5 samples each. Names are classes if each occurs twice on average and there are at most 1,000.
    """
    if given is not None:
        return given
    kinds: Counter[Any] = Counter(whole(v) or str(v) for v in values)
    found = numbers(values)
    if found is None:
        return "classification" if len(kinds) <= MOST_CLASSES and len(values) >= 2 * len(kinds) else None
    if any(v != round(v) for v in found):
        return "regression"
    different = sorted(set(found))
    counts_up = different[0] in (0, 1) and different[-1] - different[0] == len(different) - 1
    if len(different) <= FEW_NUMBERS and len(different) * 2 <= len(found):
        return "classification"
    return "classification" if counts_up and len(found) >= 5 * len(different) <= 5 * MOST_CLASSES else "regression"


# ---- labels ----


def label_of(table: Table, given: str | None, taken: Sequence[str], fix: str = "set --label_column") -> str:
    """Finds the column of labels: the given one, one with a usual name, or the only one with few different values.

    Raises UserError if there is none, with `fix`, or if several could be meant.
    """
    if given is not None:
        return check_given(table, given, "label_column")
    free = [c for c in table.columns if c not in taken]
    by_name = [c for c in named(free, LABELS) if could_be_label(table.columns[c])]
    by_name = named(by_name, ("label", "labels")) or by_name
    candidates = by_name or [c for c in free if few_values(table.columns[c])]
    candidates = without_doubles(table, candidates)
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        alike = next(
            (c for c in named(free, LABELS) if len({str(v) for v in table.columns[c] if not missing(v)}) == 1), None
        )
        if alike is not None:
            return alike  # `check_classes` reports a single class
        for column in named(free, LABELS):
            row = next((r for r, v in enumerate(table.columns[column]) if not missing(v)), None)
            if row is not None and (why := wrong(table.columns[column][row])) is not None:
                raise UserError("--data", f"{table.name(row)}: column '{column}': {why.problem}", why.fix)
        raise UserError(
            "--data",
            f"{table.where} has no column that looks like labels (columns: {', '.join(table.columns)})",
            fix,
        )
    digits = [c for c in free if all(missing(v) or indicator(v) is not None for v in table.columns[c])]
    sets = f", or to {','.join(digits)} for sets of labels" if len(digits) > 1 else ""
    problem = f"{table.where}: {listed(candidates)} could each be the labels"
    raise UserError("--data", problem, f"set --label_column to one of them{sets}")


def could_be_label(values: Sequence[Any]) -> bool:
    """Whether a column with a usual name of labels holds classes or numbers."""
    there = [v for v in values if not missing(v)]
    return (
        len({str(v) for v in there}) > 1
        and all(isinstance(v, str | int | float) and wrong(v) is None for v in there)
        and bool(task_of(there))
    )


def few_values(values: Sequence[Any]) -> bool:
    """Whether a column with another name looks like classes: few different short values, each several times."""
    there = [v for v in values if not missing(v)]
    if not all(isinstance(v, str | int) or whole(v) for v in there) or len(there) * 2 < len(values):
        return False
    kinds = {whole(v) or str(v) for v in there}
    few = 1 < len(kinds) <= max(2, min(100, len(there) // 5))
    return few and max(map(len, kinds)) <= 60 and not all(k.lower().endswith(SUFFIXES) for k in kinds)


def without_doubles(table: Table, columns: list[str]) -> list[str]:
    """Keeps one of several columns with equal meaning (`label`, `label_text`): the first with words, else the first."""
    kept: list[str] = []
    for column in columns:
        for i, other in enumerate(kept):
            pairs = {(str(a), str(b)) for a, b in zip(table.columns[other], table.columns[column], strict=True)}
            if len({a for a, _ in pairs}) == len(pairs) == len({b for _, b in pairs}):
                if numbers(table.columns[other]) is not None and numbers(table.columns[column]) is None:
                    kept[i] = column
                break
        else:
            kept.append(column)
    return kept


# ---- texts ----


def texts_of(table: Table, given: str | None, label: str | None) -> list[str]:
    """Finds one column of texts, or two of pairs: the given ones (`premise,hypothesis`), usual names, or the only one."""
    if given is not None:
        wanted = [given] if given in table.columns else [c.strip() for c in given.split(",")]
        if len(wanted) > 2:
            raise UserError("--text_column", f"'{given}' names {len(wanted)} columns", "name one, or two for pairs")
        return [check_given(table, c, "text_column") for c in wanted]
    candidates = [c for c in table.columns if c != label and is_text(table.columns[c])]
    lower = {c.lower().strip(): c for c in candidates}
    for pair in PAIRS:
        if all(p in lower for p in pair):
            return [lower[p] for p in pair]
    called = named(candidates, TEXTS)
    chosen = named(candidates, ("text", "texts", "sentence")) or called or candidates
    if len(chosen) == 1:
        return chosen
    if not chosen:
        raise UserError(
            "--data", f"{table.where} has no column of texts (columns: {', '.join(table.columns)})", "set --text_column"
        )
    raise UserError(
        "--data",
        f"{table.where}: {listed(chosen)} could each be the texts",
        "set --text_column to one of them, or to two with a comma between for pairs",
    )


def is_text(values: Sequence[Any]) -> bool:
    """Whether a column holds texts: mostly different, with spaces, and not files, links, times or numbers."""
    there = [v for v in values[:LOOKED_AT] if not missing(v)]
    if not there or not all(isinstance(v, str) for v in there) or numbers(there) is not None:
        return False
    if sum(bool(re.match(r"(https?://\S*$|\d{4}-\d\d-\d\d)", v)) for v in there) * 2 > len(there) or is_image(there):
        return False
    spaced = sum(" " in v.strip() for v in there)
    return spaced * 3 > len(there) and len(set(there)) * 4 > len(there)


# ---- images ----


def is_image(values: Sequence[Any]) -> bool:
    """Whether a column names image files."""
    there = [v for v in values[:LOOKED_AT] if not missing(v)]
    return bool(there) and all(isinstance(v, str) and v.lower().endswith(SUFFIXES) for v in there)


def image_of(table: Table, embedded: Sequence[str], folder: Path, given: str | None) -> str:
    """Finds the column of embedded images or image files. Files must exist relative to the table's folder."""
    by_path = [c for c in table.columns if is_image(table.columns[c])]
    candidates = [*embedded, *by_path]
    if given is not None:
        column = check_given(table, given, "image_column", embedded)
        if column not in candidates:
            raise UserError(
                "--image_column",
                f"column '{column}' of {table.where} has neither images nor image files",
                f"use one of {', '.join(candidates)}" if candidates else "choose other data",
            )
    elif len(candidates) == 1:
        column = candidates[0]
    elif not candidates:
        raise UserError(
            "--data",
            f"{table.where} has no column of images (columns: {', '.join([*table.columns, *embedded])}), but the "
            "network takes images",
            "set --image_column, or choose another network",
        )
    else:
        raise UserError(
            "--data",
            f"{table.where}: {listed(candidates)} could each be the images",
            "set --image_column to one of them",
        )
    if column in by_path:
        for row, value in enumerate(table.columns[column]):
            if not missing(value) and not (folder / value).is_file():
                raise UserError(
                    "--data",
                    f"{table.name(row)}: image '{value}' is not in {folder}, the table's folder",
                    "put it there, or remove the row",
                )
    return column
