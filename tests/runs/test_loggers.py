"""Lightning's own loggers beside ours, by their class paths: they get the same metrics under the same names."""

import csv
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from sft_lightning.cli.main import main

Read = Callable[[Path], dict[str, list[float]]]
START = ("fit", "--config", "experiments/digits/distill.yaml", "--run_id", "one", "--test_after_fit", "false")


def of_csv(folder: Path) -> dict[str, list[float]]:
    """The values of each metric, in order, of all versions: a resume begins another one."""
    found: dict[str, list[float]] = {}
    for file in sorted(folder.rglob("metrics.csv")):
        with file.open(newline="") as rows:
            for row in csv.DictReader(rows):
                for name, value in row.items():
                    found.setdefault(name, []).extend([float(value)] if value else [])
    return found


def of_tensorboard(folder: Path) -> dict[str, list[float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-not-found]

    found: dict[str, list[float]] = {}
    for place in sorted({file.parent for file in folder.rglob("events.out.*")}):
        events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        for name in set(events.Tags()["scalars"]) - {"hp_metric"}:  # which Lightning adds
            found.setdefault(name, []).extend(event.value for event in events.Scalars(name))
    return found


def of_mlflow(folder: Path) -> dict[str, list[float]]:
    from mlflow.tracking import MlflowClient  # type: ignore[import-not-found]

    client, found = MlflowClient(f"file:{folder}"), dict[str, list[float]]()
    for experiment in client.search_experiments():
        for run in reversed(client.search_runs([experiment.experiment_id])):
            for name in run.data.metrics:
                found.setdefault(name, []).extend(m.value for m in client.get_metric_history(run.info.run_id, name))
    return found


def fit(folder: Path, logger: str, *more: str) -> int:
    block = {"class_path": logger, "init_args": {"save_dir": str(folder / "theirs")}}
    return main([*START, *more, "--runs_dir", str(folder / "runs"), "--trainer.logger", json.dumps(block)])


def ours(folder: Path) -> dict[str, list[float]]:
    (file,) = (folder / "runs").glob("*/one/metrics.jsonl")
    found: dict[str, list[float]] = {}
    for line in file.read_text().splitlines():
        for name, value in json.loads(line).items():
            found.setdefault(name, []).append(float(value))
    return found


def same(theirs: dict[str, list[float]], mine: dict[str, list[float]]) -> None:
    """The same metrics, and the same values of the most important ones; TensorBoard holds 32 bits."""
    assert set(theirs) - {"step"} == set(mine) - {"step", "time"}
    for name in ("val/accuracy", "retention/accuracy", "drift/kl"):
        assert theirs[name] == pytest.approx(mine[name], rel=1e-6, abs=1e-7), f"{name} differs"


def test_a_csv_logger_gets_every_metric_under_its_own_name(tmp_path: Path) -> None:
    short = ("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1", "--wandb", "disabled")
    assert fit(tmp_path, "lightning.pytorch.loggers.CSVLogger", *short) == 0
    same(of_csv(tmp_path / "theirs"), ours(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("logger", "package", "read"),
    [
        ("CSVLogger", "csv", of_csv),
        ("TensorBoardLogger", "tensorboard", of_tensorboard),
        ("MLFlowLogger", "mlflow", of_mlflow),
    ],
)
def test_a_logger_beside_wandb_is_resumed_and_the_run_is_compared(
    logger: str,
    package: str,
    read: Read,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed (pip install 'sft-lightning[{package}]')")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 asks for it where no server keeps the runs
    name, often = f"lightning.pytorch.loggers.{logger}", ("--trainer.check_val_every_n_epoch", "1")
    assert fit(tmp_path, name, *often, "--trainer.max_epochs", "1", "--wandb", "offline") == 0
    (run,) = (tmp_path / "runs").glob("*/one")
    assert [*(run / "wandb").rglob("*.wandb")]
    assert main(["fit", "--resume", str(run), "--trainer.max_epochs", "2", "--wandb", "disabled"]) == 0
    same(read(tmp_path / "theirs"), ours(tmp_path))
    assert main(["compare", str(run)]) == 0
    assert "one" in capsys.readouterr().out


@pytest.mark.parametrize(("logger", "package"), [("TensorBoardLogger", "tensorboard"), ("MLFlowLogger", "mlflow")])
def test_a_logger_whose_package_is_missing_is_said_in_one_line(
    logger: str, package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"the package {package} is installed")
    assert fit(tmp_path, f"lightning.pytorch.loggers.{logger}", "--wandb", "disabled") == 2
    error = f"trainer.logger: {logger} needs the package {package}; pip install 'sft-lightning[{package}]'"
    assert error in capsys.readouterr().err and not (tmp_path / "runs").exists()
