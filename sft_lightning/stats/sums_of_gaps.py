"""Tests of the expected calibration error, the sum over bins of |mean gap|, of one model or against another.

The plain bootstrap is wrong here: |mean gap| is too large on few samples where the gap is near 0, so that a well calibrated
model looks worse than it is, and one more draw of the same samples looks worse again. Where one of two models is well
calibrated, up to 60 % of simulated gates at the margin were wrong. So each bin's error is bounded instead.
"""

import math
from collections.abc import Iterable

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from sft_lightning.stats.correction import POWER
from sft_lightning.stats.on_samples import MOST, SampleTest
from sft_lightning.stats.summary import Array

CLEAR = 2.0
"""Standard errors from which on the sign of a bin's gap is taken as known"""


def sums_of_gaps(first: Array, second: Array | None, draws: Iterable[Array], margin: float, alpha: float) -> SampleTest:
    """Tests −Σ |mean gap| of a model, or of one model minus that of another on the same samples: more is better.

    Let g be a bin's true mean gap and g + h the observed one. Then s·h ≤ |g + h| − |g| ≤ |h| with s the sign of g, and it is
    s·h where the gap is clear. The difference of two models' errors in a bin is also at most |d + e| + |d|, with d the true
    difference of their gaps and e its error, so that equal models are seen to be equal. h and e are those of the draws, and |d|
    is taken as |observed| + |e|. The p values are of the sums of these bounds, and so rather too large.

    Args:
        first: `[N, B]` gaps of N samples: confidence − right in the bin of the confidence, 0 in the others.
        second: Those of the other model; None to test a level.
        draws: How often each sample is drawn, `[N]` for each draw.
        margin: A difference, or minus a level.
        alpha: Level.
    """
    n, size = first.shape
    both = first if second is None else np.hstack([first, second])
    drawn = np.stack([draw @ both for draw in draws]) / n
    one, lower, upper, gap, error = bounds(first, drawn[:, :size])
    above, below = -lower, upper  # of the true sum minus the observed one, and the reverse
    value = one
    if second is not None:
        other, lower_too, upper_too, gap_too, error_too = bounds(second, drawn[:, size:])
        d, e = gap_too - gap, error_too - error
        most = np.abs(d + e) + np.abs(d) + np.abs(e)
        above, below = np.minimum(upper_too - lower, most), np.minimum(upper - lower_too, most)
        value = one - other
    over, under, wanted = above.sum(1), below.sum(1), -margin
    p_above, p_below = p_of(over, wanted - value), p_of(under, value - wanted)
    side = over if value < wanted else under
    return SampleTest(
        n,
        -value,
        -(value + reach(over, alpha)),
        -(value - reach(under, alpha)),
        p_above,
        p_below,
        f"bounded bootstrap, {len(drawn):,} draws",
        needed=needed(side, abs(value - wanted), n, alpha),
    )


def bounds(gaps: Array, drawn: Array) -> tuple[float, Array, Array, Array, Array]:
    """(Σ |mean gap|, bounds `[draws, B]` of each |mean gap|'s error from below and above, mean gaps `[B]`, their errors)."""
    mean = gaps.mean(0)
    error = drawn - mean
    clear = np.abs(mean) > CLEAR * gaps.std(0) / math.sqrt(len(gaps))
    lower = np.where(mean >= 0, error, -error)
    return float(np.abs(mean).sum()), lower, np.where(clear, lower, np.abs(error)), mean, error


def p_of(errors: Array, distance: float) -> float:
    """Chance of an error of at least the distance: the larger one of the draws' share and of the normal approximation."""
    spread = float(np.std(errors, ddof=1))
    share = (1 + int((errors >= distance).sum())) / (len(errors) + 1)
    if spread == 0:
        return share if distance > float(errors[0]) else 1.0
    return max(share, float(stats.norm.sf((distance - float(errors.mean())) / spread)))


def reach(errors: Array, alpha: float) -> float:
    """Error that is exceeded with chance alpha."""
    far = float(errors.mean()) + float(stats.norm.isf(alpha)) * float(np.std(errors, ddof=1))
    return max(float(np.quantile(errors, 1 - alpha)), far)


def needed(errors: Array, distance: float, n: int, alpha: float) -> int | None:
    """About how many samples decide, as errors shrink with their root; None if no usual number does."""
    far = float(errors.mean()) + float(stats.norm.isf(alpha) + stats.norm.ppf(POWER)) * float(np.std(errors, ddof=1))
    if distance == 0:
        return None
    number = math.ceil(n * (far / distance) ** 2)
    return number if number < MOST else None
