"""Chooses the fused kernel of an optimizer: one pass over all weights, on a CPU up to nine times as fast as torch's choice."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _get_fused_kernels_supported_devices  # type: ignore[attr-defined]

from sft_lightning.core.errors import UserError
from sft_lightning.modules.step_hooks import unscales_itself
from sft_lightning.sharding.tensors import local

FUSED = (torch.optim.AdamW, torch.optim.Adam)
"""Optimizers for which the fused kernel is the default. Torch's for SGD fails if some weights have momentum and others, thawed
later, have none yet.
"""
KERNELS = {"fused": None, "foreach": None, "differentiable": False, "capturable": False}
"""Arguments that choose a kernel, with the values that choose none"""


def choose_kernel(optimizer: Optimizer, arguments: Mapping[str, Any] | None) -> None:
    """Makes an optimizer of torch use its fused kernel where it has one for these weights, unless `arguments` choose one.

    It computes the same as the others up to rounding. A resumed run has the kernel of its checkpoint.

    Raises:
        UserError: `arguments` choose the fused kernel, and there are weights that it steps wrongly.
    """
    if type(optimizer).__module__.startswith("torch.optim"):
        # The scaler is to unscale gradients before the step, as for other kernels: penalties and clipping need that.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    weights = [p for g in optimizer.param_groups for p in g["params"]]
    if (arguments or {}).get("fused") and not all(is_dense(local(p)) for p in weights):
        raise UserError(
            "model.optimizer_args",
            "fused: true would step wrong values, because a weight is a part of a larger tensor with gaps",
            "leave fused out",
        )
    if type(optimizer) not in FUSED or any(
        (arguments or {}).get(name) not in (None, off) for name, off in KERNELS.items()
    ):
        return
    devices = _get_fused_kernels_supported_devices()
    if all(p.is_floating_point() and p.device.type in devices and is_dense(local(p)) for p in weights):
        for group in (optimizer.defaults, *optimizer.param_groups):
            group["fused"] = True


def is_dense(tensor: Tensor) -> bool:
    """Whether its values fill its memory, in any order of dimensions. Moments of other tensors have another layout."""
    return torch.empty_like(tensor, device="meta").stride() == tensor.stride()


@torch.no_grad()
def match_layouts(optimizer: Optimizer) -> None:
    """Gives gradients and moments the layout of their weights, such as channels-last, for a fused kernel.

    On a CPU it goes through memory in order: with another layout it would move each weight by another one's gradient.
    """
    for group in optimizer.param_groups:
        if not group.get("fused"):
            continue
        for weight in group["params"]:
            grad = weight.grad
            if grad is None or grad.layout is not torch.strided:
                continue
            stride = weight.stride()
            if grad.stride() != stride:
                weight.grad = torch.empty_like(weight).copy_(grad)
            if len(stride) < 2:  # there is one layout
                continue
            moments = optimizer.state.get(weight, {})
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.stride() != stride and value.shape == weight.shape:
                    moments[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def check_unscaling(optimizer: Optimizer, precision: object, penalised: str, clips: bool) -> None:
    """Raises UserError before training if the optimizer's step unscales gradients and something must act on them before.

    Args:
        optimizer: The optimizer.
        precision: Trainer's precision plugin.
        penalised: Name of the variant if it acts on gradients or around steps, else empty.
        clips: Whether Trainer clips gradients.
    """
    name = type(optimizer).__name__
    if clips and isinstance(precision, MixedPrecision) and getattr(optimizer, "_step_supports_amp_scaling", False):
        raise UserError(
            "trainer.gradient_clip_val",
            f"cannot be used with {name} and trainer.precision {precision.precision}, because {name} unscales gradients "
            "inside its step",
            "leave it out, or choose another optimizer, such as AdamW",
        )
    if penalised and unscales_itself(optimizer, precision):
        raise UserError(
            "model.optimizer",
            f"{name} unscales gradients inside its step with trainer.precision "
            f"{getattr(precision, 'precision', '16-mixed')}, so the penalty of {penalised} would come too late",
            "choose another optimizer, such as AdamW, or trainer.precision bf16-mixed",
        )


def kernel_of(optimizer: Optimizer) -> str:
    """'fused', 'foreach' or 'single' for torch's own optimizers, as their weights are stepped now; empty for others."""
    group = optimizer.param_groups[0]
    if not type(optimizer).__module__.startswith("torch.optim") or "foreach" not in group:
        return ""
    if group.get("fused"):
        return "fused"
    on_gpu = all(p.device.type in ("cuda", "xpu") for g in optimizer.param_groups for p in g["params"])
    return "foreach" if (on_gpu if group["foreach"] is None else group["foreach"]) else "single"
