"""Processes that load data and die, and memory that does not suffice: one line, what was saved is kept, nothing is left."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sft_lightning.core.environment_errors import machine_fault
from sft_lightning.data.loaders import ready_worker
from sft_lightning.data.vision.base import ArrayImages
from sft_lightning.networks import LeNet
from sft_lightning.runs import Run, load
from tests.cli.conftest import ROOT, Command, Result, command  # noqa: F401  a fixture
from tests.refused import check_message, check_printed

FIT = (
    "fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", "--retention", "null",
    "--test_after_fit", "false", "--run_id", "hurt",
)  # fmt: skip
LONG = ("--trainer.max_epochs", "100000", "--trainer.check_val_every_n_epoch", "2", "--data.num_workers", "2")


@pytest.fixture(autouse=True)
def torch_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's trainers, where they handle signals, leave the process without torch's watch over loading processes."""
    monkeypatch.setattr(torch.utils.data._utils.signal_handling, "_SIGCHLD_handler_set", False)


def children(pid: int) -> set[int]:
    """Running child processes."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {int(p) for p, parent, state in rows if int(parent) == pid and not state.startswith("Z")} - {os.getpid()}


def loading(pid: int) -> list[int]:
    """The processes that load data: copies of their parent, by the name of their command line."""
    mine = Path(f"/proc/{pid}/cmdline").read_bytes()
    return [p for p in children(pid) if (f := Path(f"/proc/{p}/cmdline")).exists() and f.read_bytes() == mine]


def well_under_way(run: Path) -> bool:
    """last.ckpt is there, and later steps too."""
    history = run / "metrics.jsonl"
    return (run / "checkpoints" / "last.ckpt").is_file() and history.read_text().count("\n") > 8


def check_line(done: Result, *values: object) -> str:
    """Standard error must hold one line, an error of the machine with these values. Returns it."""
    assert done.code == 2, done.err[-2000:]
    lines = [line for line in done.err.replace("\0", "").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("ERROR: Unexpected segmentation fault")]  # torch's own
    assert len(lines) == 1, done.err
    check_printed(lines[0], "machine", *values)
    return lines[0]


def check_goes_on(run: Run, command: Command) -> None:  # noqa: F811
    assert run.status == "failed"
    assert run.record["reason"]
    step = torch.load(run.files.last, weights_only=True)["global_step"]
    assert step > 0
    assert not [p for p in run.path.rglob("*") if p.name.endswith(".tmp")]
    last = ("--trainer.max_epochs", "null", "--trainer.max_steps", step + 7, "--data.num_workers", 0)
    again = command("fit", "--resume", run.path, *last)
    assert again.code == 0, again.err
    assert load(run.path).status == "finished"
    assert load(run.path).record["steps"] == step + 7


# ---- processes that load data ----


@pytest.mark.parametrize(
    ("signum", "told"),
    [(signal.SIGKILL, ("(Killed)", "lower data.num_workers")),
     (signal.SIGSEGV, ("(Segmentation fault)", "set data.num_workers 0"))],
    ids=["kill -9", "segmentation fault"],
)  # fmt: skip
def test_a_loading_process_that_a_signal_ends(
    signum: signal.Signals,
    told: tuple[str, str],
    command: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    path, before = tmp_path / "runs" / "digits-distill" / "hurt", set(loading(os.getpid()))
    killed: list[int] = []

    def kill() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if path.is_dir() and (path / "metrics.jsonl").is_file() and well_under_way(path):
                killed.extend(sorted(set(loading(os.getpid())) - before)[:1])
                os.kill(killed[0], signum)
                return
            time.sleep(0.05)

    thread = threading.Thread(target=kill)
    thread.start()
    done = command(*FIT, *LONG)
    thread.join()
    assert killed
    check_line(done, *told, f"fit --resume {path}")
    gc.collect()
    until = time.monotonic() + 10
    while set(loading(os.getpid())) - before and time.monotonic() < until:
        time.sleep(0.1)
    assert not set(loading(os.getpid())) - before, "other loading processes live on"
    check_goes_on(load(path), command)


def test_a_loading_process_says_nothing_when_the_one_it_loads_for_hangs_up(capfd: pytest.CaptureFixture[str]) -> None:
    """A tensor that is being passed on when another loading process has crashed breaks a pipe, which is no news."""
    for error, shown in ((BrokenPipeError(32, "Broken pipe"), False), (EOFError(), False), (ValueError("a bug"), True)):
        if (pid := os.fork()) == 0:
            ready_worker()
            sys.excepthook(type(error), error, None)
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        assert (type(error).__name__ in capfd.readouterr().err) == shown, error


def test_a_loading_process_that_leaves_by_itself(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a library does that calls exit() on damaged input."""
    main, fetch = os.getpid(), ArrayImages.fetch

    def leave(self: Any, rows: Any, keys: Any, train: bool) -> Any:
        if train and keys[0].epoch == 4 and os.getpid() != main:
            os._exit(3)
        return fetch(self, rows, keys, train)

    with monkeypatch.context() as patched:
        patched.setattr(ArrayImages, "fetch", leave)
        done = command(*FIT, *LONG)
    check_line(done, "exit code 3", "set data.num_workers 0")
    check_goes_on(load(next(done.runs.glob("*/hurt"))), command)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_nothing_lives_on_after_the_command(devices: int, tmp_path: Path) -> None:
    """Of two processes it is the second whose loading process is killed."""
    path = tmp_path / "runs" / "digits-distill" / "hurt"
    two = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "sft_lightning", *FIT, *LONG, *(two if devices == 2 else ())],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SFT_RUNS_DIR": str(tmp_path / "runs")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 240
        while not ((path / "metrics.jsonl").is_file() and well_under_way(path)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        parent = process.pid
        if devices == 2:
            (parent,) = children(process.pid) - set(loading(process.pid))
        os.kill(loading(parent)[0], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 2, err
        assert "Traceback" not in err
        assert err.count("sft-lightning: error: ") == 1
        assert load(path).status == "failed"
        time.sleep(1)
        left = subprocess.run(["ps", "-eo", "sid=,stat=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split() for line in left.splitlines()]
        mine = [row for row in rows if row[0] == str(process.pid) and not row[1].startswith("Z")]
        assert not mine, f"processes live on: {mine}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


# ---- memory ----


class Hungry(LeNet):
    """Asks for more memory than there is: when trained from the fourth step on, or when measured then."""

    when = "training"
    error: RuntimeError | None = None  # raised in place of the real allocation

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = 0

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        self.steps += self.training
        if self.steps > 7 and self.training == (self.when == "training"):
            if self.error is not None:
                raise self.error
            x["image"].new_empty(10**14)  # 400 TB: refused at once
        return super().encode(x)


HUNGRY = (
    "fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", "--retention", "null",
    "--model", "PlainSFT", "--network", "tests.survival.test_loading.Hungry", "--network.image_size", "16",
    "--network.pretrained", "null", "--trainer.check_val_every_n_epoch", "1", "--trainer.max_epochs", "4",
    "--test_after_fit", "false", "--run_id", "hurt",
)  # fmt: skip


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("training", ("trainer.accumulate_grad_batches", "data.init_args.batch_size")),
        ("measuring", ("data.init_args.eval_batch_size",)),
    ],
)
def test_memory_that_does_not_suffice(
    when: str,
    told: tuple[str, ...],
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Hungry, "when", when)
    done = command(*HUNGRY)
    check_line(done, "372,529.0 GiB", *told, "fit --resume ")
    run = load(next(done.runs.glob("*/hurt")))
    assert run.status == "failed"
    monkeypatch.setattr(Hungry, "encode", LeNet.encode)
    again = command("fit", "--resume", run.path)
    assert again.code == 0, again.err


def test_memory_of_a_gpu_that_does_not_suffice(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A stand-in: there is no GPU here, so the error that torch raises there is raised without one."""
    text = (
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.81 GiB of which 10.00 MiB is "
        "free. Including non-PyTorch memory, this process has 139.80 GiB memory in use."
    )
    monkeypatch.setattr(Hungry, "error", torch.OutOfMemoryError(text))
    check_line(command(*HUNGRY), "GPU", "20.00 MiB", "trainer.accumulate_grad_batches")


def test_a_network_that_fits_nowhere(command: Command) -> None:  # noqa: F811
    done = command(
        *FIT, "--model", "PlainSFT", "--network", "MLP", "--network.in_features", 64, "--network.hidden", f"[{10**12}]"
    )
    line = check_line(done, "238,418.6 GiB", "network")
    assert "--resume" not in line, "nothing was saved"
    assert not list(done.runs.rglob("*.json")), "a half-written run was left"


def caught(kind: str, text: str) -> str:
    return f"Caught {kind} in DataLoader worker process 1.\nOriginal Traceback (most recent call last):\n  …\n{kind}: {text}"


FAULTS: dict[str, tuple[Callable[[], BaseException], str]] = {
    "too many open files": (lambda: OSError(errno.EMFILE, "Too many open files", "/x"), "ulimit -n"),
    "too many open files of a worker": (lambda: OSError(caught("OSError", "[Errno 24] Too many open files")), "ulimit -n"),
    "too many open files between processes": (
        lambda: RuntimeError("Too many open files. Communication with the workers is no longer possible."),
        "ulimit -n",
    ),
    "shared memory, by Bus error": (
        lambda: RuntimeError(
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
            "shared memory. Please try to raise your shared memory limit."
        ),
        "/dev/shm",
    ),
    "shared memory, when opened": (
        lambda: RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode: No space left (28)"),
        "/dev/shm",
    ),
    "shared memory, in a worker": (
        lambda: RuntimeError(caught("RuntimeError", "unable to write to file </torch_1_2_3>: No space left on device (28)")),
        "/dev/shm",
    ),
    "a worker that died unseen": (
        lambda: RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"),
        "data.num_workers",
    ),
    "memory of a worker": (lambda: MemoryError(caught("MemoryError", "")), "data.num_workers"),
    "memory of a worker, numpy's": (
        lambda: RuntimeError(caught("numpy._core._exceptions._ArrayMemoryError", "Unable to allocate 7.11 PiB")),
        "data.num_workers",
    ),
    "memory of the main process": (lambda: MemoryError(), "data.max_length"),
    "memory, cuBLAS": (lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "the GPU"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_has_its_line(case: str) -> None:
    make, value = FAULTS[case]
    error = machine_fault(make())
    assert error is not None
    check_message(str(error), "machine", value)


@pytest.mark.parametrize(("signum", "name"), [(signal.SIGKILL, "(Killed)"), (signal.SIGSEGV, "(Segmentation fault)")])
def test_a_process_that_dies_before_its_tensor_is_fetched_is_named(signum: signal.Signals, name: str) -> None:
    """Its socket is gone, which the main process can see before torch sees the process's end."""
    batches = iter(DataLoader(torch.arange(64.0), batch_size=4, num_workers=1))  # type: ignore[arg-type]
    process = batches._workers[0]  # type: ignore[attr-defined]
    next(batches)
    time.sleep(1)  # until the next batch waits in the queue
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.kill(process.pid, signum)
        process.join()
        process.is_alive = lambda: True  # what torch asks, and what is true for a moment
        with pytest.raises((ConnectionError, EOFError, FileNotFoundError)) as found:
            next(batches)
        error = machine_fault(found.value)
        del process.is_alive
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert error is not None
    check_message(str(error), "machine", name, "data.num_workers")


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no"), OSError("x")]
)
def test_what_is_a_bug_stays_one(error: BaseException) -> None:
    assert machine_fault(error) is None
