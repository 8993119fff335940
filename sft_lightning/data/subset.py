"""Which rows a run trains and validates on: plain functions of rows, class numbers and a seed.

`rows` are row numbers, ascending, `[R]`; `targets` the class numbers of all samples, by row number, None where the task
has no classes. Everything returned is row numbers, ascending.
"""

from collections.abc import Mapping

import numpy as np

from sft_lightning.errors import UserError


def strata(targets: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """`[R]` class numbers to stratify by; None where there are no classes, or one has a single row."""
    if targets is None:
        return None
    classes: np.ndarray = targets[rows]
    return classes if np.unique(classes, return_counts=True)[1].min() >= 2 else None


def cut(rows: np.ndarray, strata: np.ndarray | None, fraction: float, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(the rest, the part cut off): the same rows each time, stratified where that can be."""
    from sklearn.model_selection import train_test_split

    classes = 1 if strata is None else len(np.unique(strata))
    size = max(classes, round(len(rows) * fraction))
    if size >= len(rows):
        raise UserError(f"{where}: {len(rows)} samples are too few to set {fraction:.0%} aside for validation")
    if strata is not None and len(rows) - size < classes:
        strata = None
    rest, part = train_test_split(rows, test_size=size, stratify=strata, random_state=0)
    return np.sort(rest), np.sort(part)


def share(rows: np.ndarray, strata: np.ndarray | None, fraction: float, seed: int, classes: int) -> np.ndarray:
    """A share of the rows, at least one, stratified where that can be; `classes` is the number of labels, for the error."""
    from sklearn.model_selection import train_test_split

    keep = max(1, round(len(rows) * fraction))
    if keep >= len(rows):
        return rows
    if strata is not None and len(rows) - keep < len(np.unique(strata)):
        strata = None  # what is left out is less than one per class: nothing to stratify
    if strata is not None and keep < len(np.unique(strata)):
        raise UserError(f"data: train_fraction {fraction} keeps {keep} samples for {classes} classes")
    kept, _ = train_test_split(rows, train_size=keep, stratify=strata, random_state=seed)
    return np.sort(kept)


def shots(
    rows: np.ndarray, targets: np.ndarray | None, number: int, seed: int, labels: Mapping[int, str]
) -> np.ndarray:
    """So many rows of each class; `labels` are the classes' names by number, in the order they are drawn."""
    if targets is None:
        raise UserError("data: shots_per_class is for classes; use train_fraction")
    rng, kept = np.random.default_rng(seed), []
    for of_class, label in labels.items():
        found = rows[targets[rows] == of_class]
        if len(found) < number:
            raise UserError(f"data: shots_per_class {number}, but class '{label}' has {len(found)} training samples")
        kept.append(rng.permutation(found)[:number])
    return np.sort(np.concatenate(kept))


def folds(
    rows: np.ndarray, targets: np.ndarray | None, number: int, seed: int, labels: Mapping[int, str]
) -> list[np.ndarray]:
    """The rows cut into so many parts, for cross-validation: each row is in one part. With classes each part has the
    same share of every class, to within one row (scikit-learn's StratifiedKFold); else the parts have equal sizes, to
    within one row (KFold). UserError where a part would be without some class, or without a row.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    fewer = "set data.init_args.folds to {} or less, or label more"
    if targets is None:
        if len(rows) < number:
            raise UserError(
                f"data: folds {number}, but there are {len(rows)} training samples: {fewer.format(len(rows))}"
            )
        pieces = KFold(number, shuffle=True, random_state=seed).split(rows)
    else:
        classes, counts = np.unique(targets[rows], return_counts=True)
        if counts.min() < number:
            label, count = labels.get(int(classes[counts.argmin()]), "?"), int(counts.min())
            what = "label more" if count < 2 else fewer.format(count)
            raise UserError(f"data: folds {number}, but class '{label}' has {count} labelled training samples: {what}")
        pieces = StratifiedKFold(number, shuffle=True, random_state=seed).split(rows, targets[rows])
    return [rows[held_out] for _, held_out in pieces]
