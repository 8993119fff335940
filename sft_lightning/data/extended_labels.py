"""The labels of old and new data together: their list, which of them each data set speaks of, and targets among them."""

from collections.abc import Sequence

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import TaskInfo
from sft_lightning.core.wording import listed
from sft_lightning.data.split import Split
from sft_lightning.data.vision.boxed import Boxed
from sft_lightning.tasks.schemes import OUTSIDE, scheme_of, type_of, types_of

TASKS_EXTENDED = ("classification", "token_classification", "multi_label", "object_detection")
PARTLY = ("token_classification", "multi_label", "object_detection")
"""Tasks in which data of new labels may have unmarked items of old ones, and the reverse"""


def all_labels(new: TaskInfo, old: TaskInfo | None, known: Sequence[str] | None) -> tuple[list[str], int]:
    """All labels, old ones first, and the number of old ones.

    Raises UserError if there are no new ones, or if the two data sets do not go together.

    Args:
        new: The task of the data with new labels.
        old: That of the data with old labels; None without any.
        known: The network's labels in its order; None for those of the old data.
    """
    for info in (new, old or new):
        if info.name not in TASKS_EXTENDED:
            problem = f"new labels cannot be added for the task {info.name}"
            raise UserError("data.new", problem, f"use {listed(TASKS_EXTENDED)}")
    if old is not None and old.name != new.name:
        raise UserError("data.old", f"is for {old.name}, and data.new for {new.name}", "use data of one task")
    of_old = [] if old is None else old.labels
    before = list(of_old if known is None else known)
    if unknown := [label for label in of_old if label not in before]:
        raise UserError(
            "data.old", f"has the label '{unknown[0]}', which data.known lacks", "put such samples into data.new"
        )
    fresh = [label for label in new.labels if label not in before]
    if not fresh:
        raise UserError(
            "data.new",
            f"has no label that the network does not know already ({', '.join(new.labels[:6])})",
            "give data with new labels, or tune with an ordinary data set",
        )
    if new.name == "token_classification":
        check_tags(new, old, before, before + fresh)
    return before + fresh, len(before)


def check_tags(new: TaskInfo, old: TaskInfo | None, known: Sequence[str], labels: Sequence[str]) -> None:
    """Raises UserError unless all tags are of one scheme for entities, with O for words outside of them."""
    schemes = {key: scheme_of(tags) for key, tags in (("known", known), ("new", new.labels))}
    for key, scheme in schemes.items():
        if not scheme or OUTSIDE not in known:
            lacks = "of a scheme for entities" if not scheme else "complete: O is missing"
            problem = f"its tags are not {lacks} ({', '.join((known if key == 'known' else new.labels)[:5])})"
            raise UserError(f"data.{key}", problem, "use tags such as B-type, I-type and O")
    if not scheme_of(labels):
        raise UserError(
            "data.new", f"has tags in {schemes['new']}, and the old ones are in {schemes['known']}", "use one scheme"
        )
    if old is not None and old.scheme != new.scheme:
        one, other = (info.scheme or scheme_of(info.labels) for info in (new, old))
        raise UserError("data.old", f"has tags in {other}, and data.new in {one}", "set scheme in both")


def kinds_of(info: TaskInfo) -> list[str]:
    """What samples are rehearsed of: the types of entities, or the labels."""
    return types_of(info.labels) if info.name == "token_classification" else list(info.labels)


def kinds_in(split: Split, labels: Sequence[str]) -> list[frozenset[str]]:
    """The types of entities, or the labels, of each of a split's samples."""
    if (types := split.samples.types_in()) is not None:
        return [types[row] for row in split.rows]
    if isinstance(split.samples, Boxed):
        return [frozenset(labels[i] for i in split.samples.classes_in(int(row))) for row in split.rows]
    assert split.targets is not None
    return [frozenset(labels[i] for i in np.flatnonzero(of).tolist()) for of in split.targets]


def covers(of_each: Sequence[Sequence[str]], labels: Sequence[str], task: str) -> np.ndarray | None:
    """Which of all labels each data set's annotation speaks of: bool `[data sets, C]`. None if each item has one label.

    A data set that is tagged with one of a type's tags speaks of all of them; all that are tagged at all speak of O.

    Args:
        of_each: Each data set's own labels; empty for one whose labels are not used.
        labels: All labels.
        task: The task's name.
    """
    if task not in PARTLY:
        return None
    if task == "token_classification":
        found = []
        for own in of_each:
            types = {type_of(tag) for tag in own if tag != OUTSIDE}
            found.append([bool(own) and (tag == OUTSIDE or type_of(tag) in types) for tag in labels])
    else:
        found = [[label in own for label in labels] for own in of_each]
    return np.array(found, dtype=bool)


def among_all(targets: np.ndarray | None, table: np.ndarray, rows: np.ndarray, sets: int | None) -> np.ndarray:
    """Targets of some samples as numbers, or sets, among all labels; without targets −1, or no label.

    Args:
        targets: Class numbers `[R]` or sets of labels `[R, own labels]`; None if samples have their own, or none.
        table: Each own label's number among all.
        rows: `[N]` of the R to take.
        sets: Number of all labels C if targets are sets; None if they are numbers.
    """
    if sets is None:
        return np.full(len(rows), -1) if targets is None else np.asarray(table[targets[rows]])
    found = np.zeros((len(rows), sets), dtype=np.int64)
    if targets is not None:
        found[:, table] = targets[rows]
    return found
