"""One `ablate` command against the same fits launched one after another as commands: 3 variants × 3 seeds × 3 strengths.

    python -m benchmarks.ablation [--out benchmarks/results/ablation.json] [--seeds 3]

Both arms run in one go on the same machine. The commands are those that a user would type: `fit --config` of each of the
study's points. The study also tests the chosen points and writes its page, the commands do not.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

STUDY = {
    "study": "bench",
    "base": str(Path("experiments/digits/plain.yaml").resolve()),
    "arms": {
        "plain": {"tune": {"model.lr": [0.0003, 0.001, 0.003]}},
        "l2sp": {
            "set": {"model": {"class_path": "L2SPSFT", "init_args": {"beta": 0.0}}},
            "tune": {"model.alpha": [0.001, 0.01, 0.1]},
        },
        "distill": {"set": {"model.class_path": "DistillSFT"}, "tune": {"model.anchor_weight": [0.01, 0.1, 1.0]}},
    },
}


def seconds(*arguments: str) -> float:
    """Wall time of a command, which must succeed."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sft_lightning", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def compared(seeds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "study.yaml"
        file.write_text(yaml.safe_dump({**STUDY, "seeds": seeds}))
        one = seconds("ablate", "--config", str(file), "--runs_dir", f"{place}/study")
        configs = sorted(Path(place).glob("study/bench/plan/*.yaml"))
        assert len(configs) == 9 * seeds
        alone = [
            seconds("fit", "--config", str(c), "--runs_dir", f"{place}/alone", "--run_id", c.stem) for c in configs
        ]
    return {
        "fits": len(configs),
        "one_command_s": round(one, 1),
        "one_after_another_s": round(sum(alone), 1),
        "ratio": round(one / sum(alone), 3),
        "median_fit_s": round(sorted(alone)[len(alone) // 2], 2),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "platform": platform.platform(),
        "date": time.strftime("%Y-%m-%d"),
        "command": "python -m benchmarks.ablation",
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    found = compared(given.seeds)
    print(json.dumps(found, indent=2))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")
