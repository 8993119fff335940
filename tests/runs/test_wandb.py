"""W&B against a stand-in server: what it receives, online and by `wandb sync`, and what happens without one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.config.options import RunOptions
from sft_lightning.runs import Run, create_run
from sft_lightning.runs.wandb_log import PATIENCE, make_wandb
from tests.cli.conftest import Command, command  # noqa: F401  a fixture
from tests.refused import check_printed, refused
from tests.runs.wandb_server import WandbServer, serve

KEY = "0123456789abcdef0123456789abcdef01234567"  # of the right length, and nobody's
FIT = ("fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 10)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without credentials, and a W&B that reads its environment anew."""
    import wandb

    wandb.teardown()
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for variable in [v for v in os.environ if v.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    yield folder
    wandb.teardown()


@pytest.fixture
def server() -> Iterator[WandbServer]:
    with serve() as running:
        yield running


def check_received(server: WandbServer, run: Run) -> None:
    run_id = run.files.run_id
    assert list(server.runs) == [run_id], "W&B's run id is not ours"
    sent, config = server.runs[run_id], server.runs[run_id]["config"]
    assert sent["groupName"] == "digits-distill"
    assert sent["jobType"] == "DistillSFT"
    assert sorted(sent["tags"]) == ["few", "shots"]
    assert sent["project"] == "sft_lightning"
    assert sent["displayName"] == run_id
    assert config["model"]["init_args"]["anchor_weight"] == 0.1, "the config is not nested"
    assert config["data"]["fingerprint"] == run.record["data"]["fingerprint"]
    assert config["data"]["init_args"]["shots_per_class"] == 20, "describing the data replaced its configuration"
    assert config["git"] == run.record["git"]
    assert config["teacher_hash"] == run.record["teacher_hash"]
    rows = server.rows(run_id)
    for metric in ("val/accuracy", "retention/accuracy", "drift/kl", "train/loss"):
        got = {r["trainer/global_step"]: r[metric] for r in rows if metric in r}
        steps, values = run.series(metric)
        assert got == pytest.approx(dict(zip(steps, values, strict=True))), f"{metric} of W&B is not ours"
    last = max(rows, key=lambda r: (r["trainer/global_step"], "test/accuracy" in r))
    assert last["test/accuracy"] == pytest.approx(run.record["test"]["test/accuracy"])
    assert "retention/accuracy" not in last, "testing replaces the summary of validation's retention"
    assert last["test/retention/accuracy"] == pytest.approx(run.record["test"]["retention/accuracy"])
    assert any(name.startswith("media/images/val/samples") for name in server.files)
    table = next(c for n, c in server.files.items() if n.startswith("media/table/val/confusion_matrix"))
    assert sum(row[-1] for row in json.loads(table)["data"]) == 168, "not every validation sample is in the matrix"


def check_no_secret(run: Run) -> None:
    for file in (run.files.config, run.files.record, run.files.metrics):
        assert file.stat().st_size
    holding = [p for p in run.path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert not holding, "the API key was written down"


def test_an_offline_run_syncs(
    command: Command,  # noqa: F811
    server: WandbServer,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    done = command(*FIT, "--wandb_tags", "[few,shots]")
    assert done.code == 0, done.err
    folder = next((done.run.path / "wandb").glob("offline-run-*"))
    assert not server.operations, "an offline run spoke to the server"
    synced = subprocess.run(
        [Path(sys.executable).with_name("wandb"), "sync", str(folder)],
        env={**os.environ, "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert synced.returncode == 0, synced.stderr
    check_received(server, done.run)
    check_no_secret(done.run)


def test_an_online_run_arrives(
    command: Command,  # noqa: F811
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    done = command(*FIT, "--wandb", "online", "--wandb_tags", "[few,shots]")
    assert done.code == 0, done.err
    check_received(server, done.run)
    check_no_secret(done.run)


def check_refused(result: Any, runs: Path, *values: str) -> None:
    assert result.code == 2, result.out + result.err
    check_printed(result.err, "--wandb", *values)
    assert not list(runs.rglob("*")), "something of the run was left behind"


@pytest.mark.parametrize("why", ["nobody listens", "no key", "a key that is none", "no address"])
def test_online_without_a_server_says_so_before_training(
    why: str,
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:  # a port that stays ours, and on which nothing listens
        free.bind(("127.0.0.1", 0))
        url = "nonsense" if why == "no address" else f"http://127.0.0.1:{free.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
        if why != "no key":
            monkeypatch.setenv("WANDB_API_KEY", "abc" if why == "a key that is none" else KEY)
        began = time.monotonic()
        check_refused(command(*FIT, "--wandb", "online"), tmp_path / "runs", "--wandb offline")
        assert time.monotonic() - began < 60
    assert command(*FIT, "--wandb", "disabled").code == 0, "the failed attempt disturbs the next run"


def test_without_a_server_the_run_falls_back_to_offline_where_allowed(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    with pytest.warns(UserWarning, match="recording offline, `wandb sync` sends it later"):
        result = command(*FIT, "--wandb", "online", "--wandb-fallback", "offline", "--run-id", "fallen")
    assert result.code == 0, result.err
    assert list(result.run.path.glob("wandb/offline-run-*")), "nothing was recorded offline"


def test_without_a_setting_the_wait_for_a_server_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    options = RunOptions(wandb_project="p", wandb_group="g", experiment="e", wandb_job_type="j")
    seen: dict[str, Any] = {}

    def init(**given: Any) -> None:
        seen.update(given)
        raise wandb.errors.CommError("over")

    monkeypatch.setattr(wandb, "init", init)
    for expected, variable in ((PATIENCE, None), (90.0, "77")):  # wandb reads the variable later, over its own default
        if variable:
            monkeypatch.setenv("WANDB_INIT_TIMEOUT", variable)
        with refused("--wandb", "over", "--wandb offline"):
            make_wandb(options, create_run(tmp_path, "e"), {}, online=True, rank=0)
        assert seen["settings"].init_timeout == expected
        assert ("init_timeout" in seen["settings"].model_fields_set) is (variable is None)
        assert seen["settings"].x_save_requirements is False, "W&B would read the metadata of every installed package"


@pytest.mark.parametrize("bad", [("--wandb_project", "a/b"), ("--wandb_tags", f"[{'x' * 65}]")])
def test_what_wandb_refuses_is_the_users_to_mend_also_offline(
    bad: tuple[str, str],
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    check_refused(command(*FIT, *bad), tmp_path / "runs", "--wandb disabled", bad[1].strip("[]")[:2])


def test_the_run_goes_on_where_wandbs_process_ends(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As under Slurm, whose SIGTERM reaches all processes of a step."""
    from sft_lightning.callbacks import RunRecorder

    start = RunRecorder.on_train_start

    def kill(self: RunRecorder, trainer: Any, module: Any) -> None:
        start(self, trainer, module)
        children = subprocess.run(
            ["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        (core,) = [int(line.split()[0]) for line in children if "wandb" in line]
        os.kill(core, signal.SIGKILL)
        time.sleep(0.5)

    monkeypatch.setattr(RunRecorder, "on_train_start", kill)
    with pytest.warns(UserWarning, match="W&B's process is gone"):
        done = command(*FIT)
    assert done.code == 0, done.err
    assert done.run.status == "finished"
    assert done.run.metrics["val/accuracy"] > 0.5
    assert done.run.series("val/accuracy")[0] == [0, 50]
