"""What goes wrong around a run: it ends with one line, or goes on and says so; what was saved stays."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sft_lightning.runs import load
from tests.cli.conftest import Command, Result
from tests.exactness.figures import note
from tests.refused import check_printed
from tests.survival.snapshots import difference, outcome
from tests.survival.zygote import Zygote

FIT = (
    "fit", "--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 4, "--wandb", "disabled",
    "--trainer.check_val_every_n_epoch", 1, "--experiment", "x",
)  # fmt: skip


def with_fault(folder: Path, **arguments: Any) -> tuple[str, str]:
    """`--config FILE` that adds a fault."""
    name = "SlowTest" if "what" not in arguments else "Fault"
    callback = {"class_path": f"tests.survival.faults.{name}", "init_args": arguments}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return "--config", str(path)


def one_line(result: Result, key: object, *values: object) -> None:
    assert result.code == 2, f"it ended with {result.code}:\n{result.err}"
    check_printed(result.err, key, *values)
    note("faults met with one line or survived", 0)


def finite(path: Path) -> bool:
    state = torch.load(path, weights_only=True)["state_dict"]
    return all(bool(v.isfinite().all()) for v in state.values())


# ---- numbers ----


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_loss_that_is_no_number_stops_the_run_with_step_terms_and_samples(command: Command, optimizer: str) -> None:
    arguments = ("--model.init_args.optimizer", optimizer, "--model.init_args.lr", 1e30, "--run_id", "nan")
    result = command(*FIT, *arguments, "--save_every_n_steps", 1)
    one_line(result, "trainer", "optimizer step", "loss_task", "loss_anchor", "sample ", "model.init_args.lr")
    run = load(result.runs / "x/nan")
    assert run.status == "failed"
    assert "optimizer step" in run.record["reason"]
    assert not run.files.last.is_file() or finite(run.files.last), "last.ckpt holds weights that are no numbers"


@pytest.mark.parametrize(("every", "found"), [(1, "weights"), (100, "loss is nan")])
def test_weights_that_are_no_numbers_are_never_saved(command: Command, tmp_path: Path, every: int, found: str) -> None:
    fault = with_fault(tmp_path, what="poison", step=12)
    result = command(*FIT, *fault, "--run_id", "nan", "--save_every_n_steps", every)
    one_line(result, "trainer", found, f"step {12 if every == 1 else 13}", "last.ckpt")
    run = load(result.runs / "x/nan")
    assert finite(run.files.last), "last.ckpt holds weights that are no numbers"
    assert torch.load(run.files.last, weights_only=True)["global_step"] == (11 if every == 1 else 10)
    rest = command("fit", "--resume", run.path, "--trainer.callbacks", "null")
    assert rest.code == 0, rest.err
    assert difference(outcome(command(*FIT, "--run_id", "whole").run.path), outcome(run.path)) is None


def test_a_single_sample_that_breaks_the_loss_is_named(command: Command, tmp_path: Path) -> None:
    rows = [f"word {i},{i / 10}" for i in range(40)]
    rows[17] = "the culprit,1e30"
    for name in ("train", "val"):
        (tmp_path / f"{name}.csv").write_text(
            "\n".join(["text,label", *(rows if name == "train" else rows[:9])]) + "\n"
        )
    config = {
        "model": {"class_path": "PlainSFT", "init_args": {"lr": 1e-3}},
        "network": {"class_path": "LSTM"},
        "data": {
            "class_path": "TextTable",
            "init_args": {
                "train": str(tmp_path / "train.csv"),
                "val": str(tmp_path / "val.csv"),
                "task": "regression",
                "batch_size": 4,
            },
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu"},
        "wandb": "disabled",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    one_line(command("fit", "--config", tmp_path / "config.yaml"), "trainer", "inf", "train.csv line 19")


# ---- the disk ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk of a few megabytes can only be mounted by root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_good_checkpoint(command: Command, small_disk: Path, tmp_path: Path) -> None:
    undisturbed = command(*FIT, "--run_id", "whole")
    fault = with_fault(tmp_path, what="fill", step=12, where=str(small_disk / "filler"))
    result = command(*FIT, *fault, "--runs_dir", small_disk, "--run_id", "full", "--save_every_n_steps", 1)
    one_line(result, "runs_dir", small_disk / "x/full", "No space left on device", "fit --resume")
    path = small_disk / "x/full"
    saved = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 11, "the checkpoint before the disk was full is not the one kept"
    assert not list(path.rglob("*.tmp")), "a half-written file is left"
    (small_disk / "filler").unlink()
    rest = command("fit", "--resume", path, "--trainer.callbacks", "null")
    assert rest.code == 0, rest.err
    assert difference(outcome(undisturbed.run.path), outcome(path)) is None


def test_a_folder_that_becomes_read_only_is_said_in_one_line(zygote: Zygote, small_disk: Path, tmp_path: Path) -> None:
    fault = with_fault(tmp_path, what="forbid", step=12, where="checkpoints")
    env = {"SFT_RUNS_DIR": str(small_disk)}
    code = zygote.run([*FIT, *fault, "--run_id", "closed", "--save_every_n_steps", 1], tmp_path / "out", env)
    said = (tmp_path / "out").read_text()
    run = load(small_disk / "x/closed")
    try:
        assert code == 2, said
        check_printed(said, "runs_dir", run.path, "Read-only file system")
        assert torch.load(run.files.last, weights_only=True)["global_step"] == 11
        assert run.status == "failed"
    finally:
        subprocess.run(["umount", str(run.files.checkpoints)], check=False)
    note("faults met with one line or survived", 0)


def test_a_disk_on_which_renames_are_slow_never_shows_half_a_file(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    rename, torn, over = Path.replace, [], threading.Event()

    def slowly(self: Path, target: Any) -> Path:
        time.sleep(0.05)
        return rename(self, target)

    def watch() -> None:
        run = tmp_path / "runs/x/slow"
        while not over.is_set():
            for path, read in ((run / "run.json", lambda p: load(p.parent)), (run / "checkpoints/last.ckpt", finite)):
                if path.is_file():
                    try:
                        read(path)
                    except Exception as error:
                        torn.append(f"{path.name}: {error}")
            time.sleep(0.002)

    monkeypatch.setattr(Path, "replace", slowly)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = command(*FIT, "--run_id", "slow", "--save_every_n_steps", 2)
    finally:
        over.set()
        watcher.join()
    assert result.code == 0, result.err
    assert not torn, f"a reader met half a file: {torn[:3]}"


def test_a_clock_that_jumps_changes_nothing_but_times(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    steady = command(*FIT, "--run_id", "steady").run.path
    clock, calls = time.time, [0]

    def jumping() -> float:
        calls[0] += 1
        return clock() + (-86400.0, 0.0, 86400.0)[calls[0] % 3]

    with monkeypatch.context() as patched:
        patched.setattr(time, "time", jumping)
        result = command(*FIT, "--run_id", "jumping", "--save_every_n_steps", 1)
    assert result.code == 0, result.err
    assert calls[0] > 3, "the clock was not looked at"
    assert difference(outcome(steady), outcome(result.run.path)) is None
    steps = [row["step"] for row in result.run.history()]
    assert steps == sorted(steps)


def test_a_kill_between_last_and_best_leaves_the_right_best(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`best.ckpt` is made after `last.ckpt`, which says that it is due."""
    from sft_lightning.callbacks import checkpoints

    whole = command(*FIT, "--run_id", "whole").run.path
    real, cuts = checkpoints.link, []

    def cut(source: Path, target: Path) -> None:
        copy = tmp_path / f"cut-{len(cuts)}"
        shutil.copytree(source.parents[1], copy)
        cuts.append(copy)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "link", cut)
        assert command(*FIT, "--run_id", "cut").code == 0
    assert cuts
    for copy in cuts:
        assert command("fit", "--resume", copy).code == 0
        found = difference(outcome(whole), outcome(copy))
        assert found is None, f"killed before best.ckpt was made, the run differs: {found}"


def test_weights_that_are_no_numbers_are_not_saved_at_a_validation_amid_an_epoch(
    command: Command, tmp_path: Path
) -> None:
    fault = with_fault(tmp_path, what="poison", step=12)
    result = command(*FIT, *fault, "--run_id", "nan", "--trainer.val_check_interval", 2)
    one_line(result, "trainer", "weights", "optimizer step 12")
    assert finite(load(result.runs / "x/nan").files.last), "last.ckpt holds weights that are no numbers"


def test_validation_amid_an_optimizer_step_is_refused(command: Command) -> None:
    amid = ("--trainer.accumulate_grad_batches", 4, "--trainer.val_check_interval", 3)
    one_line(command(*FIT, *amid), "trainer.val_check_interval", "3", "4")


# ---- W&B ----


def test_a_service_of_wandb_that_an_earlier_run_left_and_that_has_ended_is_replaced(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import wandb

    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-{tmp_path}/gone")
    result = command(*FIT, "--run_id", "dead", "--wandb", "offline")
    assert result.code == 0, result.err
    assert list(result.run.path.glob("wandb/offline-run-*/*.wandb"))


def test_the_run_goes_on_where_wandbs_folder_vanishes(command: Command, tmp_path: Path) -> None:
    steady = command(*FIT, "--run_id", "steady").run.path
    fault = with_fault(tmp_path, what="remove", step=7, where="wandb")
    with pytest.warns(UserWarning, match="W&B's folder is gone") as said:
        result = command(*FIT, *fault, "--run_id", "lost", "--wandb", "offline")
    assert len([w for w in said if "folder is gone" in str(w.message)]) == 1, "it is not said once"
    assert result.code == 0, result.err
    assert "Traceback" not in result.err, result.err
    assert difference(outcome(steady), outcome(result.run.path)) is None, "the local record is not complete"


# ---- two processes, and signals ----


def begun(path: Path, pid: int, zygote: Zygote, out: Path) -> None:
    """Waits until a file is there."""
    until = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < until, f"{path.name} did not come:\n{out.read_text()}"
        time.sleep(0.02)


def asleep(zygote: Zygote, tmp_path: Path, run_id: str, fault: tuple[str, str], mark: Path, *more: object) -> int:
    """A run that has come to its fault, which takes long."""
    env = {"SFT_RUNS_DIR": str(tmp_path / "runs")}
    pid = zygote.spawn([*FIT, *fault, "--run_id", run_id, *more], tmp_path / "out", env)
    begun(mark, pid, zygote, tmp_path / "out")
    return pid


def test_a_second_process_is_refused_while_the_first_works_and_let_in_once_it_is_dead(
    zygote: Zygote,
    command: Command,
    tmp_path: Path,
) -> None:
    fault = with_fault(tmp_path, what="sleep", step=7, where=str(tmp_path / "mark"))
    pid = asleep(zygote, tmp_path, "twice", fault, tmp_path / "mark", "--data.num_workers", 2)
    run = tmp_path / "runs/x/twice"
    before = (run / "run.json").read_text()
    one_line(command("fit", "--resume", run), "run_id", run, f"process {pid} on")
    one_line(command(*FIT, "--run_id", "twice", "--ckpt_path", "last"), "run_id", run, f"process {pid} on")
    one_line(command(*FIT, "--run_id", "twice"), "run_id", f"fit --resume {run}")
    assert (run / "run.json").read_text() == before, "the refused process has touched the run"
    os.kill(pid, signal.SIGKILL)
    zygote.wait(pid)
    rest = command("fit", "--resume", run, "--trainer.callbacks", "null", "--data.num_workers", 0)
    assert rest.code == 0, rest.err
    whole = command(*FIT, "--run_id", "whole").run.path
    assert difference(outcome(whole), outcome(run)) is None


def test_a_second_ctrl_c_stops_at_once(zygote: Zygote, tmp_path: Path) -> None:
    fault = with_fault(tmp_path, what="sleep", step=7, where=str(tmp_path / "mark"))
    pid = asleep(zygote, tmp_path, "twice", fault, tmp_path / "mark")
    os.kill(pid, signal.SIGINT)
    time.sleep(1.0)
    assert load(tmp_path / "runs/x/twice").status == "running", "the first Ctrl-C did not wait for the step's end"
    os.kill(pid, signal.SIGINT)
    began = time.monotonic()
    assert zygote.wait(pid) == 130, (tmp_path / "out").read_text()
    assert time.monotonic() - began < 10
    run = load(tmp_path / "runs/x/twice")
    assert run.status == "interrupted"
    assert torch.load(run.files.last, weights_only=True)["global_step"] == 5, (
        "not the checkpoint of the last validation"
    )


@pytest.mark.parametrize(("asked", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_testing_leaves_a_run_that_a_resume_completes(
    zygote: Zygote,
    command: Command,
    tmp_path: Path,
    asked: signal.Signals,
    code: int,
) -> None:
    fault = with_fault(tmp_path, where=str(tmp_path / "mark"))
    pid = asleep(zygote, tmp_path, "tested", fault, tmp_path / "mark")
    os.kill(pid, asked)
    assert zygote.wait(pid) == code, (tmp_path / "out").read_text()
    run = tmp_path / "runs/x/tested"
    assert load(run).status == "interrupted"
    rest = command("fit", "--resume", run, "--trainer.callbacks", "null")
    assert rest.code == 0, rest.err
    whole = command(*FIT, "--run_id", "whole").run.path
    assert difference(outcome(whole), outcome(run)) is None


@pytest.mark.parametrize("after", [0.0, 0.05, 0.2, 0.4])
def test_a_signal_before_training_begins_is_no_crash(zygote: Zygote, tmp_path: Path, after: float) -> None:
    pid = zygote.spawn([*FIT, "--run_id", "early"], tmp_path / "out", {"SFT_RUNS_DIR": str(tmp_path / "runs")})
    time.sleep(after)
    os.kill(pid, signal.SIGTERM)
    code = zygote.wait(pid)
    said = (tmp_path / "out").read_text() if (tmp_path / "out").is_file() else ""
    assert code in (143, -signal.SIGTERM), f"it ended with {code}:\n{said}"  # the latter before the first line of ours
    assert "Traceback" not in said, said
    record = tmp_path / "runs/x/early/run.json"
    if record.is_file():
        assert load(record.parent).status == "interrupted"
