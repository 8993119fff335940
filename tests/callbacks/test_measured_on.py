"""On which samples gauges and limited evaluations are computed: drawn evenly, whatever the order, the batches, the limits."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.data.base import Splits
from sft_lightning.data.drawn import draw
from sft_lightning.data.vision.base import ArrayImages
from sft_lightning.modules import SFTModule
from tests.refused import refused
from tests.support import NEW, OLD, FewDigits, digits, fit, make, outputs_on, quiet_trainer

ROWS, COMPARED = 300, 60


class ByLength(ArrayImages):
    """Images that are delivered the longest first, as texts are."""

    def lengths(self) -> np.ndarray:
        return np.asarray(self.targets)


class Sorted(FewDigits):
    """Digits whose validation and test splits are sorted by class, and delivered by class too where asked."""

    def __init__(self, by_length: bool = False, sizes: tuple[int, int, int] = (40, ROWS, ROWS), **kwargs: Any) -> None:
        super().__init__(sizes=sizes, **kwargs)
        self.by_length = by_length

    def load(self) -> Splits:
        loaded = super().load()
        for name in ("val", "test"):
            part = getattr(loaded, name)
            order = np.argsort(part.targets, kind="stable")
            kind = ByLength if self.by_length else ArrayImages
            setattr(loaded, name, kind(part.images[torch.from_numpy(order)], part.targets[order]))
        return loaded


@pytest.fixture(scope="module")
def tuned(pretrained: str) -> SFTModule:
    """A student away from its teacher, and the samples of each column that it was trained with."""
    module = make("plain", pretrained, lr=1e-2)
    fit(module, digits(), max_epochs=1)
    return module


def measured(
    module: SFTModule, data: Sorted, source: Any = None, rows: int = COMPARED, **limits: Any
) -> dict[str, float]:
    trainer = quiet_trainer(callbacks=[RetentionMonitor(source, drift_rows=rows)], **limits)
    (values,) = trainer.validate(module, data, verbose=False)
    return {k: float(v) for k, v in values.items()}


def by_hand(module: SFTModule, data: Sorted, rows: np.ndarray, compared: np.ndarray) -> dict[str, float]:
    """From the arrays: the target's accuracy on `rows`, agreement and KL on `compared`."""
    student, y = outputs_on(module.network, data, "val")
    teacher, _ = outputs_on(module.teacher.network, data, "val")  # type: ignore[union-attr]
    p, q = (o.source_logits.double().softmax(1)[torch.from_numpy(compared)] for o in (teacher, student))
    return {
        "val/accuracy": accuracy_score(y[torch.from_numpy(rows)], student.logits.argmax(1)[torch.from_numpy(rows)]),
        "retention/agreement": float((p.argmax(1) == q.argmax(1)).double().mean()),
        "drift/kl": float((p * (p / q).log()).sum(1).mean()),
    }


@pytest.mark.parametrize("by_length", [False, True], ids=["sorted by class", "delivered by length"])
def test_gauges_are_those_of_an_even_draw_whatever_the_order_and_the_batches(tuned: SFTModule, by_length: bool) -> None:
    seen = []
    for size in (7, 64, 1000):
        data = Sorted(by_length, eval_batch_size=size)
        values = measured(tuned, data)
        wanted = by_hand(tuned, data, np.arange(ROWS), draw(ROWS, COMPARED))
        for name, value in wanted.items():
            assert values[name] == pytest.approx(value, rel=1e-5), f"{name}, in batches of {size}"
        assert (values["n/val"], values["n/drift"]) == (ROWS, COMPARED), "exact, and never rounded up to batches"
        seen.append(values)
    for other in seen[1:]:
        assert other == pytest.approx(seen[0], rel=1e-5), "a number depends on eval_batch_size"
    everything = by_hand(tuned, data, np.arange(ROWS), np.arange(ROWS))
    first = by_hand(tuned, data, np.arange(ROWS), np.arange(COMPARED))
    drawn, wrong = (abs(v["drift/kl"] - everything["drift/kl"]) for v in (seen[0], first))
    assert drawn < wrong / 2, f"off by {drawn:.3f} from all rows, the first rows by {wrong:.3f}: the draw is not even"


@pytest.mark.parametrize(("limit", "number"), [(3, 48), (0.5, 150), (1, 16)])
def test_a_limited_evaluation_is_an_even_draw_of_both_columns(tuned: SFTModule, limit: float, number: int) -> None:
    source = digits(OLD, eval_batch_size=16)
    data = Sorted(eval_batch_size=16)
    values = measured(tuned, data, source, limit_val_batches=limit)
    wanted = by_hand(tuned, data, draw(ROWS, number), draw(ROWS, min(number, COMPARED)))
    size = len(source.splits["val"])
    of_source = 16 * limit if isinstance(limit, int) else round(limit * size)
    assert (values["n/val"], values["n/retention"], values["n/drift"]) == (number, of_source, min(number, COMPARED))
    said, y = outputs_on(tuned.network, source, "val")
    at = torch.from_numpy(draw(size, int(of_source)))
    wanted["retention/accuracy"] = accuracy_score(y[at], said.source_logits.argmax(1)[at])
    for name, value in wanted.items():
        assert values[name] == pytest.approx(value, rel=1e-5), name
    if isinstance(limit, float):
        other = measured(tuned, Sorted(eval_batch_size=7), digits(OLD, eval_batch_size=5), limit_val_batches=limit)
        assert other == pytest.approx(values, rel=1e-5), "a share of the split depends on eval_batch_size"


def test_limits_hold_in_a_fit_before_it_and_for_each_data_set_that_a_trainer_gets(pretrained: str) -> None:
    monitor, module = RetentionMonitor(digits(OLD)), make("plain", pretrained, lr=0.0)
    data = Sorted(eval_batch_size=16)
    trainer = fit(module, data, max_epochs=1, limit_val_batches=0.1, callbacks=[monitor])
    wanted = by_hand(module, data, draw(ROWS, 30), draw(ROWS, 30))
    assert monitor.before["val/accuracy"] == pytest.approx(wanted["val/accuracy"]), "before training"
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(wanted["val/accuracy"])
    assert float(trainer.callback_metrics["retention/forgetting"]) == pytest.approx(0.0, abs=1e-6)
    (values,) = trainer.validate(module, Sorted(sizes=(40, 100, 100), eval_batch_size=16), verbose=False)
    assert values["n/val"] == 10


def test_a_fit_sanity_checks_and_a_fast_run_take_their_few_batches(pretrained: str) -> None:
    sane = {"num_sanity_val_steps": 2, "limit_val_batches": 3, "limit_train_batches": 1, "max_epochs": 1}
    for settings, number in (({"fast_dev_run": True}, 8), (sane, 24)):
        trainer = fit(make("plain", pretrained), Sorted(eval_batch_size=8), **settings)
        assert trainer.callback_metrics["n/val"] == number, settings


def test_forgetting_that_validate_measures_compares_both_networks_on_the_same_samples(pretrained: str) -> None:
    """The fit measured the network before on other samples: with another limit."""
    source, monitor, module = FewDigits(digits=OLD), RetentionMonitor(FewDigits(digits=OLD)), make("plain", pretrained)
    fit(module, digits(), max_epochs=1, callbacks=[monitor])
    monitor.before["retention/accuracy"] = 0.123  # of whatever samples
    (values,) = quiet_trainer(callbacks=[monitor], limit_val_batches=0.5).validate(module, digits(), verbose=False)
    source.setup()
    source.settle(module.network.input_spec)
    at, accuracies = torch.from_numpy(draw(21, 10)), []
    for network in (module.teacher.network, module.network):  # type: ignore[union-attr]
        said, y = outputs_on(network, source, "val")
        accuracies.append(accuracy_score(y[at], said.source_logits.argmax(1)[at]))
    assert values["n/retention"] == 10
    assert values["retention/forgetting"] == pytest.approx(accuracies[0] - accuracies[1], abs=1e-6)


def test_drift_rows_below_one_is_refused() -> None:
    with refused("drift_rows", "1", "0"):
        RetentionMonitor(drift_rows=0)


def test_classes_are_those_of_the_digits_here() -> None:
    data = Sorted()
    data.setup()
    assert data.task_info is not None and data.task_info.labels == [str(d) for d in NEW]
    assert (np.diff(data.splits["val"].targets) >= 0).all(), "the split is not sorted by class"
