"""The averaged weights against the closed form, where they are used, and what a resumed run goes on with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from sft_lightning.callbacks import EMA
from sft_lightning.networks import spec
from tests.support import VARIANTS, NormNet, Recorder, digits, fit, make, weights

DECAY = 0.8
TRAINED = ["encoder.1.weight", "encoder.1.bias", "encoder.4.weight", "encoder.4.bias", "head.weight", "head.bias"]


def averaged(
    start: dict[str, Tensor], steps: list[dict[str, Tensor]], decay: float, warmup: bool = True
) -> dict[str, Tensor]:
    """w̄ = Π d_t·w_0 + Σ_i (1 − d_i)·Π_(t>i) d_t·w_i, with d_t = d, or min(d, (1 + t)/(10 + t)) in warm-up."""
    decays = [min(decay, (1 + t) / (10 + t)) if warmup else decay for t in range(len(steps))]
    kept = [float(np.prod(decays[i:])) for i in range(len(steps) + 1)]
    return {
        n: kept[0] * start[n] + sum((1 - decays[i]) * kept[i + 1] * w[n] for i, w in enumerate(steps)) for n in TRAINED
    }


class AtValidation(Callback):
    """The weights that validation ran with."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.weights.append(weights(pl_module))


@pytest.mark.parametrize(("accumulate", "warmup"), [(1, True), (4, True), (1, False)])
def test_average_is_the_closed_form_validates_and_is_the_result(pretrained: str, accumulate: int, warmup: bool) -> None:
    recorder, seen = Recorder(), AtValidation()
    module = make("distill-logits-mse", pretrained, lr=1e-2, ema_decay=DECAY, ema_warmup=warmup)
    fit(
        module,
        digits(shots_per_class=10),
        max_epochs=2,
        limit_val_batches=1,
        precision="64-true",
        accumulate_grad_batches=accumulate,
        callbacks=[recorder, seen],
    )
    per_epoch = len(recorder.weights) // 2
    stepped = {i for i in range(per_epoch) if (i + 1) % accumulate == 0 or i + 1 == per_epoch}
    steps = [w for i, w in enumerate(recorder.weights) if i % per_epoch in stepped]
    half = len(steps) // 2
    for name, value in averaged(recorder.start, steps[:half], DECAY, warmup).items():
        torch.testing.assert_close(seen.weights[0][name], value, rtol=1e-10, atol=1e-12, msg=f"{name} at validation")
    for name, value in averaged(recorder.start, steps, DECAY, warmup).items():
        torch.testing.assert_close(weights(module)[name], value, rtol=1e-10, atol=1e-12, msg=f"{name} in the end")
        assert not torch.allclose(value, steps[-1][name], rtol=1e-3), (
            "the average equals the raw weights: nothing tested"
        )


def test_averaging_does_not_change_what_is_trained(pretrained: str) -> None:
    runs = []
    for decay in (None, DECAY):
        recorder = Recorder()
        module = make("l2sp-loss", pretrained, lr=1e-2, ema_decay=decay)
        fit(module, digits(), max_epochs=2, val_check_interval=0.25, callbacks=[recorder])
        runs.append(recorder.weights)
    for step, (one, other) in enumerate(zip(*runs, strict=True), 1):
        assert all(torch.equal(one[n], other[n]) for n in one), f"raw weights differ after step {step}"


def test_batchnorm_statistics_are_the_students(pretrained_norms: str) -> None:
    recorder = Recorder()
    cls, arguments = VARIANTS["plain"]
    module = cls(spec(NormNet, pretrained=pretrained_norms), lr=1e-2, ema_decay=DECAY, **arguments)
    fit(module, digits(), max_steps=5, callbacks=[recorder])
    assert torch.equal(weights(module)["encoder.2.running_mean"], recorder.weights[-1]["encoder.2.running_mean"])
    assert not torch.equal(weights(module)["encoder.1.weight"], recorder.weights[-1]["encoder.1.weight"])


@pytest.mark.one_in(2)
@pytest.mark.parametrize("saving", ["after validation", "at the end of the epoch", "at the end of training"])
@pytest.mark.parametrize("variant", ["plain", "l2sp-decoupled"])
def test_a_checkpoint_holds_the_average_and_resumes_from_the_raw_weights(
    pretrained: str, tmp_path: Path, variant: str, saving: str
) -> None:
    recorder = Recorder()
    first = make(variant, pretrained, lr=1e-2, ema_decay=DECAY)
    callbacks: list[Callback] = [recorder]
    if saving != "at the end of training":
        at_epoch_end = saving == "at the end of the epoch"
        callbacks.append(ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=at_epoch_end))
    trainer = fit(
        first, digits(), max_epochs=1, enable_checkpointing=True, default_root_dir=tmp_path, callbacks=callbacks
    )
    path = tmp_path / "last.ckpt"
    if saving == "at the end of training":
        trainer.save_checkpoint(path)
    state = torch.load(path, weights_only=True)["state_dict"]
    for name, value in averaged(recorder.start, recorder.weights, DECAY).items():
        torch.testing.assert_close(state[f"network.{name}"], value, rtol=1e-4, atol=1e-5, msg=f"{name} is not averaged")

    whole, resumed = (make(variant, pretrained, lr=1e-2, ema_decay=DECAY) for _ in range(2))
    runs = Recorder(), Recorder()
    fit(whole, digits(), max_epochs=2, callbacks=[runs[0]])
    fit(resumed, digits(), seed=99, max_epochs=2, callbacks=[runs[1]], ckpt_path=str(path))
    for name, value in runs[0].weights[-1].items():
        assert torch.equal(runs[1].weights[-1][name], value), f"raw {name} of the resumed run differs"
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), f"averaged {name} of the resumed run differs"


def test_a_long_average_of_a_short_run_says_how_much_of_the_start_is_left(pretrained: str) -> None:
    """0.999 over 12 steps: 98.8 % of the start without warm-up, and next to nothing with it."""
    went = {}
    for warmup in (False, True):
        recorder = Recorder()
        module = make("plain", pretrained, lr=0.1, ema_decay=0.999, ema_warmup=warmup)
        trainer = fit(module, digits(), max_steps=12, callbacks=[recorder])
        note = next(c for c in trainer.callbacks if isinstance(c, EMA)).note(trainer)  # type: ignore[attr-defined]
        start, end, now = recorder.start, recorder.weights[-1], weights(module)
        apart = [float((now[n] - start[n]).norm() / (end[n] - start[n]).norm()) for n in TRAINED]
        went[warmup] = sum(apart) / len(apart)
        if warmup:
            assert note is None, note
        else:
            assert note is not None and "after 12 steps" in note and "99%" in note and "ema_warmup" in note
    assert went[False] < 0.05 and went[True] > 0.5, f"the average went {went} of the way that the weights went"
