"""A run from Python leaves what the command leaves: the same files, the same numbers, the same ways to fail."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping

import sft_lightning
from sft_lightning import runs, spec
from sft_lightning.callbacks import LPFT, RetentionMonitor
from sft_lightning.data import Digits
from sft_lightning.modules import DistillSFT, PlainSFT
from sft_lightning.networks import MLP
from tests.cli.conftest import ROOT, Command, command  # noqa: F401  the fixture
from tests.refused import check_printed, refused

OLD, NEW = [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
TRAINER = {"max_epochs": 4, "check_val_every_n_epoch": 2, "accelerator": "cpu"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, and no seed from before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SFT_RUNS_DIR", raising=False)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    return tmp_path


def network() -> dict[str, Any]:
    return dict(spec(MLP, in_features=64, hidden=[128, 64], pretrained="builtin:digits-0-4"))


def data() -> Digits:
    return Digits(classes=NEW, shots_per_class=20, batch_size=20)


def fitted(experiment: str = "from-python", **options: Any) -> Path:
    """One fit; its run directory."""
    options = {"wandb": "disabled", "quiet": True, "retention": Digits(classes=OLD), **options}
    with sft_lightning.run(experiment, **options) as run:
        Trainer(**run.trainer_kwargs(**TRAINER)).fit(DistillSFT(network(), anchor_weight=0.1), datamodule=data())
    return run.path


def numbers(path: Path) -> dict[str, Any]:
    """Every metric of a record."""
    metrics: dict[str, Any] = runs.load(path).record["metrics"]
    return metrics


def test_a_python_run_is_repeated_tested_resumed_and_compared_by_the_commands(
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    path = fitted(run_id="one", test_after_fit=True)
    run = runs.load(path)
    assert path == tmp_path / "runs" / "from-python" / "one"
    assert (run.status, run.record["variant"], run.record["network"], run.record["seed"]) == (
        "finished",
        "DistillSFT",
        "MLP",
        0,
    )
    for file in ("config.yaml", "metrics.jsonl", "details.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        assert (path / file).is_file(), f"the run has no {file}"
    assert (path / "model" / "model.safetensors").is_file()
    assert run.metric("test/accuracy") > 0.5
    assert "not_written" not in run.config

    again = command("fit", "--config", path / "config.yaml")
    assert again.code == 0, again.err
    repeated = [p for p in path.parent.iterdir() if p != path]
    assert len(repeated) == 1
    assert numbers(repeated[0]) == numbers(path), "`fit --config config.yaml` does not repeat the run"
    assert runs.load(repeated[0]).config == run.config

    before = numbers(path)["test/accuracy"]["best"]
    assert command("test", "--run", path).code == 0
    assert numbers(path)["test/accuracy"]["best"] == before
    assert command("predict", "--run", path).code == 0
    assert (path / "predictions.jsonl").is_file()
    resumed = command("fit", "--resume", path, "--trainer.max_epochs", 6)
    assert resumed.code == 0, resumed.err
    assert runs.load(path).record["steps"] == 6 * 5
    compared = command("compare", path, repeated[0])
    assert compared.code == 0, compared.err
    assert "DistillSFT" in compared.out or "from-python" in compared.out


def test_the_seed_is_the_last_that_was_set_and_two_blocks_do_not_disturb_each_other(here: Path) -> None:
    from lightning.pytorch import seed_everything

    seed_everything(3, verbose=False)
    first, torch_state = fitted(), torch.get_rng_state()
    second = fitted()
    assert first != second
    assert runs.load(first).record["seed"] == runs.load(second).record["seed"] == 3
    assert numbers(first) == numbers(second), "what the first block drew reached the second"
    assert torch.equal(torch_state, torch.get_rng_state())
    assert numbers(fitted(seed=4)) != numbers(first)


def test_what_has_no_plain_values_is_named_and_the_commands_refuse_the_file(
    command: Command,  # noqa: F811
) -> None:
    with sft_lightning.run("e", wandb="disabled", quiet=True) as run:
        stops = EarlyStopping("val/loss", mode="min")
        Trainer(**run.trainer_kwargs(**TRAINER, callbacks=[stops])).fit(PlainSFT(network()), datamodule=data())
    held = runs.load(run.path)
    assert list(held.config["not_written"]) == list(held.record["not_written"]) == ["trainer.callbacks[0]"]
    for arguments in (("fit", "--config", run.path / "config.yaml"), ("test", "--run", run.path)):
        done = command(*arguments)
        assert done.code == 2
        check_printed(done.err, "--config", "config.yaml", "trainer.callbacks[0]", "EarlyStopping", "not_written")

    with sft_lightning.run("e", wandb="disabled", quiet=True) as run:
        stops_plainly = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "mode": "min"}}
        probes_first = {"class_path": "LPFT", "init_args": {"steps": 2}}
        trainer = Trainer(**run.trainer_kwargs(**TRAINER, callbacks=[stops_plainly, probes_first]))
        for kind in (EarlyStopping, LPFT):
            assert any(isinstance(c, kind) for c in trainer.callbacks)  # type: ignore[attr-defined]
        trainer.fit(PlainSFT(network()), datamodule=data())
    assert "not_written" not in runs.load(run.path).config
    assert command("test", "--run", run.path).code == 0


class OwnPlain(PlainSFT):
    """A class that a config can name only where it lies in a module."""


def test_a_class_that_no_config_can_name_is_noted(here: Path) -> None:
    class Local(PlainSFT):
        pass

    for cls, named in ((OwnPlain, True), (Local, False)):
        with sft_lightning.run("e", wandb="disabled", quiet=True) as run:
            Trainer(**run.trainer_kwargs(**TRAINER)).fit(cls(network()), datamodule=data())
        lacks = runs.load(run.path).config.get("not_written", {})
        assert list(lacks) == ([] if named else ["model.class_path"])


class Fails(Callback):
    """Raises in the third step."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise self.error


def failing(error: BaseException) -> None:
    with sft_lightning.run("e", run_id="r", wandb="disabled", quiet=True) as run:
        kwargs = run.trainer_kwargs(**TRAINER, callbacks=[Fails(error)])
        Trainer(**kwargs).fit(PlainSFT(network()), datamodule=data())


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [(RuntimeError("boom"), RuntimeError, "failed"), (KeyboardInterrupt(), KeyboardInterrupt, "interrupted")],
)
def test_an_exception_in_the_block_is_recorded_and_goes_on_its_way(
    here: Path, error: BaseException, raised: type[BaseException], status: str
) -> None:
    with pytest.raises(raised):
        failing(error)
    held = runs.load(here / "runs" / "e" / "r")
    assert (held.status, held.record["steps"]) == (status, 3)
    assert held.record["reason"] == ("RuntimeError: boom" if status == "failed" else "KeyboardInterrupt")
    assert fitted("e", run_id="next").is_dir(), "the failed run is still open"


def test_what_the_user_can_mend_leaves_no_directory(here: Path) -> None:
    def block(*fits: Any, **options: Any) -> None:
        with sft_lightning.run("e", wandb="disabled", quiet=True, **options) as run:
            for fit in fits:
                fit(run)

    def fit(run: Any, **given: Any) -> None:
        Trainer(**run.trainer_kwargs(**TRAINER, **given)).fit(PlainSFT(network()), datamodule=data())

    def nowhere() -> None:
        with sft_lightning.run("e", wandb="nowhere"):
            pass

    wrong: list[tuple[tuple[str, ...], Callable[[], object]]] = [
        (("run", "Trainer(**run.trainer_kwargs(…)).fit(module, data)"), lambda: block()),
        (("wandbb", "'wandb'"), lambda: block(fit, wandbb="offline")),
        (("wandb", "'nowhere'", "online, offline, disabled"), nowhere),
        (("drift_rows", "many"), lambda: block(fit, drift_rows="many")),
        (("trainer.default_root_dir",), lambda: block(lambda run: fit(run, default_root_dir="x"))),
        (
            ("trainer.callbacks", "RetentionMonitor", "set retention"),
            lambda: block(lambda run: fit(run, callbacks=[RetentionMonitor()])),
        ),
        (("run", "runs/e/"), lambda: block(lambda run: sft_lightning.run("f").__enter__())),
        (("trainer_kwargs",), lambda: block(lambda run: (run.trainer_kwargs(), run.trainer_kwargs()))),
        (
            ("fit", "SFTDataModule", "datamodule="),
            lambda: block(
                lambda run: Trainer(**run.trainer_kwargs(**TRAINER)).fit(
                    PlainSFT(network(), task={"name": "classification", "num_outputs": 5, "labels": []}),
                    train_dataloaders=[{}],
                )
            ),
        ),
    ]
    for refusal, do in wrong:
        with refused(*refusal):
            do()
        assert not (here / "runs").exists(), f"{refusal}: something is left behind"


def two_fits() -> None:
    with sft_lightning.run("e", run_id="two", wandb="disabled", quiet=True) as run:
        trainer = Trainer(**run.trainer_kwargs(**TRAINER))
        for _ in range(2):
            trainer.fit(PlainSFT(network()), datamodule=data())


def test_a_directory_is_never_used_twice(here: Path) -> None:
    path = fitted(run_id="r")
    before = (path / "run.json").read_text()
    with refused("run_id", path, "fit --resume"):
        fitted(run_id="r")
    assert (path / "run.json").read_text() == before
    with refused("run"):
        two_fits()
    assert runs.load(here / "runs/e/two").status == "failed"


SCRIPT = """
import sys
from pathlib import Path
from lightning.pytorch import Callback, Trainer
import sft_lightning
from sft_lightning.data import Digits
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import MLP, spec

class Ready(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 7:
            Path("ready").touch()

def fit(name, **given):
    with sft_lightning.run(name, run_id="r" if len(sys.argv) > 2 else None, wandb="disabled", quiet=True) as run:
        trainer = Trainer(**run.trainer_kwargs(accelerator="cpu", **given))
        trainer.fit(PlainSFT(spec(MLP, in_features=64, hidden=[128, 64], pretrained="builtin:digits-0-4")),
                    datamodule=Digits(classes=[5, 6, 7, 8, 9], shots_per_class=20, batch_size=20))
    print("done", name, run.path, trainer.global_rank, flush=True)

if __name__ == "__main__":
    if sys.argv[1] == "long":
        fit("long", max_epochs=100000, callbacks=[Ready()])
    else:
        for name in ("a", "b"):
            fit(name, max_epochs=2, devices=2, strategy="ddp")
"""


@pytest.mark.slow
def test_sigterm_in_a_script_saves_and_exits_as_the_command_does(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "script.py", "long", "fixed"], cwd=tmp_path, env=env)
    try:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None, "the script ended before it trained"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143
    finally:
        process.kill()
    run = runs.load(tmp_path / "runs/long/r")
    assert run.status == "interrupted"
    assert run.files.last.is_file()
    assert torch.load(run.files.last, weights_only=True)["global_step"] >= 7


@pytest.mark.slow
def test_two_processes_of_a_script_agree_on_the_directories_of_two_runs(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py", "two"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("a", "b"):
        found = list((tmp_path / "runs" / name).iterdir())
        assert len(found) == 1, "each rank has a directory of its own"
        run = runs.load(found[0])
        assert run.status == "finished"
        assert run.record["device"]["ranks"] == 2
        assert json.loads((found[0] / "metrics.jsonl").read_text().splitlines()[0])["step"] == 0
        assert yaml.safe_load((found[0] / "config.yaml").read_text())["trainer"]["devices"] == 2
