"""Selects the rows that a run trains and validates on, with functions of rows, class numbers and a seed.

`rows` are row numbers, ascending, `[R]`. `targets` are the class numbers of all samples, by row number; None if the task
has no classes. All functions but `strata` and `lone` return row numbers, ascending.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.stratified import two_parts


def strata(targets: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """`[R]` class numbers to stratify by; None if there are no classes."""
    return None if targets is None else targets[rows]


def lone(strata: np.ndarray | None, size: int) -> np.ndarray:
    """`[size]` bool: whether a row is its class's only one. Such rows are never set aside, but trained on."""
    if strata is None:
        return np.zeros(size, dtype=bool)
    classes, counts = np.unique(strata, return_counts=True)
    return np.isin(strata, classes[counts < 2])


def cut(
    rows: np.ndarray, strata: np.ndarray | None, fraction: float, where: str, unit: str = "samples"
) -> tuple[np.ndarray, np.ndarray]:
    """Cuts off a fraction: (the rest, the part cut off). Always the same rows, stratified if possible; lone rows stay.

    `where` is the key of the UserError that too few rows raise, `unit` what it calls them.
    """
    alone = lone(strata, len(rows))
    stay, rows, strata = rows[alone], rows[~alone], None if strata is None else strata[~alone]
    classes = 1 if strata is None else len(np.unique(strata))
    size = max(classes, round((len(rows) + len(stay)) * fraction))
    if len(stay):
        size = min(size, len(rows) - 1)
    if not 0 < size < len(rows):
        problem = f"too few {unit} ({len(rows) + len(stay)}) to set {fraction:.0%} aside"
        raise UserError(where, problem, "add samples")
    if strata is not None and len(rows) - size < classes:
        strata = None
    rest, part = two_parts(rows, len(rows) - size, strata, seed=0)
    return np.sort(np.concatenate([rest, stay])), np.sort(part)


def share(rows: np.ndarray, strata: np.ndarray | None, fraction: float, seed: int, classes: int) -> np.ndarray:
    """Draws a share of the rows, at least one, stratified if possible; `classes` is the number of labels, for the error.
    A class's only row is kept.
    """
    keep = max(1, round(len(rows) * fraction))
    if keep >= len(rows):
        return rows
    alone = lone(strata, len(rows))
    here = 0 if strata is None else len(np.unique(strata))
    if strata is not None and len(rows) - keep >= here - alone.sum() and keep < here:
        problem = f"{fraction} keeps {plural(keep, 'sample')} for {classes} classes"
        raise UserError("data.train_fraction", problem, "set it higher")
    stay, rows, strata = rows[alone], rows[~alone], None if strata is None else strata[~alone]
    keep -= len(stay)
    if strata is not None and (len(rows) - keep < len(np.unique(strata)) or keep < len(np.unique(strata))):
        strata = None  # fewer rows are left out, or kept, than there are classes
    kept = two_parts(rows, keep, strata, seed)[0] if keep > 0 else rows[:0]
    return np.sort(np.concatenate([kept, stay]))


def shots(
    rows: np.ndarray, targets: np.ndarray | None, number: int, seed: int, labels: Mapping[int, str]
) -> np.ndarray:
    """Draws `number` rows of each class; `labels` are the classes' names by number, in the order they are drawn."""
    if targets is None:
        raise UserError("data.shots_per_class", "the task has no classes", "use data.train_fraction")
    rng, kept = np.random.default_rng(seed), []
    for of_class, label in labels.items():
        found = rows[targets[rows] == of_class]
        if len(found) < number:
            problem = f"class '{label}' has only {len(found)} of {number} training samples"
            raise UserError("data.shots_per_class", problem, "set it lower, or label more")
        kept.append(rng.permutation(found)[:number])
    return np.sort(np.concatenate(kept))


def shots_of_types(rows: np.ndarray, types: Sequence[Collection[str]], number: int, seed: int) -> np.ndarray:
    """Draws rows until at least `number` of them have each type, greedily; `types` are those in every sample, by row number.

    The rarest type comes first. For each type, those rows count that are drawn already, and the next ones with it are added
    in an order that only the seed decides. Common types may occur in more rows, beside rare ones.
    """
    order = np.random.default_rng(seed).permutation(rows)
    with_type: dict[str, list[int]] = {}
    for row in order.tolist():
        for kind in types[row]:
            with_type.setdefault(kind, []).append(row)
    kept: set[int] = set()
    for kind in sorted(with_type, key=lambda kind: (len(with_type[kind]), kind)):
        found = with_type[kind]
        if len(found) < number:
            problem = f"type '{kind}' is in only {len(found)} of {number} training samples"
            raise UserError("data.shots_per_class", problem, "set it lower, or label more")
        missing = number - sum(row in kept for row in found)
        kept.update([row for row in found if row not in kept][: max(0, missing)])
    return np.array(sorted(kept), dtype=rows.dtype)


def folds(
    rows: np.ndarray,
    targets: np.ndarray | None,
    number: int,
    seed: int,
    labels: Mapping[int, str],
    unit: str = "samples",
) -> list[np.ndarray]:
    """Cuts the rows into `number` parts for cross-validation; each row is in one part. With classes, each part has the
    same share of every class, to within one row (scikit-learn's StratifiedKFold). Otherwise the parts have equal sizes,
    to within one row (KFold). Raises UserError if a part would have no row of some class, or no row at all; `unit` is what
    it calls them.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    fewer = "set data.init_args.folds to {} or less, or label more"
    if targets is None:
        if len(rows) < number:
            problem = f"must be at most the number of {unit} for training, {len(rows)}, got {number}"
            raise UserError("data.folds", problem, fewer.format(len(rows)))
        pieces = KFold(number, shuffle=True, random_state=seed).split(rows)
    else:
        classes, counts = np.unique(targets[rows], return_counts=True)
        if counts.min() < number:
            label, count = labels.get(int(classes[counts.argmin()]), "?"), int(counts.min())
            problem = f"each of {number} parts needs a labelled training sample of class '{label}', which has {count}"
            raise UserError("data.folds", problem, "label more" if count < 2 else fewer.format(count))
        pieces = StratifiedKFold(number, shuffle=True, random_state=seed).split(rows, targets[rows])
    return [rows[held_out] for _, held_out in pieces]
