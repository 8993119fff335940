"""Named sets of the source task: each has columns and numbers of samples of its own, equal to those of it alone."""

from pathlib import Path

import pytest
import torch
import yaml
from sklearn.metrics import accuracy_score

from sft_lightning.ablation.plan import address
from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.cli.main import main
from sft_lightning.config.overrides import nested
from sft_lightning.config.retention_names import spread
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.data.vision.corruptions import corrupt
from sft_lightning.evaluation.known_metrics import info_of
from sft_lightning.runs.load import load
from tests.refused import refused
from tests.support import OLD, digits, fit, make, outputs_on, quiet_trainer

ROOT = Path(__file__).parents[2]
SMALL = {"class_path": "Digits", "init_args": {"classes": OLD, "val_fraction": 0.4, "test_fraction": 0.3}}
SETS = {"small": SMALL, "same": {"class_path": "Digits", "init_args": {"classes": OLD}}}


def test_each_set_has_its_own_columns(pretrained: str) -> None:
    monitor, module = RetentionMonitor(digits(OLD), sets=SETS, calibration=True), make("plain", pretrained, lr=1e-2)
    trainer = fit(module, digits(), max_epochs=2, callbacks=[monitor])
    (tested,) = quiet_trainer(callbacks=[monitor]).test(module, digits(), verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    small = digits(OLD, val_fraction=0.4)
    small.setup()
    small.settle(module.teacher.network.input_spec)  # type: ignore[union-attr]
    (start, y), (now, _) = (outputs_on(n, small, "val") for n in (module.teacher.network, module.network))  # type: ignore[union-attr]
    first, last = (accuracy_score(y, said.source_logits.argmax(1)) for said in (start, now))  # type: ignore[union-attr]
    assert monitor.before["retention/small/accuracy"] == pytest.approx(first)
    assert found["retention/small/accuracy"] == pytest.approx(last)
    assert found["retention/small/forgetting"] == pytest.approx(first - last, abs=1e-6)
    assert found["n/retention/small"] == len(y) > found["n/retention"]
    for name in ("accuracy", "loss", "forgetting", "lost_above_chance", "accuracy_se", "ece", "brier"):
        for values in (found, tested):
            assert values[f"retention/same/{name}"] == pytest.approx(values[f"retention/{name}"], abs=1e-6), name
    assert tested["n/test/retention/same"] == tested["n/test/retention"]


def test_a_corruption_is_of_retentions_own_samples(pretrained: str) -> None:
    sets = {"noise": {"corruption": "noise", "severity": 5}, "blur": {"corruption": "blur"}}
    monitor, module = RetentionMonitor(digits(OLD), sets=sets, relearn_rows=50), make("plain", pretrained, lr=1e-2)
    trainer = fit(module, digits(), max_epochs=2, callbacks=[monitor])
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    source = digits(OLD)
    source.setup()
    source.settle(module.teacher.network.input_spec)  # type: ignore[union-attr]
    part = source.splits["val"]
    images = part.samples.images  # type: ignore[attr-defined]
    rows = torch.from_numpy(part.rows)
    images[rows] = corrupt(images[rows], "blur", 3, part.rows.tolist())
    now, y = outputs_on(module.network, source, "val")
    assert now.source_logits is not None
    assert found["retention/blur/accuracy"] == pytest.approx(accuracy_score(y, now.source_logits.argmax(1)))
    assert found["n/retention/blur"] == found["n/retention"] == len(y)
    assert found["retention/blur/loss"] != found["retention/loss"] != found["retention/noise/loss"]
    assert "retention/relearn_accuracy" in found and "retention/blur/relearn_accuracy" not in found


def test_facts_of_a_sets_metrics_are_those_of_the_metric() -> None:
    assert info_of("retention/sketch/accuracy") == MetricInfo("retention/sketch/accuracy", "max", "share")
    assert info_of("test/retention/sketch/accuracy") == MetricInfo("test/retention/sketch/accuracy", "max", "share")
    forgetting = info_of("retention/sketch/forgetting")
    assert forgetting is not None and forgetting.better == "min"
    assert info_of("retention/sketch/nonsense") is None


def test_what_does_not_fit_is_refused() -> None:
    source = digits(OLD)
    for sets, key, value in (
        ({}, "retention_sets", "{}"),
        ({"a/b": SMALL}, "retention_sets", "a/b"),
        ({"a": {"init_args": {}}}, "retention_sets.a", "class_path"),
        ({"a": {"class_path": "Digit"}}, "retention_sets.a", "Digits"),
        ({"a": {"class_path": "Digits", "init_args": {"clases": OLD}}}, "retention_sets.a", "clases"),
        ({"a": {"corruption": "nois"}}, "retention_sets.a.corruption", "noise"),
        ({"a": {"corruption": "noise", "severity": 6}}, "retention_sets.a.severity", "6"),
        ({"a": {**SMALL, "severity": 2}}, "retention_sets.a.severity", "no effect"),
        ({"a": {"corruption": "noise", "init_args": {}}}, "retention_sets.a", "class_path"),
    ):
        with refused(key, value):
            RetentionMonitor(source, sets=sets)  # type: ignore[arg-type]
    with refused("retention_sets", "retention"):
        RetentionMonitor(sets=SETS)


def test_a_set_of_other_classes_is_refused_at_its_key(pretrained: str) -> None:
    other = {"more": {"class_path": "Digits", "init_args": {"classes": [0, 1, 2]}}}
    with refused("retention_sets.more", "5", "3"):
        fit(make("plain", pretrained), digits(), max_steps=1, callbacks=[RetentionMonitor(digits(OLD), sets=other)])


def test_retention_may_have_a_name_among_the_sets(pretrained: str) -> None:
    monitor, module = (
        RetentionMonitor(digits(OLD), sets={"old": "retention", "small": SMALL}),
        make("plain", pretrained),
    )
    found = {n: float(v) for n, v in fit(module, digits(), max_epochs=1, callbacks=[monitor]).callback_metrics.items()}
    mine = {n: v for n, v in found.items() if n.startswith("retention/") and "/small/" not in n and "/old/" not in n}
    for name in ("accuracy", "loss", "forgetting", "accuracy_se", "lost_above_chance"):
        assert found[f"retention/old/{name}"] == mine[f"retention/{name}"], name
    assert "retention/old/agreement" not in found, "agreement is on the target's samples"
    assert found["n/retention/old"] == found["n/retention"] < found["n/retention/small"]
    with refused("retention_sets.b", "a"):
        RetentionMonitor(digits(OLD), sets={"a": "retention", "b": "retention"})


def test_named_sets_under_retention_are_the_same_as_beside_it() -> None:
    named = {"noisy": {"corruption": "noise"}, "digits": SMALL, "same": SETS["same"]}
    held = {"seed_everything": 0, "retention": SMALL}
    held["retention_sets"] = {"noisy": {"corruption": "noise"}, "digits": "retention", "same": SETS["same"]}
    assert (
        spread({"seed_everything": 0, "retention": named})
        == held
        == nested({"seed_everything": 0, "retention": named}, "set")
    )
    for plain in (SMALL, {"class_path": "Digits"}, {"init_args": {"new": SMALL}}, {"classes": OLD}, {}, None, {"a": 1}):
        assert spread({"retention": plain}) == {"retention": plain}, "a plain set is read as names"
    with refused("retention_sets", "beside"):
        spread({"retention": named, "retention_sets": SETS})
    with refused("retention", "corrupted"):
        spread({"retention": {"noisy": {"corruption": "noise"}}})


def test_a_file_may_name_sets_and_select_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = yaml.safe_load(Path("experiments/digits/plain.yaml").read_text())
    settings |= {"retention": {"old": settings["retention"], "small": SMALL}}
    settings |= {"select_by": "retention/small/accuracy", "test_after_fit": True}
    settings["trainer"] |= {"max_epochs": 4, "check_val_every_n_epoch": 2}
    file = tmp_path / "named.yaml"
    file.write_text(yaml.safe_dump(settings))
    flags = ["--runs_dir", str(tmp_path), "--experiment", "sets", "--run_id", "one", "--wandb", "disabled"]
    assert main(["fit", "--config", str(file), *flags, "--quiet", "true"]) == 0
    run = load(tmp_path / "sets/one")
    assert run.record["selected"]["by"] == "retention/small/accuracy"
    assert run.record["n"]["retention/small"] > run.record["n"]["retention"]
    assert run.record["retention_sets"]["small"]["sizes"]["val"] == run.record["n"]["retention/small"]
    assert run.record["metric_info"]["retention/small/accuracy"] == {"better": "max", "unit": "share"}
    assert (
        "retention/small/accuracy" in run.record["test"] and "before" in run.record["metrics"]["retention/small/loss"]
    )
    assert run.config["retention_sets"] == {"old": "retention", "small": SMALL}
    assert run.record["test"]["retention/old/accuracy"] == run.record["test"]["retention/accuracy"]
    without = {k: v for k, v in run.config.items() if k not in ("retention_sets", "relearn_rows", "calibration")}
    assert address({**without, "retention_sets": None, "relearn_rows": None, "calibration": False}) == address(without)
    assert address(run.config) != address(without)
