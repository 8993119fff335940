"""What Slurm costs a fit: slurm/fit.sbatch from its first line to its last, against the same command in a shell.

    python -m benchmarks.slurm_start [--repeats 7] [--out benchmarks/results/slurm_start.json]

Needs a Slurm that answers, such as `scripts/slurm-cluster start` makes; its nodes must be this machine. Time in the queue is
left out: the job notes the time itself. The command without Slurm is run twice in each round: what the two differ by is noise.
The three take turns in being first. CPU seconds are those of the fit's process and its children.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

from sft_lightning.runs.record import git_state

FIT = ["--config", "experiments/digits/distill.yaml", "--wandb", "disabled"]
TIMED = """#!/bin/bash
date +%s.%N > {folder}/inside
{python} "$@"
code=$?
times > {folder}/cpu
date +%s.%N >> {folder}/inside
exit $code
"""
JOB = """#!/bin/bash
#SBATCH --job-name=bench --ntasks-per-node=1 --time=10
date +%s.%N > {folder}/wall
bash slurm/fit.sbatch "$@"
code=$?
date +%s.%N >> {folder}/wall
exit $code
"""


class Times(NamedTuple):
    """Seconds of one fit."""

    wall: float
    before: float
    """Until Python is begun: srun, and Slurm's own on the node"""
    after: float
    """From Python's end on"""
    cpu: float


def times(folder: Path, began: float, ended: float) -> Times:
    inside = [float(line) for line in (folder / "inside").read_text().split()]
    return Times(ended - began, inside[0] - began, ended - inside[1], cpu(folder))


def cpu(folder: Path) -> float:
    """User and system seconds that bash's `times` said of the fit."""
    parts = (folder / "cpu").read_text().splitlines()[-1].split()
    return sum(60 * float(m) + float(s) for m, s in (p.rstrip("s").split("m") for p in parts))


def here(folder: Path, number: int) -> Times:
    """The command in a shell."""
    env = {**os.environ, "SFT_RUNS_DIR": str(folder / "runs"), "OMP_NUM_THREADS": "1"}
    began = time.time()
    command = [
        str(folder / "timed"),
        "-m",
        "sft_lightning",
        "fit",
        *FIT,
        "--experiment",
        "fit",
        "--run_id",
        f"here-{number}",
    ]
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
    return times(folder, began, time.time())


def under_slurm(folder: Path, number: int) -> Times:
    """The same in a job, from the script's first line to its last."""
    env = {
        **os.environ,
        "SFT_RUNS_DIR": str(folder / "runs"),
        "OMP_NUM_THREADS": "1",
        "PYTHON": str(folder / "timed"),
    }
    job = ["sbatch", "--wait", f"--output={folder}/out", str(folder / "job")]
    done = subprocess.run([*job, *FIT, "--run_id", f"there-{number}"], env=env, stdout=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"the job failed: {(folder / 'out').read_text()}")
    began, ended = map(float, (folder / "wall").read_text().split())
    return times(folder, began, ended)


def compared(repeats: int) -> dict[str, object]:
    arms: dict[str, Callable[[Path, int], Times]] = {"shell": here, "again": here, "slurm": under_slurm}
    found: dict[str, list[Times]] = {name: [] for name in arms}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="slurm-start-") as place:
        folder = Path(place)
        for name, text in (("timed", TIMED), ("job", JOB)):
            (folder / name).write_text(text.format(folder=folder, python=sys.executable))
            (folder / name).chmod(0o755)
        here(folder, 0)  # files are read from the disk once
        for number in range(repeats):
            turn = number % 3
            for place_in, name in enumerate([*list(arms)[turn:], *list(arms)[:turn]]):
                found[name].append(arms[name](folder, 1 + 3 * number + place_in))
                shown = "  ".join(f"{k} {v:.2f} s" for k, v in found[name][-1]._asdict().items())
                print(f"{number} {name:<6} {shown}", flush=True)

    def more(name: str, what: str) -> float:
        """What an arm takes more than the command in a shell: the median of each round's difference."""
        pairs = zip(found[name], found["shell"], strict=True)
        return float(round(median(getattr(a, what) - getattr(b, what) for a, b in pairs), 2))

    return {
        "repeats": repeats,
        "median_s": {
            name: {what: round(median(getattr(v, what) for v in values), 2) for what in Times._fields}
            for name, values in found.items()
        },
        "slurm_more_s": {what: more("slurm", what) for what in Times._fields},
        "again_more_s": {what: more("again", what) for what in Times._fields},
        "bound_s": 2.0,
        "wall_s": {name: [round(v.wall, 2) for v in values] for name, values in found.items()},
        "slurm": subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        "device": "cpu",
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        "platform": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
        **(git_state() or {}),
        "command": f"python -m benchmarks.slurm_start --repeats {repeats} --out benchmarks/results/slurm_start.json",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = compared(given.repeats)
    print(json.dumps(result, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
