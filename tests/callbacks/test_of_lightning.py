"""Every callback and every Trainer argument of Lightning works here as it documents, or is refused in one line."""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks as lightning_callbacks
import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.profilers import SimpleProfiler

import sft_lightning.callbacks
from sft_lightning.callbacks.monitored import refuse_unknown
from sft_lightning.callbacks.of_lightning import ARGUMENTS, CALLBACKS, refuse_arguments, refuse_callbacks
from sft_lightning.config.resolve import resolve, resolve_arguments
from sft_lightning.evaluation.known_metrics import direction
from sft_lightning.runs.profiler import written_to
from sft_lightning.tasks import TASKS
from tests.cli.conftest import ROOT, Command, command  # noqa: F401  a fixture
from tests.refused import check_printed, refused
from tests.support import digits, fit, make, quiet_trainer

DISTILL = "experiments/digits/distill.yaml"
FIT = ("fit", "--config", DISTILL, "--wandb", "disabled", "--test_after_fit", "false", "--trainer.max_epochs", 2)
FIT = (*FIT, "--trainer.check_val_every_n_epoch", 1)


def resolved(*flags: str) -> dict[str, Any]:
    return resolve_arguments(["--config", str(ROOT / DISTILL), *flags])


def adding(name: str, *arguments: str) -> list[str]:
    return [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{a}" for a in arguments)]


# ---- the tables are whole ----


def test_every_callback_of_lightning_stands_in_the_table() -> None:
    there = set(lightning_callbacks.__all__)
    assert not there - set(CALLBACKS), (
        f"this version of Lightning has callbacks that nobody looked at: {sorted(there - set(CALLBACKS))}; try each in a fit, "
        "then enter it in CALLBACKS of callbacks/of_lightning.py: None where it does what it documents, else Refused"
    )
    assert not set(CALLBACKS) - there, f"Lightning has no such callback any more: {sorted(set(CALLBACKS) - there)}"


def test_every_argument_of_trainer_stands_in_the_table() -> None:
    there = set(signature(Trainer).parameters)
    assert not there - set(ARGUMENTS), (
        f"this version of Trainer has arguments that nobody looked at: {sorted(there - set(ARGUMENTS))}; try each in a fit, "
        "then enter it in ARGUMENTS of callbacks/of_lightning.py: None where it does what it documents, else Refused"
    )
    assert not set(ARGUMENTS) - there, f"Trainer has no such argument any more: {sorted(set(ARGUMENTS) - there)}"


def test_no_argument_is_refused_at_its_default_value() -> None:
    refuse_arguments({name: p.default for name, p in signature(Trainer).parameters.items()})
    refuse_arguments(resolved()["trainer"])


# ---- what is refused ----

ARGUMENT_FLAGS = {
    "logger": "true",
    "enable_checkpointing": "false",
    "barebones": "true",
    "default_root_dir": "x",
    "model_registry": "x",
    "num_sanity_val_steps": "2",
    "reload_dataloaders_every_n_epochs": "1",
    "check_val_every_n_epoch": "0",
    "val_check_interval": "00:00:01:00",
    "log_every_n_steps": "-3",
    "gradient_clip_val": "-1",
}


@pytest.mark.parametrize("name", [n for n, rule in ARGUMENTS.items() if rule is not None])
def test_a_refused_argument_is_named_before_anything_is_built(name: str) -> None:
    assert name in ARGUMENT_FLAGS, f"give a value of {name} that is refused"
    with refused(f"trainer.{name}"):
        resolved(f"--trainer.{name}={ARGUMENT_FLAGS[name]}")


NEEDED = {
    "StochasticWeightAveraging": ("swa_lrs=0.1",),
    "ModelPruning": ("pruning_fn=l1_unstructured", "amount=0.5"),
    "GradientAccumulationScheduler": ("scheduling={0: 1}",),
}


@pytest.mark.parametrize("name", [n for n, rule in CALLBACKS.items() if rule is not None and not rule.itself])
def test_a_refused_callback_and_what_is_derived_from_it_are_named(name: str) -> None:
    cls = getattr(lightning_callbacks, name)
    derived = type("Mine", (cls,), {})
    for given in (cls, derived):
        with refused("trainer.callbacks", given.__name__) as found:
            refuse_callbacks([given])
        assert found.value.fix, f"nothing is advised instead of {name}"


@pytest.mark.parametrize("name", [n for n, rule in CALLBACKS.items() if rule is not None and rule.itself])
def test_a_base_class_is_refused_and_what_is_derived_from_it_is_not(name: str) -> None:
    cls = getattr(lightning_callbacks, name)
    with refused("trainer.callbacks", name):
        refuse_callbacks([cls])
    refuse_callbacks([type("Mine", (cls,), {})])


@pytest.mark.parametrize(
    "name", ["StochasticWeightAveraging", "EMAWeightAveraging", "ModelPruning", "LearningRateFinder"]
)
def test_the_command_line_refuses_a_callback_before_anything_is_written(name: str, command: Command) -> None:  # noqa: F811
    done = command(*FIT, *adding(name, *NEEDED.get(name, ())))
    assert done.code == 2, done.err
    check_printed(done.err, "trainer.callbacks", name)
    assert len(done.err.splitlines()) == 1, done.err
    assert not done.runs.exists(), "a run was begun"


def test_a_python_script_is_told_the_same(pretrained: str) -> None:
    with refused("trainer.callbacks", "StochasticWeightAveraging", "model.init_args.ema_decay"):
        fit(make("plain", pretrained), digits(), max_epochs=1, callbacks=[StochasticWeightAveraging(0.1)])
    with refused("trainer.callbacks", "EarlyStopping", "mode min", "val/accuracy", "mode max"):
        fit(make("plain", pretrained), digits(), max_epochs=1, callbacks=[EarlyStopping("val/accuracy")])


@pytest.mark.parametrize(
    "name", [n for n in sft_lightning.callbacks.__all__ if n in ("EMA", "RetentionMonitor", "Bar")]
)
def test_a_callback_that_runs_have_by_themselves_is_refused(name: str) -> None:
    with refused("trainer.callbacks", name):
        resolved(*adding(f"sft_lightning.callbacks.{name}"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("overfit_batches=2", "limit_train_batches=3"), ("trainer.limit_train_batches", "trainer.overfit_batches")),
        (("overfit_batches=2", "limit_val_batches=3"), ("trainer.limit_val_batches", "trainer.overfit_batches")),
        (("gradient_clip_algorithm=norm",), ("trainer.gradient_clip_algorithm", "trainer.gradient_clip_val")),
        (("min_epochs=9", "max_epochs=3"), ("trainer.min_epochs", "9", "trainer.max_epochs", "3")),
        (("min_steps=9", "max_steps=3"), ("trainer.min_steps", "9", "trainer.max_steps", "3")),
        (("plugins=AsyncCheckpointIO",), ("trainer.plugins", "AsyncCheckpointIO")),
    ],
)
def test_arguments_that_undo_each_other_are_refused(flags: tuple[str, ...], told: tuple[str, ...]) -> None:
    with refused(*told):
        resolved(*(f"--trainer.{flag}" for flag in flags))


def test_what_a_run_was_made_with_before_is_not_refused_when_it_is_evaluated(command: Command) -> None:  # noqa: F811
    done = command(*FIT)
    config = yaml.safe_load(done.run.files.config.read_text())
    config["trainer"] |= {"logger": True, "default_root_dir": "x", "callbacks": [early("min")]}
    done.run.files.config.write_text(yaml.safe_dump(config))
    again = command("test", "--run", done.run.path, "--wandb", "disabled")
    assert again.code == 0, again.err


def early(mode: str) -> dict[str, Any]:
    return {"class_path": "EarlyStopping", "init_args": {"monitor": "val/accuracy", "mode": mode}}


# ---- metrics that are watched: the way up is known ----


def test_mode_is_filled_in_where_our_metric_is_to_be_large_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("EarlyStopping", "ModelCheckpoint"):
        for metric, mode in (("val/accuracy", "max"), ("retention/agreement", "max"), ("val/loss", "min")):
            found = resolved(*adding(name, f"monitor={metric}"))["trainer"]["callbacks"]
            assert found[0]["init_args"]["mode"] == mode, f"{name} on {metric}"


def test_a_mode_that_contradicts_its_metric_is_refused() -> None:
    for metric, mode, right in (("val/accuracy", "min", "max"), ("drift/kl", "max", "min"), ("val/loss", "max", "min")):
        with refused("trainer.callbacks", f"mode {mode}", metric, f"mode {right}"):
            resolved(*adding("EarlyStopping", f"monitor={metric}", f"mode={mode}"))
    for metric, mode in (("mine/thing", "min"), ("train/lr", "max"), ("val/accuracy", "max")):
        found = resolved(*adding("EarlyStopping", f"monitor={metric}", f"mode={mode}"))
        assert found["trainer"]["callbacks"][0]["init_args"]["mode"] == mode


def test_a_studys_arm_gets_the_same_mode_and_the_same_refusal() -> None:
    base = yaml.safe_load((ROOT / DISTILL).read_text())
    without = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/accuracy"}}
    found = resolve([base, {"trainer": {"callbacks": [without]}}])["trainer"]["callbacks"][0]
    assert found["init_args"]["mode"] == "max"
    with refused("trainer.callbacks", "EarlyStopping", "mode min", "mode max"):
        resolve([base, {"trainer": {"callbacks": [early("min")]}}])


def test_the_direction_of_every_metric_of_every_task_is_known() -> None:
    for task in TASKS.values():
        for name, held in task.metrics.items():
            assert direction(f"val/{name}") == direction(f"retention/{name}") == held.better, f"{task.name}'s {name}"


def test_early_stopping_on_accuracy_trains_as_long_as_accuracy_rises(command: Command) -> None:  # noqa: F811
    stop = adding("EarlyStopping", "monitor=val/accuracy", "patience=2")
    filled = command(*FIT, "--trainer.max_epochs", 12, *stop)
    assert filled.code == 0, filled.err
    assert "note: trainer.callbacks: EarlyStopping takes mode max: more val/accuracy is better" in filled.err
    told = command(*FIT, "--trainer.max_epochs", 12, *stop, "--trainer.callbacks.mode=max")
    values = [row["val/accuracy"] for row in filled.run.history() if "val/accuracy" in row]
    assert len(values) > 5 and values[-1] > values[1], f"it stopped while accuracy rose: {values}"
    assert values == [row["val/accuracy"] for row in told.run.history() if "val/accuracy" in row]


@pytest.mark.parametrize("metric", ["val/acuracy", "val_accuracy", "test/accuracy", "accuracy"])
def test_a_metric_that_is_not_measured_is_refused_with_those_that_are(metric: str, command: Command) -> None:  # noqa: F811
    done = command(*FIT, *adding("EarlyStopping", f"monitor={metric}"))
    assert done.code == 2, done.err
    check_printed(done.err, "trainer.callbacks", "EarlyStopping", f"'{metric}'", "val/loss, val/accuracy", "train/loss")
    assert not list(done.runs.rglob("*.ckpt")), "it trained"


def test_a_metric_that_a_users_own_callback_may_log_passes(pretrained: str) -> None:
    class Mine(Callback):
        pass

    trainer = quiet_trainer(callbacks=[Mine(), EarlyStopping("mine/thing")])
    trainer.strategy.connect(make("plain", pretrained))
    refuse_unknown(trainer, ["val/loss"])
    trainer.callbacks.append(EarlyStopping("val/losss"))
    with refused("trainer.callbacks", "'val/losss'", "'val/loss'"):
        refuse_unknown(trainer, ["val/loss"])


# ---- what works ----


@pytest.mark.parametrize("name", ["simple", "advanced"])
def test_a_profilers_report_is_a_file_of_the_run_and_is_named(name: str, command: Command) -> None:  # noqa: F811
    done = command(*FIT, "--trainer.profiler", name)
    assert done.code == 0, done.err
    report = done.run.path / "fit-profile.txt"
    assert f"profile    {report}" in done.out
    assert "run_training_batch" in report.read_text() or "optimizer_step" in report.read_text()


def test_a_profiler_that_has_a_file_keeps_it(tmp_path: Path) -> None:
    given = SimpleProfiler(dirpath=str(tmp_path / "mine"), filename="mine")
    assert written_to(given, tmp_path) is given
    assert (given.dirpath, given.filename) == (str(tmp_path / "mine"), "mine")
    assert written_to("simple", tmp_path).dirpath == str(tmp_path)
    assert written_to(None, tmp_path) is None


@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
def test_a_progress_bar_is_left_out_where_there_is_no_terminal(bar: str, command: Command) -> None:  # noqa: F811
    done = command(*FIT, *adding(bar))
    assert done.code == 0, done.err
    assert f"note: trainer.callbacks: {bar} is left out: the output is not a terminal" in done.err


@pytest.mark.parametrize("bar", ["RichProgressBar", "TQDMProgressBar"])
def test_a_progress_bar_takes_the_place_of_our_own_on_a_terminal(
    bar: str,
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("sft_lightning.runs.equipment.on_terminal", lambda: True)

    def spied(_: Any, trainer: Trainer, module: Any) -> None:
        seen.extend(type(c).__name__ for c in trainer.callbacks if "Bar" in type(c).__name__)

    monkeypatch.setattr(sft_lightning.callbacks.Console, "on_train_start", spied)
    assert command(*FIT, *adding(bar)).code == 0
    assert seen == [bar]
    assert command(*FIT, "--trainer.enable_progress_bar", "false").code == 0
    assert seen == [bar], "a bar was shown that was switched off"


def size(batch: Any) -> int:
    """Items of a batch, for ThroughputMonitor."""
    return int(batch["count"])


SAID: list[str] = []


def say(*_: Any) -> None:
    """For LambdaCallback."""
    SAID.append("said")


WORKING: dict[str, tuple[tuple[str, ...], str]] = {
    "DeviceStatsMonitor": (("cpu_stats=true",), "DeviceStatsMonitor.on_train_batch_end/cpu_percent"),
    "LearningRateMonitor": ((), "lr-AdamW"),
    "ThroughputMonitor": ((f"batch_size_fn={__name__}.size",), "train|samples"),
    "ModelSummary": ((), ""),
    "RichModelSummary": ((), ""),
    "Timer": (("duration=00:00:10:00",), ""),
    "LambdaCallback": ((f"on_train_start={__name__}.say",), ""),
    "ModelCheckpoint": ((), ""),
    "EarlyStopping": (("monitor=val/loss",), ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKING)
def test_a_callback_that_is_not_refused_does_what_it_is_for(
    name: str,
    command: Command,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments, logs = WORKING[name]
    SAID.clear()
    done = command(*FIT, "--trainer.log_every_n_steps", 1, "--model.lr_schedule", "cosine", *adding(name, *arguments))
    assert done.code == 0, done.err
    if logs:
        first = logs.split("|")
        rows = [json.loads(line) for line in done.run.files.metrics.read_text().splitlines()]
        assert any(all(part in key for part in first) for row in rows for key in row), f"nothing of {name} is logged"
    if name.endswith("Summary"):
        assert "params" in done.out + done.err + caplog.text, "no summary is shown"
    assert bool(SAID) == (name == "LambdaCallback")


def test_every_callback_that_is_not_refused_is_tried_in_a_fit() -> None:
    shown = {"RichProgressBar", "TQDMProgressBar"}  # above
    assert {n for n, rule in CALLBACKS.items() if rule is None} == set(WORKING) | shown


def test_files_of_model_checkpoint_are_named_by_the_step_and_epoch_that_they_hold(command: Command) -> None:  # noqa: F811
    done = command(*FIT, *adding("ModelCheckpoint", "every_n_train_steps=3", "save_top_k=-1"))
    assert done.code == 0, done.err
    files = sorted(done.run.path.rglob("epoch=*.ckpt"))
    found = {f.name: torch.load(f, weights_only=True, map_location="cpu") for f in files}
    assert sorted(c["global_step"] for c in found.values()) == [3, 6, 9]
    for name, content in found.items():
        assert name == f"epoch={content['epoch']}-step={content['global_step']}.ckpt", f"{name} says something else"
