"""What it takes to the first step: `fit` beside a bare Lightning script, in turns; and a command with a wrong key."""

import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bench.arithmetic import noise, ratio, spread
from benchmarks.bench.first_step import OUT
from benchmarks.bench.results import ROOT, say

TITLE = "From a command to its first step"
CONFIG = ROOT / "experiments/digits/plain.yaml"
ROUNDS, QUICK = 3, 1
HOW = (
    "Each a process of its own, on one thread, in shuffled turns; up to the first training step, then it is ended. A wrong "
    "key: the whole command. Medians."
)
Numbers = dict[str, float]


def commands(place: Path) -> dict[str, list[str]]:
    """Arguments of Python for each arm."""
    overlay = place / "first_step.yaml"
    overlay.write_text(
        yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "benchmarks.bench.first_step.FirstStep"}]}})
    )
    fit = ["-m", "sft_lightning", "fit", "--config", str(CONFIG)]
    stops = [*fit, "--config", str(overlay), "--runs_dir", str(place)]
    script = ["-m", "benchmarks.bench.first_step"]
    return {
        "bare Lightning script": script,
        "the same once more (A/A)": script,
        "fit, W&B offline": [*stops, "--wandb", "offline"],
        "fit, without W&B": [*stops, "--wandb", "disabled"],
        "a wrong key": [*fit, "--model.init_args.learning_rate", "1"],
    }


def environment(out: Path) -> dict[str, str]:
    one = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "WANDB_SILENT": "true", OUT: str(out)}
    where = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return {**os.environ, **one, "PYTHONPATH": where}


def cost(arguments: list[str], place: Path, codes: tuple[int, ...] = (0,)) -> Numbers:
    """CPU and wall seconds of a process with its children: those it wrote itself at its first step, else those of all of it."""
    out = place / "first_step.json"
    out.unlink(missing_ok=True)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=place, env=environment(out), capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in codes:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {done.returncode}: {done.stderr[-500:]}")
    if out.is_file():
        held: Numbers = json.loads(out.read_text())
        return held
    return {"cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "wall": wall}


def measure(place: Path, quick: bool) -> dict[str, Any]:
    asked, shuffled = commands(place), random.Random(0)
    found: dict[str, list[Numbers]] = {name: [] for name in asked}
    for number in range(QUICK if quick else ROUNDS):
        names = list(asked)
        shuffled.shuffle(names)
        for name in names:
            found[name].append(cost(asked[name], place, codes=(2,) if name == "a wrong key" else (0,)))
        say(f"start: round {number + 1}")
    of = {name: [n["cpu"] for n in numbers] for name, numbers in found.items()}
    bare, again, fit, without, wrong = of.values()
    rows = [
        {"what": name, **{m: round(spread([n[m] for n in numbers]).median, 3) for m in ("cpu", "wall")}}
        for name, numbers in found.items()
    ]
    held = noise(again, bare)
    said = (
        f"A/A control: CPU {held.ratio:.3f} ({held.verdict}). fit ÷ bare script: {ratio(fit, bare).median:.2f} with W&B"
    )
    return {
        "title": TITLE,
        "how": f"{HOW} {said}, {ratio(without, bare).median:.2f} without.",
        "rows": rows,
        "turns": found,
        "noise": {"cpu": held.to_dict()},
        "fit_over_bare": ratio(fit, bare).median,
        "fit_without_wandb_over_bare": ratio(without, bare).median,
        "wrong_key_s": spread(wrong).median,
    }
