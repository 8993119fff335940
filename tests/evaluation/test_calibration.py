"""Calibration of both heads, the standard error, and what was lost above chance, against scikit-learn and by hand."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss
from torch import Tensor

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.cli.main import main
from sft_lightning.core.structures import TaskInfo
from sft_lightning.evaluation.beside import of_both_heads
from sft_lightning.runs.load import load
from sft_lightning.tasks import make_task
from tests.exactness.measuring import calibration_error
from tests.refused import check_printed, refused
from tests.support import OLD, digits, fit, make, outputs_on, quiet_trainer


def by_hand(logits: Tensor, y: Tensor) -> dict[str, float]:
    """Each class against the others, summed: the Brier score of several classes."""
    p = logits.double().softmax(1).numpy()
    ones = (brier_score_loss(y == k, p[:, k], labels=[0, 1]) for k in range(p.shape[1]))
    return {"ece": calibration_error(logits.double().numpy(), y.numpy()), "brier": float(sum(ones))}


@pytest.mark.parametrize("split", ["val", "test"])
def test_both_heads_have_it_before_and_after(pretrained: str, split: str) -> None:
    source, data, monitor = digits(OLD), digits(), RetentionMonitor(digits(OLD), calibration=True)
    module = make("plain", pretrained, lr=1e-2)
    trainer = fit(module, data, max_epochs=2, callbacks=[monitor])
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if split == "test":
        (found,) = quiet_trainer(callbacks=[monitor]).test(module, data, verbose=False)
    source.setup()
    source.settle(module.teacher.network.input_spec)  # type: ignore[union-attr]
    (new, y), (old, right) = outputs_on(module.network, data, split), outputs_on(module.network, source, split)
    assert old.source_logits is not None
    for name, value in by_hand(new.logits, y).items():
        assert found[f"{split}/{name}"] == pytest.approx(value, abs=1e-5)
    for name, value in by_hand(old.source_logits, right).items():
        assert found[f"retention/{name}"] == pytest.approx(value, abs=1e-5)
    start, _ = outputs_on(module.teacher.network, source, split)  # type: ignore[union-attr]
    assert start.source_logits is not None
    first = accuracy_score(right, start.source_logits.argmax(1))
    if split == "val":
        assert monitor.before.keys() >= {"val/ece", "val/brier", "retention/ece", "retention/brier"}
        for name, value in by_hand(start.source_logits, right).items():
            assert monitor.before[f"retention/{name}"] == pytest.approx(value, abs=1e-5)
        assert monitor.before["retention/lost_above_chance"] == 0

    now, chance = accuracy_score(right, old.source_logits.argmax(1)), np.bincount(right).max() / len(right)
    assert found["retention/accuracy_se"] == pytest.approx(
        np.std(old.source_logits.argmax(1).numpy() == right.numpy()) / np.sqrt(len(right)), rel=1e-6
    )
    assert found["retention/lost_above_chance"] == pytest.approx((first - now) / (first - chance), rel=1e-5)


def test_where_nothing_has_probabilities_it_is_refused() -> None:
    regression, classes = make_task(TaskInfo("regression", 1)), make_task(TaskInfo("classification", 3))
    device = next(iter(classes.make_metrics().values())).device
    with refused("calibration", "regression"):
        of_both_heads(regression, None, device)
    assert of_both_heads(regression, classes, device) is None, "the source head alone has them"
    assert of_both_heads(classes, None, device) is not None


@pytest.mark.slow
def test_it_may_choose_the_checkpoint_where_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    flags = ["--runs_dir", str(tmp_path), "--experiment", "a", "--wandb", "disabled", "--quiet", "true"]
    epochs = ["--trainer.max_epochs", "20", "--trainer.check_val_every_n_epoch", "2", "--select_by", "val/ece"]
    plain = ["fit", "--config", "experiments/digits/plain.yaml", *flags, *epochs]
    assert main([*plain, "--calibration", "true", "--run_id", "one"]) == 0
    run = load(tmp_path / "a/one")
    rows = [row for row in run.history() if "val/ece" in row and row["step"]]
    best = min(rows, key=lambda row: row["val/ece"])
    assert run.record["selected"]["by"] == "val/ece" and run.record["selected"]["step"] == best["step"]
    assert run.metric("val/accuracy", "best") == best["val/accuracy"]
    assert main([*plain, "--run_id", "two"]) == 2
    check_printed(capfd.readouterr().err, "select_by", "calibration: true")
    probe = [
        "fit",
        "--config",
        "experiments/digits/probe.yaml",
        *flags,
        "--select_by",
        "val/ece",
        "--calibration",
        "true",
    ]
    assert main([*probe, "--run_id", "three"]) == 2
    check_printed(capfd.readouterr().err, "select_by", "LinearProbe")
