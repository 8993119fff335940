"""A study of 27 small fits by `ablate`, beside the same fits as 27 commands, of which a few are run."""

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.bench.arithmetic import spread
from benchmarks.bench.results import say
from benchmarks.bench.start import CONFIG, cost

TITLE = "A study of 27 small fits"
RATES = [0.0003, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.1]
SEEDS, EPOCHS = 3, 20
COMMANDS, QUICK = 3, 1
"""Commands that are run"""


def measure(place: Path, quick: bool) -> dict[str, Any]:
    fits, number = len(RATES) * SEEDS, QUICK if quick else COMMANDS
    study = {
        "study": "bench-study",
        "base": str(CONFIG),
        "set": {"trainer.max_epochs": EPOCHS, "test_after_fit": False},
        "arms": {"plain": {"tune": {"model.lr": RATES}}},
        "seeds": SEEDS,
        "select": {"target": "val/accuracy"},
        "report": ["val/accuracy"],
    }
    (place / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    where = ["--runs_dir", str(place / "runs"), "--wandb", "disabled"]
    of_study = cost(
        [
            "-m",
            "sft_lightning",
            "ablate",
            "--config",
            str(place / "study.yaml"),
            *where,
            "--workers",
            "1",
            "--threads",
            "1",
        ],
        place,
    )
    say(f"study: {of_study['cpu']:.1f} s of CPU")
    short = ["--trainer.max_epochs", str(EPOCHS), "--test_after_fit", "false"]
    of_commands = []
    for at in range(number):
        chosen = ["--model.init_args.lr", str(RATES[at]), "--seed_everything", str(at % SEEDS)]
        fit = ["-m", "sft_lightning", "fit", "--config", str(CONFIG), *short, *chosen, *where]
        of_commands.append(cost(fit, place))
    kept = retention_share(place / "runs")
    one = spread([n["cpu"] for n in of_commands]).median
    wall = spread([n["wall"] for n in of_commands]).median
    how = (
        f"One worker, one thread, {EPOCHS} epochs each. {fits} commands: {fits} × the median of {number}, which were run. "
        f"The study tests the chosen setting too. Study ÷ commands: {of_study['cpu'] / (fits * one):.3f} of the CPU time. "
        f"A fit with retention and drift takes {kept:.3f} × its time without."
    )
    return {
        "title": TITLE,
        "how": how,
        "rows": [
            {"what": f"a study of {fits} fits", **of_study},
            {"what": f"{fits} commands", "cpu": fits * one, "wall": fits * wall},
            {"what": "one command", "cpu": one, "wall": wall},
        ],
        "commands": of_commands,
        "retention_over_without": kept,
        "study_over_commands": of_study["cpu"] / (fits * one),
    }


def retention_share(runs: Path) -> float:
    """Median of fit ÷ fit without retention and drift, as each run's own record says."""
    records = (json.loads(file.read_text()) for file in runs.rglob("run.json"))
    times = [r["times"] for r in records if (r.get("times") or {}).get("fit_s")]
    return spread([t["fit_s"] / (t["fit_s"] - t["retention_s"]) for t in times]).median
