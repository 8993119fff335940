"""Counts the samples that a network had right before tuning and has wrong after (lost), and the reverse (gained), by class."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sft_lightning.evaluation.predictions import Predictions
from sft_lightning.tasks.base import Said

TAIL = 0.025
"""Share of each tail outside the intervals, which are of 95 %"""


def lost_and_gained(before: Predictions, after: Predictions, labels: Sequence[str], most: int) -> dict[str, Any]:
    """Plain values for details.json: counts over all samples, and `classes`, those that lost most first.

    `change` is the accuracy (of a class, its recall) after − before, with Tango's paired 95 % interval over these samples, not
    corrected for the number of classes. `chance` is the share of the most frequent class, and `lost_above_chance` the loss
    of accuracy as a share of what was above chance before; None if nothing was. `beyond_guesses` has estimates of how many
    samples were lost and gained beyond lucky guesses.

    Args:
        before: Predictions for N samples with known classes.
        after: Predictions for the same samples.
        labels: Names of the classes.
        most: Largest number of classes that are listed.
    """
    right = before.classes == before.targets, after.classes == after.targets
    sizes = np.bincount(before.targets, minlength=len(labels))
    found = changed(right[0].astype(float), right[1].astype(float))
    classes = []
    for number in np.flatnonzero(sizes).tolist():
        mine = before.targets == number
        classes.append({"label": labels[number], **changed(right[0][mine].astype(float), right[1][mine].astype(float))})
    classes.sort(key=lambda c: (c["change"], -c["n"]))
    chance, accuracy = float(sizes.max(initial=0)) / max(1, len(before.rows)), float(right[0].mean())
    above = -found["change"] / (accuracy - chance) if accuracy > chance else None
    found |= {"chance": round(chance, 6), "lost_above_chance": None if above is None else round(above, 6)}
    found["beyond_guesses"] = beyond_guesses(*right, len(labels))
    return {**found, "classes": classes[:most]}


def beyond_guesses(before: np.ndarray, after: np.ndarray, options: int) -> dict[str, float]:
    """Numbers of samples that were known before and not after (lost), and the reverse (gained): moment estimates, at least 0.

    The model: a network knows a sample, or guesses one of k classes, each with chance c = 1/k, before and after independently.
    Samples that are wrong twice are guessed twice, so that G = wrong twice / (1 − c)² samples were. Of these c(1 − c)·G become
    wrong by chance alone, as do c of those that are lost: lost = (right to wrong) / (1 − c) − c·G. The same model as in
    J. Harmon et al. (2025, arXiv 2510.17776); errors of a network that repeat themselves make G too large.

    Args:
        before: Whether each of N samples was right.
        after: The same, of the same samples.
        options: k, at least 2.
    """
    c = 1 / max(2, options)
    guessed = float((~before & ~after).sum()) / (1 - c) ** 2
    counts = {"lost": float((before & ~after).sum()), "gained": float((~before & after).sum())}
    return {name: round(max(0.0, count / (1 - c) - c * guessed), 2) for name, count in counts.items()}


def lost_and_gained_in_words(before: Mapping[int, Said], after: Mapping[int, Said]) -> dict[str, Any]:
    """The same counts for texts and tags: samples of which less is right after, and of which more; empty if that is unknown."""
    pairs = [(before[row].score, after[row].score) for row in sorted(before.keys() & after.keys())]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not known:
        return {}
    first, second = np.array(known).T
    return {"n": len(known), "lost": int((second < first).sum()), "gained": int((second > first).sum())}


def changed(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Counts of N scores of 0 and 1, and the change of their mean with its interval."""
    from sft_lightning.stats.score_test import interval  # with scipy.stats, which a run needs once, at its end

    n, lost, gained = len(before), int((before > after).sum()), int((after > before).sum())
    ends = interval(gained, lost, n, TAIL) if n else (0.0, 0.0)
    low, high = (round(end, 6) for end in ends)
    return {
        "n": n,
        "lost": lost,
        "gained": gained,
        "change": round((gained - lost) / max(1, n), 6),
        "low": low,
        "high": high,
    }
