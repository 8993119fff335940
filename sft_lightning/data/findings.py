"""Finds oddities in data: classes that a split lacks, samples that occur twice, class names that look alike.

Samples are compared by `Samples.contents`, labels by their numbers. Counts go into run.json, and at most four lines to the
console.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any
from unicodedata import normalize

import numpy as np

SPLITS = {"train": "training", "val": "validation", "test": "test"}
PAIRS = (("test", "train"), ("val", "train"), ("test", "val"))
NAMED = 6


def content(*parts: bytes) -> int:
    """Hashes a sample's content to 64 bits: in one of 10⁷ data sets, two of a million samples share them by chance."""
    digest = blake2b(digest_size=8)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def findings(splits: Mapping[str, Any], labels: Sequence[str], by_class: bool) -> dict[str, Any]:
    """Collects the findings as plain values for run.json; empty ones are left out.

    Args:
        splits: Rows, targets and samples by name.
        labels: Names of the classes, in order.
        by_class: Whether targets are class numbers; sets of labels are recognised by their two dimensions.
    """
    by_class = by_class or any(is_sets(split.targets) for split in splits.values())
    found = repeats(splits, by_class)
    if by_class and labels:
        counts = {
            name: class_counts(split.targets, len(labels))
            for name, split in splits.items()
            if split.targets is not None
        }
        lacking = {n: [labels[int(i)] for i in np.flatnonzero(c == 0)] for n, c in counts.items() if n in SPLITS}
        found["classes_without_samples"] = {name: classes for name, classes in lacking.items() if classes}
        total = np.sum(list(counts.values()), axis=0) if counts else np.zeros(len(labels), dtype=np.int64)
        found["look_alike_classes"] = look_alikes(labels, total.tolist())
    return {name: value for name, value in found.items() if value}


def is_sets(targets: np.ndarray | None) -> bool:
    """Whether targets are sets of labels, not numbers to predict."""
    return targets is not None and targets.ndim > 1 and np.issubdtype(targets.dtype, np.integer)


def class_counts(targets: np.ndarray, classes: int) -> np.ndarray:
    """Samples of each class, `[C]`, from class numbers `[R]` or sets of labels `[R, C]`."""
    if targets.ndim > 1:
        return np.asarray(targets.sum(0, dtype=np.int64))
    return np.bincount(targets[targets >= 0].astype(np.int64), minlength=classes)  # −1 has no label


def repeats(splits: Mapping[str, Any], by_class: bool) -> dict[str, Any]:
    """Samples that occur again in their own split or in another one, and contents that occur with two labels."""
    hashes = {}
    for name, split in splits.items():
        contents = split.samples.contents()
        if contents is not None and name in SPLITS:
            hashes[name] = contents[split.rows]
    within = {name: int(len(h) - len(np.unique(h))) for name, h in hashes.items()}
    across, example = {}, ""
    for one, other in PAIRS:
        if one in hashes and other in hashes and (again := np.isin(hashes[one], hashes[other])).any():
            across[f"{one} in {other}"] = int(again.sum())
            at = int(np.flatnonzero(again)[0])
            there = int(np.flatnonzero(hashes[other] == hashes[one][at])[0])
            example = example or f"{said(splits[one], at)} is {said(splits[other], there)}"
    found: dict[str, Any] = {
        "repeats_within": {name: count for name, count in within.items() if count},
        "repeats_across": across,
        "repeats_example": example,
    }
    if by_class and hashes and all(splits[name].targets is not None for name in hashes):
        both = np.concatenate(list(hashes.values()))
        numbers = np.concatenate([splits[name].targets for name in hashes])
        if numbers.ndim > 1:  # the number of each set of labels
            numbers = np.unique(numbers, axis=0, return_inverse=True)[1].reshape(-1)
        order = np.lexsort((numbers, both))
        differ = (both[order][1:] == both[order][:-1]) & (numbers[order][1:] != numbers[order][:-1])
        if differ.any():
            found["repeats_with_two_labels"] = len(np.unique(both[order][1:][differ]))
            first = int(np.flatnonzero(differ)[0])
            ends = np.cumsum([len(h) for h in hashes.values()])
            named = []
            for at in order[first : first + 2]:
                which = int(np.searchsorted(ends, at, side="right"))
                name = list(hashes)[which]
                named.append(said(splits[name], int(at - ends[which] + len(hashes[name]))))
            found["two_labels_example"] = " and ".join(named)
    return found


def in_training(source: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, int]:
    """Counts, for each split of the source data, the samples that the target's training split holds too."""
    trained = target["train"].samples.contents() if "train" in target else None
    if trained is None:
        return {}
    trained, found = trained[target["train"].rows], {}
    for name in ("val", "test"):
        if name in source and (contents := source[name].samples.contents()) is not None:
            found[name] = int(np.isin(contents[source[name].rows], trained).sum())
    return {name: count for name, count in found.items() if count}


def said(split: Any, position: int) -> str:
    """A sample's name."""
    name: str = split.samples.name(int(split.rows[position]))
    return name


def look_alikes(labels: Sequence[str], counts: Sequence[int]) -> list[dict[str, int]]:
    """Groups classes whose names differ only in case, spaces or Unicode form; each with its number of samples."""
    groups: dict[str, dict[str, int]] = {}
    for name, count in zip(labels, counts, strict=True):
        plain = " ".join(normalize("NFKC", name).casefold().split())
        groups.setdefault(plain, {})[name] = int(count)
    return [group for group in groups.values() if len(group) > 1]


# ---- in words ----


def lines(found: Mapping[str, Any], sizes: Mapping[str, int]) -> list[str]:
    """At most four lines for the console."""
    made = [unknown_line(found), classes_line(found), repeats_line(found, sizes), look_alike_line(found)]
    return [line for line in made if line]


def unknown_line(found: Mapping[str, Any]) -> str:
    """The share of the texts' tokens that the tokenizer does not know."""
    share = found.get("unknown_tokens")
    return (
        f"warning: {share:.0%} of the texts' tokens are unknown to the tokenizer: is it the network's own?"
        if share
        else ""
    )


def classes_line(found: Mapping[str, Any]) -> str:
    """The classes that have no sample in a split."""
    parts = []
    for name, classes in found.get("classes_without_samples", {}).items():
        some = ", ".join(map(repr, classes[:NAMED])) + (
            f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
        )
        parts.append(f"no {SPLITS[name]} sample of class{'es' * (len(classes) > 1)} {some}")
    return "; ".join(parts)


def repeats_line(found: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    """The number of samples that occur twice, with an example."""
    parts = []
    for pair, count in found.get("repeats_across", {}).items():
        one, _, other = pair.partition(" in ")
        verb = "is" if count == 1 else "are"
        parts.append(f"{count:,} of {sizes[one]:,} {SPLITS[one]} samples {verb} in {other} too")
    if parts:
        parts[0] += f" ({found['repeats_example']})"
    if within := found.get("repeats_within"):
        counts = ", ".join(f"{count:,} in {name}" for name, count in within.items())
        parts.append(f"samples that repeat an earlier one of their split: {counts}")
    if (two := found.get("repeats_with_two_labels")) is not None:
        occurs = "sample occurs" if two == 1 else "samples occur"
        parts.append(f"{two:,} {occurs} with two labels ({found['two_labels_example']})")
    return "; ".join(parts)


def look_alike_line(found: Mapping[str, Any]) -> str:
    """Classes whose names look alike."""
    groups = found.get("look_alike_classes", [])
    shown = ["; ".join(f"{name!r} {count:,}" for name, count in group.items()) for group in groups[:2]]
    more = f" and {len(groups) - 2} more" if len(groups) > 2 else ""
    return f"classes whose names look alike, counted apart: {' | '.join(shown)}{more}" if groups else ""
