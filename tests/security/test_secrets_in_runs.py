"""Planted keys in a run: they work, and are in nothing that the run writes, prints or sends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import ROOT
from tests.refused import refused
from tests.runs.wandb_server import serve
from tests.security import keyed
from tests.security.conftest import Command, Result, check_refused, config, network
from tests.serve.waiting import until

KEY, PASSWORD = "planted-key-1", "planted-pass-2"
URL = "https://planted-user:planted-3@example.org:8080/x?token=planted-4&v=1"
ENVIRONMENT = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_planted5planted5planted5planted5pl",
    "AWS_SECRET_ACCESS_KEY": "planted-6",
    "SLURM_JWT": "planted-7-scheduler",
    "OUR_API_KEY": "planted-8",
}
NET = {"class_path": "tests.security.keyed.KeyedMLP", "init_args": {"hub_token": "planted-9-hub"}}
SIGNS = ("planted", "0123456789abcdef0123456789abcdef01234567")


def data(**more: Any) -> dict[str, Any]:
    given = {"api_key": KEY, "login": {"user": "me", "password": PASSWORD}, "shots_per_class": 2, "batch_size": 10}
    return {"class_path": "tests.security.keyed.KeyedDigits", "init_args": {**given, **more}}


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    keyed.GOT.clear()
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def check_nothing_shows(text: str, where: str) -> None:
    for sign in SIGNS:
        at = text.find(sign)
        assert at < 0, f"a planted secret is in {where}: …{text[max(at - 60, 0) : at + 60]}…"


def check_run(run: Path) -> None:
    """No file of the run holds a planted secret, whatever its format; checkpoints are not compressed."""
    files = [p for p in run.rglob("*") if p.is_file()]
    for file in files:
        check_nothing_shows(file.read_bytes().decode("latin-1"), str(file.relative_to(run)))


def fit(command: Command, tmp_path: Path, *arguments: Any, **more: Any) -> Result:
    return command("fit", *config(tmp_path, NET, data(**more)), *arguments)


def test_an_offline_run_holds_no_secret(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--data.init_args.url", URL, f"--wandb_tags=[a,{ENVIRONMENT['OUR_API_KEY']}]"]
    monkeypatch.setattr(sys, "argv", ["sft-lightning", "fit", *typed])  # W&B writes down what it finds here
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path / "csv")}}
    done = fit(command, tmp_path, *typed, "--trainer.logger", json.dumps(logger))
    assert done.code == 0, done.err
    check_nothing_shows(done.out + done.err, "what is printed")
    assert "printed: https://***@example.org:8080/x?token=***&v=1 did not take *** of" in done.out
    login = {"user": "me", "password": PASSWORD}
    got = {"api_key": KEY, "url": URL, "login": login, "hub_token": "planted-9-hub"}
    assert got == keyed.GOT, "the objects did not get the secrets"
    run = done.run
    wandb = next((run.path / "wandb").glob("offline-run-*"))
    names = {p.name for p in run.path.rglob("*")}
    assert {"config.yaml", "run.json", "last.ckpt", "debug.log", f"run-{run.files.run_id}.wandb"} <= names
    until(lambda: "all finished" in (wandb / "logs/debug-internal.log").read_text(), "W&B's process has written all")
    assert b"***@example.org" in (wandb / f"run-{run.files.run_id}.wandb").read_bytes(), (
        f"W&B's record says nothing of it; the command printed:\n{done.out}{done.err}"
    )
    check_run(run.path)
    check_run(tmp_path / "csv")
    assert "--data.init_args.url 'https://***@example.org:8080/x?token=***&v=1'" in run.record["command"]
    assert run.config["data"]["init_args"]["login"] == {"user": "me", "password": "***"}
    assert run.config["network"]["init_args"] == {"hub_token": "***"}


def test_an_online_run_sends_no_secret(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["--data.init_args.url", URL]
    monkeypatch.setattr(sys, "argv", ["sft-lightning", "fit", *typed])
    with serve() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        done = fit(command, tmp_path, *typed, "--wandb", "online")
        assert done.code == 0, done.err
    (sent,) = server.runs.values()
    assert sent["config"]["data"]["init_args"]["api_key"] == "***"
    check_nothing_shows(json.dumps(sent), "the run's description")
    assert "wandb-metadata.json" in server.files, f"only {sorted(server.files)} came"
    for name, content in server.files.items():
        check_nothing_shows(content.decode("latin-1"), f"{name} as it was sent")
    check_nothing_shows(done.out + done.err, "what is printed")
    check_run(done.run.path)


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Path:
    done = fit(command, tmp_path, "--wandb", "disabled")
    assert done.code == 0, done.err
    return done.run.path


def test_what_a_class_declares_a_secret_is_left_out_under_any_name(command: Command, tmp_path: Path) -> None:
    done = fit(command, tmp_path, phrase="planted-phrase")
    assert done.code == 0, done.err
    assert keyed.GOT["phrase"] == "planted-phrase", "the object did not get the secret"
    assert "printed: ***" in done.out
    check_nothing_shows(done.out + done.err, "what is printed")
    check_run(done.run.path)
    net = ["--network.init_args.hub_token", "planted-9-hub"]
    again = command("fit", "--resume", done.run.path, *AGAIN, *net, "--trainer.max_epochs", 2)
    check_refused(again, "data.init_args.phrase", "***", "--data.init_args.phrase")


AGAIN = ["--data.init_args.api_key", KEY, "--data.init_args.login", f"{{user: me, password: {PASSWORD}}}"]


@pytest.mark.parametrize("way", ["--config", "--resume", "--run"])
def test_what_was_left_out_must_be_given_again(way: str, command: Command, run: Path) -> None:
    verb, where = "test" if way == "--run" else "fit", run / "config.yaml" if way == "--config" else run
    keyed.GOT.clear()
    before = sorted(run.parent.iterdir())
    done = command(verb, way, where, "--trainer.max_epochs", 2)
    check_refused(done, "data.init_args.api_key", "***", "--data.init_args.api_key")
    assert not keyed.GOT, "the run began with *** for a key"
    assert sorted(run.parent.iterdir()) == before, "something was left of it"
    net = ["--network.init_args.hub_token", "planted-9-hub"]
    check_refused(command(verb, way, where, *AGAIN), "network.init_args.hub_token")
    done = command(verb, way, where, *AGAIN, *net, "--trainer.max_epochs", 2)
    assert done.code == 0, done.err
    assert keyed.GOT["api_key"] == KEY and keyed.GOT["hub_token"] == "planted-9-hub", (
        "the key given again did not count"
    )
    check_run(run)


def test_a_checkpoint_cannot_stand_in_for_a_secret(run: Path) -> None:
    from sft_lightning.modules import PlainSFT

    with refused("network.init_args.hub_token", "'***'"):
        PlainSFT.load_from_checkpoint(run / "checkpoints/last.ckpt", weights_only=True)


def test_a_bug_shows_its_traceback_without_secrets(command: Command, tmp_path: Path) -> None:
    done = fit(command, tmp_path, "--data.init_args.url", URL, "--wandb", "disabled", fails="bug")
    assert done.code == 1
    lines = [x for x in done.err.splitlines() if not x.startswith(("warned", "logged"))]
    assert "Traceback (most recent call last):" in lines and "keyed.py" in done.err, "the traceback is gone"
    assert "raise RuntimeError(said)" in done.err, "the traceback has lost its lines of code"
    assert lines[-1].startswith("RuntimeError: https://***@example.org:8080/x?token=***&v=1 did not take *** of"), (
        lines[-1]
    )
    check_nothing_shows(done.out + done.err, "what is printed")
    (record,) = done.runs.rglob("run.json")
    assert json.loads(record.read_text())["reason"].startswith("RuntimeError: https://***@example.org")
    check_run(record.parent)


@pytest.mark.slow
def test_a_process_of_its_own_prints_no_secret(tmp_path: Path) -> None:
    """Its warnings and logs too, which pytest would catch."""
    arguments = config(tmp_path, NET, data(fails="bug", url=URL))
    environment = {**os.environ, "SFT_RUNS_DIR": str(tmp_path / "runs"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sft_lightning", "fit", *map(str, arguments), "--wandb", "disabled"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    for line in ("warned:", "logged:", "printed:", "RuntimeError:"):
        assert f"{line} https://***@example.org:8080/x?token=***&v=1 did not take ***" in done.stdout + done.stderr
    check_nothing_shows(done.stdout + done.stderr, "what is printed")


def test_a_bug_without_secrets_is_raised_as_ever(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> None:
        raise RuntimeError("a plain bug")

    monkeypatch.setattr(keyed.KeyedDigits, "load", broken)
    with pytest.raises(RuntimeError, match="a plain bug"):
        fit(command, tmp_path, "--wandb", "disabled")


def test_a_users_mistake_is_told_without_secrets(command: Command, tmp_path: Path) -> None:
    done = fit(command, tmp_path, "--data.init_args.url", URL, "--wandb", "disabled", fails="user")
    check_refused(done, "data", "https://***@example.org:8080/x?token=***&v=1 did not take *** of")
    check_nothing_shows(done.out + done.err, "what is printed")


WRONG: dict[str, list[str]] = {
    "of another kind": ["--data.init_args.api_key", "[planted-list, planted-more]"],
    "of another kind, joined": ["--data.init_args.api_key=[planted-list, planted-more]"],
    "beside another mistake": ["--data.init_args.batch_size", "many", "--data.init_args.url", URL],
    "in a mapping that is cut off": ["--data", "{class_path: Digits, init_args: {api_key: planted-key-1"],
    "in a mapping that does not fit": ["--data.init_args.login", "[{password: planted-in-list}]"],
    "as an option": [f"--api_key={KEY}"],
    "as a checkpoint's path": ["--ckpt_path", URL],
    "as a run's name": ["--run_id", ENVIRONMENT["HF_TOKEN"] + "/" + KEY],
    "as a config": ["--config", URL],
    "as a module": ["--import", ENVIRONMENT["OUR_API_KEY"]],
    "as pretrained weights": ["--network", "MLP", "--network.init_args.pretrained", URL],
}


@pytest.mark.parametrize("where", WRONG)
def test_a_secret_in_a_mistake_on_the_command_line_is_not_repeated(
    where: str, command: Command, tmp_path: Path
) -> None:
    done = fit(command, tmp_path, *WRONG[where], "--wandb", "disabled")
    assert done.code == 2, done.out + done.err
    check_nothing_shows(done.err, "the line of error")


def test_a_secret_in_a_wrong_config_file_is_not_repeated(command: Command, tmp_path: Path) -> None:
    for api_key in (["planted-list"], {"planted-key": "planted-value"}):
        done = fit(command, tmp_path, api_key=api_key)
        check_refused(done, "data.init_args.api_key", "***")
        assert "planted-list" not in done.err and "planted-value" not in done.err, done.err


def test_the_printed_config_has_no_secrets(command: Command, tmp_path: Path) -> None:
    done = fit(command, tmp_path, "--data.init_args.url", URL, "--print_config")
    assert done.code == 0, done.err
    check_nothing_shows(done.out, "what --print_config prints")
    assert yaml.safe_load(done.out)["data"]["init_args"]["api_key"] == "***"


def test_an_ordinary_run_is_recorded_as_it_is(command: Command, tmp_path: Path) -> None:
    net = network("MLP", in_features=64, hidden=[8])
    done = command("fit", *config(tmp_path, net), "--wandb", "disabled")
    assert done.code == 0, done.err
    written = "".join(f.read_text() for f in (done.run.files.config, done.run.files.record))
    assert "***" not in written, "something that is no secret was left out"
