"""What a table's columns are: labels, texts, images. What could be two things is asked for, not guessed."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.text.cells import missing, numbers, whole
from sft_lightning.data.text.files import Table
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
"""Rows whose texts are looked at"""
MOST_CLASSES = 1000
FEW_NUMBERS = 20
"""Whole numbers of no more different values are classes"""


def named(columns: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The columns whose names, in lower case, are among the wanted ones."""
    known = set(wanted)
    return [c for c in columns if c.lower().strip() in known]


def check_given(table: Table, column: str, flag: str, others: Sequence[str] = ()) -> str:
    """A column that the user names, which must be there."""
    if column in (here := [*table.columns, *others]):
        return column
    raise UserError(
        f"--{flag}", f"{table.where} has no column '{column}'{nearest(column, here)}; it has {', '.join(here)}"
    )


def listed(columns: Sequence[str]) -> str:
    """`'a', 'b' and 'c'`."""
    quoted = [f"'{c}'" for c in columns]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else quoted[0]


# ---- values ----


def task_of(values: Sequence[Any], given: str | None = None) -> str | None:
    """'classification' or 'regression' for a column of labels, without its missing values; None where it is neither.

    Fractions are values to predict. Whole numbers are classes where few differ, or where they count up from 0 or 1 with
    several samples each. Names are classes where each occurs twice on average, and there are at most a thousand.
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


def label_of(table: Table, given: str | None, taken: Sequence[str]) -> str:
    """The column of labels: the one given, the one so called, or the only one of few different values."""
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
            return alike  # of one class alone, which has its own message
        for column in named(free, LABELS):
            row = next((r for r, v in enumerate(table.columns[column]) if not missing(v)), None)
            if row is not None and (why := wrong(table.columns[column][row])) is not None:
                raise UserError("--data", f"{table.name(row)}: column '{column}': {why}")
        raise UserError(
            "--data",
            f"{table.where} has no column that looks like labels (columns: {', '.join(table.columns)})",
            "set --label_column",
        )
    raise UserError(
        "--data", f"{table.where}: {listed(candidates)} could each be the labels", "set --label_column to one of them"
    )


def could_be_label(values: Sequence[Any]) -> bool:
    """Whether a column so called holds classes or numbers."""
    there = [v for v in values if not missing(v)]
    return (
        len({str(v) for v in there}) > 1
        and all(isinstance(v, str | int | float) and wrong(v) is None for v in there)
        and bool(task_of(there))
    )


def few_values(values: Sequence[Any]) -> bool:
    """Whether a column that is not so called looks like classes: few different short values, each several times."""
    there = [v for v in values if not missing(v)]
    if not all(isinstance(v, str | int) or whole(v) for v in there) or len(there) * 2 < len(values):
        return False
    kinds = {whole(v) or str(v) for v in there}
    few = 1 < len(kinds) <= max(2, min(100, len(there) // 5))
    return few and max(map(len, kinds)) <= 60 and not all(k.lower().endswith(SUFFIXES) for k in kinds)


def without_doubles(table: Table, columns: list[str]) -> list[str]:
    """Of columns that say the same in other words (`label`, `label_text`), the first that says it in words."""
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
    """One column of texts, or two of pairs: those given (`premise,hypothesis`), those so called, or the only one."""
    if given is not None:
        wanted = [given] if given in table.columns else [c.strip() for c in given.split(",")]
        if len(wanted) > 2:
            raise UserError("--text_column", f"'{given}' names {len(wanted)} columns: one of texts, or two of pairs")
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
    """Whether a column holds texts: words with spaces, mostly different, and neither files, links, times nor numbers."""
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
    """The column of images, held or named; what is named must lie beside the table."""
    by_path = [c for c in table.columns if is_image(table.columns[c])]
    candidates = [*embedded, *by_path]
    if given is not None:
        column = check_given(table, given, "image_column", embedded)
        if column not in candidates:
            raise UserError(
                "--image_column", f"column '{column}' of {table.where} neither holds images nor names their files"
            )
    elif len(candidates) == 1:
        column = candidates[0]
    elif not candidates:
        raise UserError(
            "--data",
            f"{table.where} has no column of images (columns: {', '.join([*table.columns, *embedded])}), and the "
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
                    f"{table.name(row)}: image '{value}' is not in {folder}, where the table lies",
                    "put it there",
                )
    return column
