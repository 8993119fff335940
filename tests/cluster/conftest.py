"""Slurm, for tests: a real one on this machine, or what it would leave in a process's environment."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTROLLER = Path("/var/lib/sft-slurm/run/slurmctld.pid")
ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


class Slurm:
    """A real Slurm's clients. What is submitted here is cancelled at the end, and nothing else is touched."""

    def __init__(self) -> None:
        self.jobs: list[str] = []

    @property
    def is_ours(self) -> bool:
        """Whether it is the one of scripts/slurm-cluster: nobody else waits in its queue, and it may be disturbed."""
        return CONTROLLER.is_file()

    def client(self, *arguments: object, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs sbatch, squeue, scancel, …, without what this process inherits of a job or of W&B."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "WANDB", "_WANDB"))}
        said = [str(a) for a in arguments]
        return subprocess.run(said, capture_output=True, text=True, timeout=timeout, env=env, check=False)

    def submit(self, script: str, folder: Path, *options: str) -> str:
        """Submits the text of a script, which is kept in `folder` with its output; returns the job's id."""
        file = folder / f"job-{len(self.jobs)}.sbatch"
        file.write_text(script)
        output = f"--output={file.with_suffix('.out')}"
        done = self.client("sbatch", "--parsable", "--open-mode=append", output, *options, file)
        assert done.returncode == 0, f"sbatch refuses {file}: {done.stderr}"
        self.jobs.append(done.stdout.strip().partition(";")[0])
        return self.jobs[-1]

    def about(self, job: str) -> dict[str, str]:
        """What scontrol says of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.client("scontrol", "show", "job", "-o", job).stdout))

    def wait(self, job: str, *states: str, timeout: float = 300.0) -> dict[str, str]:
        """Until the job is in one of `states`, by default until it has ended; returns what scontrol then says of it."""
        until = time.monotonic() + timeout
        while (about := self.about(job)).get("JobState") not in (states or ENDED):
            state = about.get("JobState", "no job")
            over = state in ENDED or state == "no job"
            assert not over, f"job {job} is {state}, and was to be {' or '.join(states)}:\n{self.output(job)}"
            assert time.monotonic() < until, f"job {job} is {state} after {timeout} s:\n{self.output(job)}"
            time.sleep(0.2)
        return about

    def output(self, job: str) -> str:
        """What the job has printed, over all its starts."""
        file = Path(self.about(job).get("StdOut", os.devnull))
        return file.read_text(errors="replace") if file.is_file() else ""

    def signal(self, job: str, name: str = "USR1") -> None:
        """Sends a signal to every process of the job's steps."""
        done = self.client("scancel", f"--signal={name}", job)
        assert done.returncode == 0, f"scancel cannot signal job {job}: {done.stderr}"

    def close(self) -> None:
        for job in self.jobs:
            self.client("scancel", job)


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """The Slurm that answers here, else one that is started, and ended with the tests."""
    done = subprocess.run([ROOT / "scripts/slurm-cluster", "start"], capture_output=True, text=True, timeout=600)
    if done.returncode and os.getuid():
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, f"scripts/slurm-cluster start: {done.stderr}"
    made = Slurm()
    yield made
    made.close()
    if "are up" in done.stdout:
        subprocess.run([ROOT / "scripts/slurm-cluster", "stop"], capture_output=True, timeout=120, check=False)


@dataclass
class StandIn:
    """A script called `scontrol`, which notes what it is asked and answers what a test wants it to."""

    folder: Path

    def answers(self, text: str = "", code: int = 0) -> None:
        """Prints `text`, to stderr where `code` is not 0."""
        stream = 2 if code else 1
        script = (
            f"#!/bin/sh\n/bin/cat >&{stream} <<'TEXT'\n{text}\nTEXT\necho \"$@\" >> {self.folder}/asked\nexit {code}\n"
        )
        (self.folder / "next").write_text(script)
        (self.folder / "next").chmod(0o755)
        (self.folder / "next").rename(self.folder / "scontrol")  # one that is running goes on as it was

    def takes(self, seconds: float) -> None:
        """Answers after a while."""
        text = (self.folder / "scontrol").read_text()
        (self.folder / "scontrol").write_text(text.replace("#!/bin/sh\n", f"#!/bin/sh\n/bin/sleep {seconds}\n"))

    @property
    def asked(self) -> list[str]:
        """The arguments of each call that is answered, as one line."""
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.is_file() else []


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A stand-in for scontrol that does as it is told, and is the first on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    made = StandIn(folder)
    made.answers()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return made


@pytest.fixture
def no_scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without Slurm's clients, as in a container."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without anything of Slurm's, of torchrun's or of a run's; what a test sets in it goes away after it."""
    begin = ("SLURM_", "SFT_", "TORCHELASTIC_", "CUDA_VISIBLE", "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_")
    for name in [n for n in os.environ if n.startswith(begin)]:
        monkeypatch.delenv(name)
    return monkeypatch
