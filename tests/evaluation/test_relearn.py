"""The relearn probe against ridge regression written out, with samples left out one at a time."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.base import Split
from sft_lightning.data.drawn import draw
from sft_lightning.evaluation.relearn import STRENGTHS, fresh_head, refuse
from sft_lightning.tasks import make_task
from tests.refused import refused
from tests.support import OLD, Recorder, digits, fit, make, outputs_on, quiet_trainer

ROWS = 60


def by_hand(x: Tensor, y: Tensor, new: Tensor, classes: int = 5) -> np.ndarray:
    """Predicted classes of new features."""
    mean, scale = x.numpy().mean(0), np.sqrt(x.numpy().var(0).mean())
    one, other = ((v.numpy() - mean) / scale for v in (x, new))
    one, other = (np.hstack([v, np.ones((len(v), 1))]) for v in (one, other))
    targets = 2.0 * (y.numpy()[:, None] == np.arange(classes)) - 1.0
    found = []
    for strength in STRENGTHS:
        penalty = strength * np.eye(one.shape[1])
        penalty[-1, -1] = 0.0  # the bias
        inverse = np.linalg.inv(one.T @ one + penalty)
        weight = inverse @ one.T @ targets
        leverage = np.einsum("nd,de,ne->n", one, inverse, one)
        left_out = (targets - one @ weight) / (1 - leverage)[:, None]
        found.append(((left_out**2).mean(), (other @ weight).argmax(1)))
    return min(found, key=lambda f: f[0])[1]


def test_it_is_the_accuracy_of_ridge_regression_on_source_samples(pretrained: str) -> None:
    source, monitor = (
        digits(OLD, eval_batch_size=7),
        RetentionMonitor(digits(OLD, eval_batch_size=7), relearn_rows=ROWS),
    )
    module = make("plain", pretrained, lr=1e-2)
    trainer = fit(module, digits(), max_epochs=2, callbacks=[monitor])
    source.setup()
    source.settle(module.teacher.network.input_spec)  # type: ignore[union-attr]
    train = source.splits["train"]
    source.splits["seen"] = Split(train.samples, train.rows, train.targets, False, "seen")
    at = torch.from_numpy(draw(len(train), ROWS))
    for network, found in (
        (module.teacher.network, monitor.before),  # type: ignore[union-attr]
        (module.network, {n: float(v) for n, v in trainer.callback_metrics.items()}),
    ):
        (seen, y), (val, right) = outputs_on(network, source, "seen"), outputs_on(network, source, "val")
        said = by_hand(seen.features[at].double(), y[at], val.features.double())
        assert found["retention/relearn_accuracy"] == pytest.approx(accuracy_score(right, said))
    assert float(trainer.callback_metrics["n/relearn"]) == ROWS
    (tested,) = quiet_trainer(callbacks=[monitor]).test(module, digits(), verbose=False)
    assert tested["n/test/relearn"] == ROWS and 0.5 < tested["retention/relearn_accuracy"] <= 1


def test_a_head_that_no_longer_fits_is_told_from_knowledge_that_is_gone(pretrained: str) -> None:
    module, monitor = make("plain", pretrained), RetentionMonitor(digits(OLD), relearn_rows=10_000)
    trainer = fit(module, digits(), max_steps=1, callbacks=[monitor])
    before, last = dict(monitor.before), module.network.encoder[4]  # type: ignore[union-attr, index]
    with torch.no_grad():
        for p in (last.weight, last.bias):
            p.copy_(p.roll(3, 0))  # the same features in another order
    (turned,) = trainer.validate(module, digits(), verbose=False)
    assert turned["retention/accuracy"] < 0.6 < 0.95 < turned["retention/relearn_accuracy"]
    assert turned["retention/relearn_accuracy"] == pytest.approx(before["retention/relearn_accuracy"], abs=0.02)
    assert turned["n/relearn"] == len(monitor.source_data.splits["train"])  # type: ignore[union-attr]
    with torch.no_grad():
        last.weight.zero_()
    (gone,) = trainer.validate(module, digits(), verbose=False)
    assert gone["retention/relearn_accuracy"] < 0.3, "features that are constant hold no knowledge"


def test_classes_that_no_sample_has_are_never_predicted() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=generator).double(), torch.arange(30) % 2
    head = fresh_head(x + y[:, None], y, 5)
    assert head.weight.shape == (5, 4) and set(head(torch.randn(50, 4, generator=generator)).argmax(1).tolist()) <= {
        0,
        1,
    }


def test_features_that_are_not_finite_give_no_number(pretrained: str) -> None:
    module, monitor = make("plain", pretrained), RetentionMonitor(digits(OLD), relearn_rows=40)
    trainer = fit(module, digits(), max_steps=1, callbacks=[monitor])
    with torch.no_grad():
        module.network.encoder[4].bias.fill_(torch.nan)  # type: ignore[union-attr, index]
    (gone,) = trainer.validate(module, digits(), verbose=False)
    assert np.isnan(gone["retention/relearn_accuracy"])


def test_measuring_it_changes_nothing_that_is_trained(pretrained: str) -> None:
    recorders = []
    for rows in (None, 40):
        recorders.append(Recorder())
        fit(make("plain", pretrained), digits(), max_steps=6, val_check_interval=3,
            callbacks=[RetentionMonitor(digits(OLD), relearn_rows=rows), recorders[-1]])  # fmt: skip
    one, other = (r.weights[-1] for r in recorders)
    assert all(torch.equal(v, other[n]) for n, v in one.items())


def test_where_it_says_nothing_it_is_refused(pretrained: str) -> None:
    with refused("relearn_rows", "1", "2"):
        RetentionMonitor(digits(OLD), relearn_rows=1)
    with refused("relearn_rows", "retention"):
        RetentionMonitor(relearn_rows=100)
    module = make("plain", pretrained)
    fit(module, digits(), max_steps=1)
    with refused("relearn_rows", "regression"):
        refuse(make_task(TaskInfo("regression", 1)), module.network)  # type: ignore[arg-type]
