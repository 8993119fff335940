"""How many samples are compared with the teacher: it follows from the settings, is said, and the teacher sees each once."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import Batch, Output, TaskInfo
from sft_lightning.evaluation import compared
from sft_lightning.evaluation.compared import FEWEST, PASSED, ROWS, rows_in_fit, samples_between
from sft_lightning.modules import PlainSFT
from sft_lightning.tasks import make_task
from tests.exactness.cases import CASES, folder_of
from tests.support import fit, quiet_trainer

EPOCH, STEP = 1030, 20  # samples; an epoch has 52 steps, the last one of 10


@pytest.mark.parametrize(
    ("settings", "samples"),
    [
        ({}, EPOCH),
        ({"check_val_every_n_epoch": 4}, 4 * EPOCH),
        ({"check_val_every_n_epoch": 4, "max_epochs": 3}, 3 * EPOCH),
        ({"max_steps": 10}, 10 * STEP),
        ({"val_check_interval": 0.5}, EPOCH // 2),
        ({"val_check_interval": 8, "check_val_every_n_epoch": None}, 8 * STEP),
        ({"val_check_interval": 8, "accumulate_grad_batches": 4}, 2 * STEP),
        ({"limit_train_batches": 5}, 5 * STEP),
        ({"limit_train_batches": 0.5}, 26 * STEP),
    ],
)
def test_training_samples_between_validations_are_those_of_the_settings(settings: dict[str, Any], samples: int) -> None:
    trainer = quiet_trainer(**{"max_epochs": 100, **settings})
    data: Any = SimpleNamespace(splits={"train": range(EPOCH)}, batch_size=STEP)
    assert samples_between(trainer, data) == samples
    boxes, classes = (make_task(TaskInfo(name, 3, list("abc"))) for name in ("object_detection", "classification"))
    assert rows_in_fit(trainer, data, boxes) == max(FEWEST, samples // PASSED)
    assert rows_in_fit(trainer, data, classes) == ROWS


@pytest.mark.parametrize("name", ["images with masks", "images with boxes"])
def test_a_fit_compares_few_images_says_so_and_asks_the_teacher_once(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compared, "FEWEST", 3)
    case, seen = CASES[name], list[int]()
    network = case.network(folder_of(name, tmp_path))

    class Asked(PlainSFT):
        def teacher_output(self, batch: Batch) -> Output:
            seen.extend(batch["index"].tolist())
            return super().teacher_output(batch)

    def measured(monitor: RetentionMonitor) -> dict[str, float]:
        seen.clear()
        trainer = fit(Asked(network), case.data(sizes=(8, 6, 6)), max_epochs=2, callbacks=[monitor])
        return {k: float(v) for k, v in trainer.callback_metrics.items()}

    monitor = RetentionMonitor()
    values = measured(monitor)
    assert values["n/drift"] == monitor.rows == 3 and values["n/val"] == 6
    assert len(seen) == len(set(seen)) == 3, "before training and at two validations"
    assert monitor.seconds_before > 0
    if name == "images with masks":
        assert measured(RetentionMonitor(drift_rows=5))["n/drift"] == 5, "a number that is asked for"
    data, again = case.data(sizes=(8, 6, 6)), quiet_trainer(callbacks=[monitor])
    (alone,) = again.validate(Asked(network), data, verbose=False)
    assert alone["n/drift"] == 6, "a measurement that is not part of a fit"
