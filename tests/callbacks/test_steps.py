"""Limits of training are in optimizer steps: a file means the same experiment however a step is split."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.refused import refused
from tests.support import FewDigits, digits, fit, make, moved, weights


class Rows(Callback):
    """Rows of the data that each optimizer step was trained on, by epoch."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, list[int]]] = []
        self._open: list[int] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._open += batch["rows"]
        if not trainer.fit_loop.epoch_loop._should_accumulate():
            self.steps.append((trainer.current_epoch, sorted(self._open)))
            self._open = []

    @property
    def epochs(self) -> list[list[list[int]]]:
        """Of each epoch its steps' rows."""
        return [[rows for e, rows in self.steps if e == epoch] for epoch in sorted({e for e, _ in self.steps})]


def trained(pretrained: str, data: dict[str, Any], **settings: Any) -> tuple[Rows, Any]:
    rows, module = Rows(), make("plain", pretrained)
    fit(module, FewDigits(**data), callbacks=[rows], precision="64-true", **settings)
    return rows, weights(module)


LIMITS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "a number of steps": ({"limit_train_batches": 3}, [3, 3]),
    "a number of steps, the ragged one among them": ({"limit_train_batches": 6}, [6, 6]),
    "more steps than there are": ({"limit_train_batches": 50}, [6, 6]),
    "a share": ({"limit_train_batches": 0.5}, [3, 3]),
    "a share that is cut down to whole steps": ({"limit_train_batches": 0.4}, [2, 2]),
    "all": ({"limit_train_batches": 1.0}, [6, 6]),
    "a share to overfit": ({"overfit_batches": 0.4}, [2, 2]),
    "steps to overfit": ({"overfit_batches": 2}, [2, 2]),
}


@pytest.mark.parametrize("case", LIMITS)
def test_the_same_samples_are_trained_with_and_without_accumulation(case: str, pretrained: str) -> None:
    limits, steps = LIMITS[case]
    data = {"sizes": (45, 20, 20), "batch_size": 8}  # five whole steps and one of 5 samples
    whole, end = trained(pretrained, data, max_epochs=2, **limits)
    assert [len(epoch) for epoch in whole.epochs] == steps
    for accumulate in (2, 4):
        parts, other = trained(pretrained, data, max_epochs=2, accumulate_grad_batches=accumulate, **limits)
        assert parts.epochs == whole.epochs, f"{accumulate} micro-batches a step change what is trained"
        assert moved(end, other) < 1e-9


def test_a_second_fit_of_one_trainer_has_the_same_limit(pretrained: str) -> None:
    rows, module = Rows(), make("plain", pretrained)
    settings = {"limit_train_batches": 2, "accumulate_grad_batches": 2, "callbacks": [rows]}
    trainer = fit(module, FewDigits((45, 20, 20)), max_epochs=1, **settings)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, datamodule=FewDigits((45, 20, 20)))
    assert [len(epoch) for epoch in rows.epochs] == [2, 2]


@pytest.mark.parametrize("name", ["limit_train_batches", "overfit_batches"])
def test_a_share_of_less_than_one_step_is_refused(name: str, pretrained: str) -> None:
    limit = {name: 0.1, "accumulate_grad_batches": 2}
    with refused(f"trainer.{name}", "0.1", "6 optimizer steps", "0.167"):
        trained(pretrained, {"sizes": (45, 20, 20)}, max_epochs=1, **limit)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_overfit_batches_takes_the_same_samples_in_the_same_order_each_epoch(accumulate: int, pretrained: str) -> None:
    data = {"sizes": (80, 20, 20), "batch_size": 8}
    settings = {"max_epochs": 3, "accumulate_grad_batches": accumulate}
    rows, _ = trained(pretrained, data, overfit_batches=2, **settings)
    first, *others = rows.epochs
    assert len(first) == 2 and len({r for step in first for r in step}) == 16
    assert all(epoch == first for epoch in others), f"other samples in a later epoch: {rows.epochs}"
    shuffled, _ = trained(pretrained, data, **settings)
    assert shuffled.epochs[0][:2] == first, "not the samples that training begins with"
    assert shuffled.epochs[1][:2] != first, "without the flag the order is drawn anew"


def test_overfitting_drives_the_loss_on_its_samples_to_nothing(pretrained: str) -> None:
    module = make("plain", pretrained, lr=0.05)
    trainer = fit(module, digits(batch_size=16), max_epochs=30, overfit_batches=1, limit_val_batches=0)
    assert float(trainer.callback_metrics["train/loss"]) < 0.05


@pytest.mark.slow
def test_two_processes_train_the_same_samples_as_one(tmp_path: Path) -> None:
    import json
    import subprocess
    import sys

    found = {}
    for ranks, accumulate in ((1, 1), (2, 2)):
        name = f"r{ranks}a{accumulate}"
        line = (
            f"fit --config experiments/digits/plain.yaml --run_id {name} --experiment e --wandb disabled --quiet true"
        )
        trainer = (
            f"max_epochs=3 limit_train_batches=3 accumulate_grad_batches={accumulate} devices={ranks} accelerator=cpu"
        )
        flags = [f"--trainer.{f}" for f in f"{trainer} log_every_n_steps=1".split()]
        where = ["--runs_dir", str(tmp_path), "--test_after_fit", "false"]
        done = subprocess.run(
            [sys.executable, "-m", "sft_lightning", *line.split(), *flags, *where], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        rows = [json.loads(r) for r in (tmp_path / "e" / name / "metrics.jsonl").read_text().splitlines()]
        found[name] = [(r["step"], r["train/items"], r["train/loss"]) for r in rows if "train/items" in r]
    assert [(s, n) for s, n, _ in found["r1a1"]] == [(step, 20) for step in range(1, 10)]
    for name, rows in found.items():
        for one, other in zip(found["r1a1"], rows, strict=True):
            assert one == pytest.approx(other, rel=1e-4), f"{name} trains something else than one process"
