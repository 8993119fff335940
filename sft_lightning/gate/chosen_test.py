"""Chooses the test of a requirement: of means where the metric is a mean over samples, else by drawing samples anew."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.gate.requirement import KEY, Requirement
from sft_lightning.gate.scores import Scores, equal
from sft_lightning.stats.on_samples import SampleTest, is_right_or_wrong, level, paired, resampled
from sft_lightning.stats.summary import Array
from sft_lightning.stats.sums_of_gaps import sums_of_gaps

DRAWS, FEWER, SEED, CHECKED = 2_000, 400, 0, 20
"""Bootstrap draws of samples; draws for metrics that are computed from all texts or values anew; their seed; draws on which
a metric must be the mean over samples to count as one"""
UNDEFINED = 0.05
"""Largest share of draws on which a metric may be undefined, as the recall of a class that was not drawn"""


def tested(mine: Scores, theirs: Scores | None, requirement: Requirement, sign: int, alpha: float) -> SampleTest:
    """The test of a requirement: of means of samples' scores where the metric is one, else by drawing samples anew."""
    name, margin, sides = requirement.name, sign * requirement.number, [mine, *([] if theirs is None else [theirs])]
    # first, as the error is a mean over samples too if those of each bin are all right or all wrong
    if all((gaps := side.gaps(name)) is not None for side in sides):
        every = [gaps for side in sides if (gaps := side.gaps(name)) is not None]
        return sums_of_gaps(every[0], every[1] if theirs is not None else None, drawn(mine.n, DRAWS), margin, alpha)
    each = [side.of_each(name) for side in sides]
    first, there = list(drawn(mine.n, CHECKED)), np.isfinite(each[0])
    alike = all((np.isfinite(of) == there).all() for of in each)
    if alike and all(is_mean(side, name, of, first) for side, of in zip(sides, each, strict=True)):
        held = [sign * of[there] for of in each]
        if theirs is None:
            return level(held[0], margin, alpha)
        if sign < 0 and is_right_or_wrong(*(-of for of in held)):
            held = [1 + of for of in held]  # shares of mistakes, as those of the rest
        return paired(held[0], held[1], margin, alpha)
    number = DRAWS if all(side.is_sum(name) for side in sides) else FEWER
    values = [sign * side.on_draws(name, drawn(mine.n, number)) for side in sides]
    found = values[0] - (values[1] if theirs is not None else 0.0)
    defined = np.isfinite(found)
    whole = sign * (mine.values[name] - (0.0 if theirs is None else theirs.values[name]))
    if not np.isfinite(whole) or defined.mean() < 1 - UNDEFINED:
        raise UserError(
            KEY,
            f"'{requirement.text}': {name} is undefined on {(~defined).sum():,} of {number:,} draws of {mine.n:,} samples",
            "measure more samples, or choose another metric",
        )
    return resampled(whole, found[defined], mine.n, margin, alpha)


def parts_of(name: str, values: Mapping[str, float]) -> list[tuple[int, float]] | None:
    """(samples, slope) of each group of labels whose accuracies the harmonic mean 2ab/(a + b) is made of; None for others."""
    if name != "harmonic" or not {"accuracy_old", "accuracy_new"} <= values.keys():
        return None
    a, b = values["accuracy_old"], values["accuracy_new"]
    if not a * b:
        return None
    counts = int(values["samples_old"]), int(values["samples_new"])
    return [(n, 2 * other**2 / (a + b) ** 2) for n, other in zip(counts, (b, a), strict=True)]


def drawn(n: int, number: int) -> Iterator[Array]:
    """How often each of n samples is drawn, with replacement, `[n]` for each draw; the same in each call."""
    random, even = np.random.default_rng(SEED), np.full(n, 1 / n)
    for _ in range(number):
        yield random.multinomial(n, even).astype(np.float64)


def is_mean(side: Scores, name: str, each: Array, draws: Sequence[Array]) -> bool:
    """Whether the metric is the mean of its values on each sample that has one: on all samples, and on draws of them.

    A metric of a group of samples, such as those with old labels, has values on these alone.
    """
    there = np.isfinite(each)
    if not there.any() or not equal(float(each[there].mean()), side.values[name]):
        return False
    values = np.where(there, each, 0.0)
    means = (float(d @ values) / float(d @ there) if (d @ there) else math.nan for d in draws)
    return all(equal(a, b) for a, b in zip(side.on_draws(name, draws), means, strict=True))
