"""Solves a linear layer on fixed features to convergence, and chooses the strength of its penalty on validation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits `[R, C]` of all rows and targets `[N, …]` of all items → the loss summed over items, a scalar."""

TOLERANCE = 1e-9  # largest entry of the gradient of the objective per item
NEARLY = 1e-6  # a gradient that still counts as converged, if rounding ends the line search early
MOST_STEPS = 10_000
STEP = 10.0**0.5  # ratio of neighbouring strengths
ENDS = (1e-8, 1e8)  # limits to which a grid is extended


class Linear(NamedTuple):
    """Weight `[C, D]` and bias `[C]`, or None for a layer without one; double precision."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, x: Tensor) -> Tensor:
        """Logits `[N, C]` of features `[N, D]`."""
        logits = x @ self.weight.T
        return logits if self.bias is None else logits + self.bias


@dataclass(frozen=True)
class Solution:
    """The solution for a strength, and its validation results."""

    strength: float
    layer: Linear
    loss: float
    """Training loss per item, without the penalty"""
    steps: int
    converged: bool
    metric: float = float("nan")
    """The validation metric that chooses; more is better"""
    val_loss: float = float("nan")

    def plain(self) -> dict[str, float | int | bool]:
        """The entries for a record."""
        return {"strength": self.strength, "loss": self.loss, "steps": self.steps, "converged": self.converged}


def solve(x: Tensor, y: Tensor, loss: Loss, start: Linear, strength: float) -> Solution:
    """Minimises Σ loss(W·x + b, y) + (strength/2)·‖W‖² by L-BFGS; the bias is not penalised.

    Args:
        x: Features, `[R, D]` in double precision; R = N unless an item has several rows.
        y: Targets of N items, `[N]`, or `[N, C]` for several labels.
        loss: Summed over items, and convex in the logits.
        start: Layer to start from; affects the time only.
        strength: At least 0. scikit-learn's LogisticRegression has C = 1/strength, its Ridge alpha = strength/2.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    outputs, width, n = len(start.weight), x.shape[1], len(y)

    def layer(flat: Array) -> tuple[Tensor, Linear]:
        parameters = torch.from_numpy(flat.copy()).to(x.device).requires_grad_()
        weight = parameters[: outputs * width].view(outputs, width)
        return parameters, Linear(weight, None if start.bias is None else parameters[outputs * width :])

    @torch.enable_grad()
    def objective(flat: Array) -> tuple[float, Array]:
        parameters, now = layer(flat)
        value = (loss(now(x), y) + 0.5 * strength * now.weight.square().sum()) / n
        (gradient,) = torch.autograd.grad(value, parameters)
        return float(value.detach()), gradient.cpu().numpy()

    first = torch.cat([t.reshape(-1) for t in start if t is not None]).cpu().numpy()
    options = {"maxcor": 20, "maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "ftol": 0.0, "gtol": TOLERANCE}
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options=options)
    with torch.no_grad():
        weight, bias = layer(found.x)[1]
        at = Linear(weight.detach(), None if bias is None else bias.detach())
        value = float(loss(at(x), y)) / n
    return Solution(strength, at, value, int(found.nit), bool(np.abs(found.jac).max() <= NEARLY))


def zeros(outputs: int, width: int, bias: bool, like: Tensor) -> Linear:
    """A layer of zeros to start from."""
    return Linear(like.new_zeros(outputs, width), like.new_zeros(outputs) if bias else None)


def path(strengths: Sequence[float], extend: bool, at: Callable[[float, Linear | None], Solution]) -> list[Solution]:
    """Solutions for all strengths, ascending; each but the strongest starts from its stronger neighbour's.

    With `extend`, adds strengths at an end while the best lies there, up to ENDS.

    Args:
        strengths: Distinct strengths, in any order.
        extend: Whether to add strengths beyond the given ones.
        at: Solves for a strength, from a start or from zeros, and measures on validation.
    """
    found: list[Solution] = []
    for strength in sorted(strengths, reverse=True):
        found.insert(0, at(strength, found[0].layer if found else None))
    while extend and len(found) > 1 and (end := end_of(found)) is not None:
        strength = found[0].strength / STEP if end == "lowest" else found[-1].strength * STEP
        if not ENDS[0] <= strength <= ENDS[1]:
            break
        beside = found[0 if end == "lowest" else -1]
        found.insert(0 if end == "lowest" else len(found), at(strength, beside.layer))
    return found


def best_of(found: Sequence[Solution]) -> Solution:
    """The best solution on validation: by the metric, then the lower loss, then the higher strength. NaN is worst."""

    def key(s: Solution) -> tuple[float, float, float]:
        metric, loss = (v if v == v else -np.inf for v in (s.metric, -s.val_loss))
        return metric, loss, s.strength

    return max(found, key=key)


def end_of(found: Sequence[Solution]) -> str | None:
    """At which end of the ascending strengths the best solution lies: 'lowest', 'highest', or None."""
    best = best_of(found)
    if len(found) < 2:
        return None
    return "lowest" if best is found[0] else "highest" if best is found[-1] else None
