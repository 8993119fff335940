"""Solves a scale and a shift of the new logits on validation samples, so that new labels do not outweigh the old ones."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.tasks import RowTask
from sft_lightning.tasks.partial import covered_rows

if TYPE_CHECKING:
    from sft_lightning.modules.base import SFTModule

MOST = 1e3
"""Largest scale, and its inverse the smallest: with separable validation samples there would be no best one"""


def solve_correction(
    logits: Tensor, y: Tensor, known: int, biased: bool = True, loss: Callable[[Tensor], Tensor] | None = None
) -> tuple[float, float]:
    """Finds a and b with the least cross-entropy of [z_old, a·z_new + b], with equal total weight of old and new items.

    Wu et al. (2019), Large Scale Incremental Learning, eq. 2 and 4, on balanced samples. In double precision, by L-BFGS.

    Args:
        logits: `[N, C]`, uncorrected.
        y: `[N]` labels; items of both groups.
        known: Number of old labels, which come first.
        biased: Whether there is a shift b; otherwise it is 0.
        loss: The loss of corrected logits, on the CPU, instead of the cross-entropy.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    z, y = logits.detach().double().cpu(), y.cpu()
    old = y < known
    weights = torch.where(old, 0.5 / old.sum(), 0.5 / (~old).sum())

    def objective(at: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            p = torch.from_numpy(at.copy()).requires_grad_()
            shift = p[1] if biased else 0.0
            corrected = torch.cat([z[:, :known], p[0].exp() * z[:, known:] + shift], 1)
            if loss is None:
                value = (weights * F.cross_entropy(corrected, y, reduction="none")).sum()
            else:
                value = loss(corrected)
            (gradient,) = torch.autograd.grad(value, p)
        return float(value.detach()), gradient.numpy()

    bounds = [(-np.log(MOST), np.log(MOST)), *([(-MOST, MOST)] if biased else [])]
    start = np.zeros(len(bounds))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"gtol": 1e-9, "ftol": 0.0})
    return float(np.exp(found.x[0])), float(found.x[1]) if biased else 0.0


@torch.no_grad()
def fit_correction(module: "SFTModule", biased: bool) -> tuple[float, float]:
    """`solve_correction` on all validation samples, the same on each rank."""
    trainer: Any = module.trainer
    data, task = trainer.datamodule, module.task
    assert task is not None and module.network is not None and module.info is not None
    logits, targets, covers = list[Tensor](), list[Tensor](), list[Tensor]()
    modes = {m: m.training for m in module.modules()}
    module.eval()
    with torch.random.fork_rng(devices=[]):  # iterating over a loader draws a random number
        for raw in data.validation_samples():
            batch = trainer.strategy.batch_to_device(raw, module.device)
            batch = trainer.precision_plugin.convert_input(data.receive(batch))
            with trainer.precision_plugin.forward_context():
                output = module.network(batch["x"], task.select(batch))
            logits.append(output.logits.float())
            targets.append(batch["y"])
            covers += [] if (covered := covered_rows(batch)) is None else [covered]
    for m, mode in modes.items():
        m.training = mode
    y, known = torch.cat(targets), module.info.known
    covered = torch.cat(covers).cpu() if covers else None
    old = y < known if covered is None else ~covered[:, known:].any(1)
    if not 0 < int(old.sum()) < len(y):
        raise UserError(
            "model.correction",
            "validation needs old and new validation samples, and there are none of one group",
            "set data.old, or use norms",
        )
    loss = None if covered is None else in_part(task, y.cpu(), covered, old)
    return solve_correction(torch.cat(logits), y, known, biased, loss)


def in_part(task: Any, y: Tensor, covered: Tensor, old: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss of items that are annotated in part, old and new ones `[N]` with equal total weight."""
    assert isinstance(task, RowTask)

    def loss(logits: Tensor) -> Tensor:
        parts = [task.covered_loss(logits[mine], y[mine], covered[mine]) / mine.sum() for mine in (old, ~old)]
        return 0.5 * (parts[0] + parts[1])

    return loss
