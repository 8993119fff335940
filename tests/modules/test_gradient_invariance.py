"""The split of the work (micro-batches, processes) does not change what is trained or what is measured."""

import json
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from safetensors.torch import load_file

from tests.modules import two_processes
from tests.support import VARIANTS, FewDigits, Recorder, digits, fit, make, moved, weights

EXACT = 1e-6
ROWS = {"shots_per_class": 7, "batch_size": 16}  # 35 rows: two whole steps an epoch and a ragged one of 3


@pytest.fixture(scope="module")
def in_one_piece(pretrained: str) -> dict[str, dict[str, torch.Tensor]]:
    found = {}
    for variant in VARIANTS:
        module = make(variant, pretrained, lr=1e-2)
        trainer = fit(module, digits(**ROWS), max_epochs=3, precision="64-true", gradient_clip_val=1.0)
        assert trainer.global_step == 9
        found[variant] = weights(module)
    return found


@pytest.mark.parametrize("accumulate", [2, 4, 8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_accumulation_does_not_change_the_weights(
    pretrained: str, in_one_piece: dict[str, Any], variant: str, accumulate: int
) -> None:
    module = make(variant, pretrained, lr=1e-2)
    trainer = fit(
        module,
        digits(**ROWS),
        max_epochs=3,
        precision="64-true",
        gradient_clip_val=1.0,
        accumulate_grad_batches=accumulate,
    )
    assert trainer.global_step == 9, "the number of optimizer steps depends on accumulation"
    error = moved(weights(module), in_one_piece[variant])
    assert error < EXACT, f"{variant}: accumulating over {accumulate} micro-batches changes the weights by {error:.1e}"


@pytest.mark.parametrize("accumulate", [1, 4])
def test_gradient_of_a_ragged_step_is_the_mean_over_its_own_samples(pretrained: str, accumulate: int) -> None:
    """3 samples where 16 are expected: the sum over the three is divided by three."""
    recorder, trimmed = Recorder(), Recorder()
    split = {"max_steps": 3, "precision": "64-true", "accumulate_grad_batches": accumulate}
    fit(make("plain", pretrained, optimizer="SGD", lr=0.0), digits(**ROWS), callbacks=[recorder], **split)
    assert recorder.logged[-1]["train/items"] == 3
    image = torch.cat([b["x"]["image"] for b in recorder.batches[2 * accumulate :]])
    y = torch.cat([b["y"] for b in recorder.batches[2 * accumulate :]])
    module = make("plain", pretrained, optimizer="SGD", lr=0.0)
    fit(module, digits(**ROWS), callbacks=[trimmed], **(split | {"max_steps": 1}))
    module.network.zero_grad()
    torch.nn.functional.cross_entropy(module({"image": image}).logits, y).backward()
    for name, parameter in module.network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(recorder.grads[-1][name], parameter.grad, rtol=1e-9, atol=1e-12)


class Scaled(MixedPrecision):
    """Single precision with a gradient scaler."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**12))

    def forward_context(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_scaler_does_not_change_the_weights(pretrained: str, variant: str) -> None:
    """So counts, penalty and clipping all come after unscaling."""
    runs = []
    for plugins in ([], [Scaled()]):
        module = make(variant, pretrained, optimizer="SGD", lr=0.1)
        fit(module, digits(**ROWS), max_epochs=2, gradient_clip_val=0.5, accumulate_grad_batches=2, plugins=plugins)
        runs.append(weights(module))
    error = moved(runs[1], runs[0])
    assert error < 1e-5, f"{variant}: scaling the loss changes the weights by {error:.1e}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_that_the_gradient_scaler_skips_moves_nothing(pretrained: str, variant: str) -> None:
    recorder = Recorder()

    class Displace(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module.network.encoder[1].weight.add_(0.1)  # so that there is something to pull back
            pl_module.network.head.bias.register_hook(lambda gradient: gradient * float("inf"))

    module = make(variant, pretrained, lr=1e-2)
    fit(module, digits(), max_steps=1, plugins=[Scaled()], callbacks=[Displace(), recorder])
    assert not all(g.isfinite().all() for g in recorder.grads[0].values()), "the step was not one to skip"
    different = [n for n, v in recorder.start.items() if not torch.equal(v, weights(module)[n])]
    assert not different, f"{variant}: a skipped step moves {different}"


@pytest.fixture(scope="module")
def in_two_processes(pretrained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One launch of two gloo processes for everything that is compared below."""
    folder = tmp_path_factory.mktemp("two_processes")
    command = [sys.executable, "-m", "tests.modules.two_processes", pretrained, str(folder)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"two processes failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_train_the_same_weights_as_one(in_two_processes: Path, pretrained: str, variant: str) -> None:
    alone = two_processes.train(variant, pretrained, accumulate=1)
    for rank in (0, 1):
        error = moved(load_file(in_two_processes / f"{variant}-{rank}.safetensors"), weights(alone))
        assert error < EXACT, f"{variant}: rank {rank} of two is off by {error:.1e} from one process"


@pytest.mark.parametrize("rows", two_processes.ROWS)
def test_two_processes_measure_the_same_as_one(in_two_processes: Path, pretrained: str, rows: int) -> None:
    """No sample is dropped or counted twice, also where a rank has fewer, or none."""
    alone = two_processes.measure(rows, pretrained)
    together = json.loads((in_two_processes / f"metrics-{rows}.json").read_text())
    assert alone.keys() == together.keys()
    assert {"val/loss", "val/accuracy", "drift/kl", "retention/accuracy", "retention/agreement"} <= alone.keys()
    for name, value in alone.items():
        assert together[name] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), f"{name} on {rows} rows"


def test_a_batch_that_does_not_divide_is_refused_with_a_number_to_use(pretrained: str) -> None:
    from sft_lightning.errors import UserError

    with pytest.raises(UserError, match=r"batch_size 6 .* does not divide by .* 4; use 8"):
        fit(make("plain", pretrained), FewDigits(batch_size=6), max_steps=1, accumulate_grad_batches=4)
