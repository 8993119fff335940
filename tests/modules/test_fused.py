"""The fused kernel is the default where torch has one, and computes what the other kernels compute."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.modules import L2SPSFT, PlainSFT
from sft_lightning.modules.fused import choose_kernel, kernel_of, match_layouts
from tests.refused import refused
from tests.support import Scaled, digits, fit, make, pretrained_mlp, weights

SINGLE: dict[str, Any] = {"foreach": False}


def moved(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest distance of a tensor from what is expected, relative to its length."""
    return max(float((found[n] - w).norm() / w.norm()) for n, w in expected.items())


@pytest.mark.parametrize(("variant", "optimizer"), product(["plain", "l2sp-loss", "l2sp-decoupled"], ["AdamW", "Adam"]))
def test_it_gives_the_weights_of_the_other_kernels(pretrained: str, variant: str, optimizer: str) -> None:
    def trained(**kernel: Any) -> dict[str, Tensor]:
        settings = {"optimizer": optimizer, "optimizer_args": kernel, "lr": 1e-2, "weight_decay": 0.01}
        module = make(variant, pretrained, **settings)
        trainer = fit(module, digits(), max_steps=6, accelerator="cpu", precision="64-true", gradient_clip_val=0.5)
        assert kernel_of(trainer.optimizers[0]) == ("single" if kernel else "fused")
        return weights(module)

    assert moved(trained(), trained(**SINGLE)) < 1e-12


def test_it_works_with_clipping_a_penalty_and_either_mixed_precision(pretrained: str) -> None:
    def trained(**settings: Any) -> tuple[dict[str, Tensor], str]:
        module = L2SPSFT(pretrained_mlp(pretrained), lr=1e-2, alpha=0.1, optimizer_args=settings.pop("arguments", None))
        trainer = fit(module, digits(), max_steps=4, gradient_clip_val=0.1, **settings)
        return weights(module), kernel_of(trainer.optimizers[0])

    expected, kernel = trained(arguments=SINGLE)
    assert kernel == "single"
    for given in (None, {"fused": True}):
        found, kernel = trained(plugins=[Scaled()], arguments=given)
        assert kernel == "fused" and moved(found, expected) < 1e-5
        low, kernel = trained(precision="bf16-mixed", arguments=given)
        assert kernel == "fused" and all(w.isfinite().all() for w in low.values())


def test_a_resumed_run_has_the_kernel_of_its_checkpoint(pretrained: str, tmp_path: Path) -> None:
    """A run that an earlier version began ends as that version would have ended it."""
    first = PlainSFT(pretrained_mlp(pretrained), optimizer_args=SINGLE)
    fit(first, digits(), max_steps=2).save_checkpoint(tmp_path / "old.ckpt")
    resumed = PlainSFT(pretrained_mlp(pretrained))
    trainer = fit(resumed, digits(), max_steps=4, ckpt_path=str(tmp_path / "old.ckpt"))
    assert kernel_of(trainer.optimizers[0]) == "single"


@pytest.mark.parametrize("precision", ["64-true", "bf16-true"])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(pretrained: str, tmp_path: Path, precision: Any) -> None:
    """In double precision, too: a network that is built in single precision must not round its checkpoint's weights."""
    first, whole, resumed = (PlainSFT(pretrained_mlp(pretrained), lr=1e-2) for _ in range(3))
    fit(first, digits(), max_epochs=1, precision=precision).save_checkpoint(tmp_path / "first.ckpt")
    fit(whole, digits(), max_epochs=2, precision=precision)
    fit(resumed, digits(), max_epochs=2, precision=precision, ckpt_path=str(tmp_path / "first.ckpt"))
    assert all(torch.equal(w, weights(whole)[n]) for n, w in weights(resumed).items())


@pytest.mark.parametrize(
    ("optimizer", "arguments", "kernel"),
    [
        (torch.optim.AdamW, {}, "fused"),
        (torch.optim.AdamW, {"fused": None}, "fused"),
        (torch.optim.AdamW, {"fused": False}, "single"),
        (torch.optim.AdamW, {"foreach": True}, "foreach"),
        (torch.optim.AdamW, {"differentiable": True}, "single"),
        (torch.optim.SGD, {}, "single"),
        (torch.optim.LBFGS, {}, ""),
    ],
)
def test_a_kernel_that_is_given_stays(optimizer: Any, arguments: dict[str, Any], kernel: str) -> None:
    made = optimizer([torch.nn.Parameter(torch.ones(3))], lr=0.1, **arguments)
    choose_kernel(made, arguments)
    assert kernel_of(made) == kernel


@pytest.mark.parametrize("what", ["gradient", "moments"])
def test_other_layouts_than_the_weights_step_the_right_values(what: str) -> None:
    """As after a checkpoint whose weights were not channels-last, or with a gradient that somebody set."""

    def stepped(fused: bool) -> Tensor:
        random = torch.Generator().manual_seed(0)
        start = torch.randn(4, 3, 5, 5, generator=random)
        weight = torch.nn.Parameter(start.to(memory_format=torch.channels_last))
        optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused, foreach=False)
        for _ in range(3):
            grad = torch.randn(4, 3, 5, 5, generator=random)
            weight.grad = grad if what == "gradient" else grad.to(memory_format=torch.channels_last)
            match_layouts(optimizer)
            optimizer.step()
            if what == "moments":
                for name in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[weight][name] = optimizer.state[weight][name].contiguous()
        return weight.detach()

    torch.testing.assert_close(stepped(True), stepped(False), rtol=1e-6, atol=1e-6)


def test_weights_with_gaps_between_them_have_no_fused_kernel() -> None:
    weight = torch.nn.Parameter(torch.ones(6, 8)[:, ::2])
    optimizer = torch.optim.AdamW([weight])
    choose_kernel(optimizer, None)
    assert kernel_of(optimizer) == "single"
    with refused("model.optimizer_args", "fused"):
        choose_kernel(torch.optim.AdamW([weight], fused=True), {"fused": True})


def test_two_kernels_at_once_are_refused(pretrained: str) -> None:
    module = PlainSFT(pretrained_mlp(pretrained), optimizer_args={"fused": True, "foreach": True})
    with refused("model.optimizer_args", "fused", "foreach"):
        fit(module, digits(), max_steps=1)
