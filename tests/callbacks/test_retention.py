"""Retention and drift against direct computation on whole splits with numpy, scipy's formulae and scikit-learn."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.base import SFTDataModule
from sft_lightning.evaluation import evaluate
from sft_lightning.modules import L2SPSFT, PlainSFT
from sft_lightning.networks import spec
from sft_lightning.tasks import make_task
from tests.refused import refused
from tests.support import (
    OLD,
    VARIANTS,
    NormNet,
    Recorder,
    digits,
    fit,
    make,
    outputs_on,
    pretrained_mlp,
    quiet_trainer,
    weights,
)


def by_sklearn(network: Any, data: SFTDataModule, split: str) -> dict[str, float]:
    output, y = outputs_on(network, data, split)
    said = output.source_logits.argmax(1)
    return {
        "retention/accuracy": accuracy_score(y, said),
        "retention/f1_macro": f1_score(y, said, average="macro"),
        "retention/loss": log_loss(y, output.source_logits.double().softmax(1), labels=range(5)),
    }


def drift_by_hand(module: Any, data: SFTDataModule, split: str) -> dict[str, float]:
    student, _ = outputs_on(module.network, data, split)
    teacher, _ = outputs_on(module.teacher.network, data, split)
    p, q = (o.source_logits.double().softmax(1).numpy() for o in (teacher, student))
    x, y = (o.features.double().numpy() - o.features.double().numpy().mean(0) for o in (teacher, student))
    now, start = weights(module), module.teacher.initial
    moved = np.sqrt(sum(float(((now[n] - start[n]) ** 2).sum()) for n in start))
    return {
        "drift/kl": float((p * np.log(p / q)).sum(1).mean()),
        "drift/kl_reverse": float((q * np.log(q / p)).sum(1).mean()),
        "retention/agreement": float((p.argmax(1) == q.argmax(1)).mean()),
        "drift/features_cka": float(((x.T @ y) ** 2).sum() / np.sqrt(((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum())),
        "drift/weights_l2": moved,
        "drift/weights_relative": moved / np.sqrt(sum(float((s**2).sum()) for s in start.values())),
    }


@pytest.mark.parametrize("variant", ["plain", "distill-logits-kl", "l2sp-loss"])
def test_gauges_equal_direct_computation_on_whole_splits(pretrained: str, variant: str) -> None:
    """Evaluation batches of 7 leave a ragged last one."""
    source, data = digits(OLD, eval_batch_size=7), digits(eval_batch_size=7)
    monitor = RetentionMonitor(source)
    module = make(variant, pretrained, lr=1e-2)
    trainer = fit(module, data, max_epochs=2, callbacks=[monitor])
    expected = by_sklearn(module.network, source, "val") | drift_by_hand(module, data, "val")
    before = by_sklearn(module.teacher.network, source, "val")
    expected["retention/forgetting"] = before["retention/accuracy"] - expected["retention/accuracy"]
    for name, value in expected.items():
        found = float(trainer.callback_metrics[name])
        assert found == pytest.approx(value, rel=1e-4, abs=1e-6), f"{name}: {found}, by hand {value}"
    assert expected["retention/forgetting"] != 0 and expected["retention/agreement"] < 1, "nothing was forgotten"

    for name, value in before.items():
        assert monitor.before[name] == pytest.approx(value, rel=1e-5), f"{name} before training"
    at_start = {"drift/kl": 0.0, "retention/agreement": 1.0, "drift/features_cka": 1.0, "retention/forgetting": 0.0}
    for name, value in at_start.items():
        assert monitor.before[name] == pytest.approx(value, abs=1e-6), f"{name} before training"

    tester = quiet_trainer(callbacks=[RetentionMonitor(source)])
    (tested,) = tester.test(module, data, verbose=False)
    expected = by_sklearn(module.network, source, "test") | drift_by_hand(module, data, "test")
    lost = by_sklearn(module.teacher.network, source, "test")["retention/accuracy"] - expected["retention/accuracy"]
    for name, value in (expected | {"retention/forgetting": lost}).items():
        assert tested[name] == pytest.approx(value, rel=1e-4, abs=1e-6), f"{name} on test data"


def test_what_the_teacher_said_on_one_data_set_is_not_used_for_another(pretrained: str) -> None:
    module, trainer = make("plain", pretrained, lr=1e-2), quiet_trainer(max_steps=20)
    trainer.fit(module, digits())
    for other in (digits(eval_batch_size=16, val_fraction=0.4), digits(eval_batch_size=16, val_fraction=0.3)):
        (values,) = trainer.validate(module, other, verbose=False)
        for name, value in drift_by_hand(module, other, "val").items():
            assert values[name] == pytest.approx(value, rel=1e-4, abs=1e-6), f"{name} on the second data set"


@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_forgetting_is_positive_where_the_source_metric_got_worse(metric: str) -> None:
    monitor, name = RetentionMonitor(digits(OLD)), "classification" if metric == "accuracy" else "regression"
    assert monitor.source is not None and monitor.meter is not None
    monitor.source.task = make_task(TaskInfo(name, 2, metrics=[metric]))
    better, worse = ({f"retention/{metric}": v} for v in ((0.9, 0.6) if metric == "accuracy" else (0.6, 0.9)))
    assert monitor.meter.with_forgetting(worse, better)["retention/forgetting"] == pytest.approx(0.3)
    assert monitor.meter.with_forgetting(better, worse)["retention/forgetting"] == pytest.approx(-0.3)
    assert str(monitor.meter.with_forgetting(better, better)["retention/forgetting"]) == "0.0", "shown as -0.0000"


@pytest.mark.one_in(3)
@pytest.mark.parametrize("variant", VARIANTS)
def test_watching_retention_does_not_change_what_is_trained(pretrained_norms: str, variant: str) -> None:
    """No mode is left behind, no BatchNorm statistic moved, and no random number taken."""
    cls, arguments = VARIANTS[variant]
    runs = []
    for watched in (False, True):
        recorder, source = Recorder(), digits(OLD) if watched or cls.needs_source else None
        unwatched = {"limit_val_batches": 0} if source is not None and not watched else {}
        module = cls(spec(NormNet, pretrained=pretrained_norms, dropout=0.3), lr=1e-2, **arguments)
        watching = [RetentionMonitor(source), recorder]
        fit(module, digits(), max_epochs=2, val_check_interval=0.5, callbacks=watching, **unwatched)
        runs.append(recorder.weights)
    for step, (one, other) in enumerate(zip(*runs, strict=True), 1):
        different = [n for n in one if not torch.equal(one[n], other[n])]
        assert not different, f"after step {step}, {different} depend on whether retention is watched"


def test_evaluate_leaves_the_modules_modes_as_found(pretrained_norms: str) -> None:
    module = PlainSFT(spec(NormNet, pretrained=pretrained_norms, dropout=0.3), freeze_batchnorm_stats=True)
    data = digits()
    trainer = fit(module, data, max_steps=1)
    module.train()
    module.network.encoder[4].eval()
    before, kept = {n: m.training for n, m in module.named_modules()}, weights(module)
    loader = data.loader("val", 0, 1)
    seen = []

    def score(batch: Any) -> Any:
        seen.append(any(m.training for m in module.modules()))
        return module.output(batch)

    evaluate(trainer, module, loader, data.device_transform, module.task, score)
    assert seen and not any(seen), "evaluated in train mode"
    assert {n: m.training for n, m in module.named_modules()} == before
    assert all(torch.equal(v, kept[n]) for n, v in weights(module).items())

    def fail(batch: Any) -> Any:
        raise KeyError

    with pytest.raises(KeyError):
        evaluate(trainer, module, loader, data.device_transform, module.task, fail)
    assert {n: m.training for n, m in module.named_modules()} == before


def classes(of: list[int]) -> str:
    return str([str(c) for c in of])


@pytest.mark.parametrize(
    ("network", "source", "told"),
    [
        ({"keep_source_head": False}, OLD, ["pretrained", "keep_source_head: false"]),
        ({}, [1, 0, 2, 3, 4], [classes(OLD), classes([1, 0, 2, 3, 4])]),
        ({}, [0, 1, 2, 3, 9], [classes(OLD), classes([0, 1, 2, 3, 9])]),
        ({}, [0, 1, 2], ["5 outputs", "3 classes"]),
    ],
    ids=["no source head", "other order", "other classes", "other count"],
)
def test_source_data_the_source_head_cannot_be_asked_about_is_refused(
    pretrained: str, network: dict[str, Any], source: list[int], told: list[str]
) -> None:
    module = make("plain", pretrained, network=network)
    with refused("retention", *told):
        fit(module, digits(), max_steps=1, callbacks=[RetentionMonitor(digits(source))])


def test_a_net_from_scratch_has_nothing_to_retain() -> None:
    module = PlainSFT(pretrained_mlp(None))
    trainer = fit(module, digits(), max_epochs=1)
    assert not [n for n in trainer.callback_metrics if n.startswith(("drift/", "retention/"))]
    with refused("retention", "pretrained: null"):
        fit(PlainSFT(pretrained_mlp(None)), digits(), max_steps=1, callbacks=[RetentionMonitor(digits(OLD))])


def test_the_metric_before_tuning_survives_a_resume(pretrained: str, tmp_path: Any) -> None:
    def module() -> L2SPSFT:
        return L2SPSFT(pretrained_mlp(pretrained), lr=1e-2)

    monitors = RetentionMonitor(digits(OLD)), RetentionMonitor(digits(OLD))
    trainer = fit(module(), digits(), max_epochs=1, callbacks=[monitors[0]])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer = fit(module(), digits(), max_epochs=2, callbacks=[monitors[1]], ckpt_path=str(tmp_path / "last.ckpt"))
    assert monitors[1].before == monitors[0].before
    lost = monitors[0].before["retention/accuracy"] - float(trainer.callback_metrics["retention/accuracy"])
    assert float(trainer.callback_metrics["retention/forgetting"]) == pytest.approx(lost, abs=1e-6)


def test_the_values_before_training_are_logged_at_step_zero(pretrained: str) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.append((step, metrics)))
    monitor = RetentionMonitor(digits(OLD))
    module, data = make("plain", pretrained), digits()
    trainer = fit(module, data, max_steps=1)
    monitor._load_source(trainer, module)
    trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.reset()
    trainer._loggers = [logger]
    assert trainer.global_step == 0
    monitor.on_train_start(trainer, module)
    ((step, values),) = logged
    assert step == 0 and {"val/accuracy", "val/loss", "retention/accuracy", "drift/kl"} <= values.keys()
    output, y = outputs_on(module.network, data, "val")
    assert values["val/accuracy"] == pytest.approx(accuracy_score(y, output.logits.argmax(1)))


def test_the_better_direction_of_a_retention_metric_is_its_own_tasks() -> None:
    from sft_lightning.evaluation.known_metrics import info_of

    info = TaskInfo("regression", 1)
    directions = {
        "retention/accuracy": "max",
        "retention/perplexity": "min",
        "retention/loss": "min",
        "drift/kl": "min",
    }
    known = {name: info_of(name, info) for name in directions}
    assert {name: about.better for name, about in known.items() if about} == directions
