"""Why a target is missed: what each part of a step takes in its arm, beside the arm that it is compared with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.bench.arithmetic import spread
from benchmarks.bench.parts import ASKED, PARTS, REST
from benchmarks.bench.processes import Failed, Home
from benchmarks.bench.results import ROOT, say
from benchmarks.bench.turns import answer, checked, started
from benchmarks.bench.workload import WORKLOADS, Missing, Workload

TITLE = "Why targets are missed: the parts of a step"
ARMS = {
    "mlp": ("bare", "python", "cli", "l2sp_loss", "l2sp_decoupled", "distill_features", "distill_cached"),
    "lenet": ("bare", "python", "cli", "l2sp_decoupled", "distill_features", "distill_source_logits"),
    "fixed": ("python", "distill_cached"),
    "minilm": ("bare", "python", "cli", "l2sp_loss", "l2sp_decoupled", "distill_features"),
}
ROUNDS, QUICK = 3, 1
OTHERS = "other processes"
WARM = "warm fit"


def measure(home: Home, data: Path | None, quick: bool, place: Path) -> dict[str, Any]:
    """Milliseconds of CPU time a step by workload, arm and part; and those of a warm fit in a study."""
    found: dict[str, Any] = {}
    not_run: dict[str, str] = {}
    for name, arms in ARMS.items():
        try:
            found[name] = of_workload(home, WORKLOADS[name], data, list(arms), QUICK if quick else ROUNDS)
            say(f"profile: {name}")
        except (Missing, Failed) as why:
            not_run[name] = str(why).strip().splitlines()[-1]
    command = [sys.executable, "-m", "benchmarks.bench.warm_fit", str(place)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if said.returncode:
        not_run[WARM] = (said.stderr.strip().splitlines() or ["no message"])[-1]
    else:
        found[WARM] = {"a fit of 100 steps in a study": json.loads(said.stdout.strip().splitlines()[-1])}
    how = (
        "CPU time on one thread, with clocks around the functions of each part: medians of a few turns. "
        "`python -m benchmarks.run profile`."
    )
    return {"title": TITLE, "how": how, "parts": found, "not_run": not_run}


def of_workload(
    home: Home, workload: Workload, data: Path | None, names: list[str], rounds: int
) -> dict[str, dict[str, float]]:
    """The medians of each arm's parts, with the whole as `cpu`."""
    prepared, medians = home.prepare(workload, data), dict[str, dict[str, float]]()
    with home.arms(workload, prepared, names) as arms:
        wrong = checked(arms)["wrong"]
        asked = {name: arms[name] for name in arms if name not in wrong}
        failed = {name: why for name, why in started(asked).items() if why}
        if wrong or failed:
            raise Failed(str({**wrong, **failed}))
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        for number in range(rounds + 1):
            for name in names:
                asked[name].send((workload.steps, 1))
                kind, what = answer(asked[name])
                if kind == "failed":
                    raise Failed(f"{name}: {what}")
                if number:
                    turns[name].append(parts_of(what))
    for name, held in turns.items():
        medians[name] = {part: spread([t[part] for t in held]).median for part in held[0]}
    return medians


def parts_of(turn: dict[str, float]) -> dict[str, float]:
    """A turn's parts, with what no clock was around."""
    parts = {name: turn.get(f"part {name}", 0.0) for name in (*PARTS, OTHERS)}
    return {**parts, REST: turn["cpu"] - sum(parts.values()), "cpu": turn["cpu"]}


def environment() -> dict[str, str]:
    """What the processes of arms need to time their parts."""
    return {ASKED: "1"}
