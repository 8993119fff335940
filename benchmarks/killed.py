"""A shipped study killed by SIGKILL, with all its processes, and started again: is it the study that nobody touched?

    python -m benchmarks.killed [--study experiments/ablations/digits.yaml] [--kills 3] [--out benchmarks/results/killed.json]

Runs the study undisturbed first, which says how long it takes; then once more in another folder, killed at moments that a seed
draws. Asked is: points.csv of equal bytes, each point there once, and none fitted again that was finished.
"""

import argparse
import csv
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sft_lightning.runs.record import git_state
from sft_lightning.runs.status import is_finished


def begin(study: Path, runs: Path, more: list[str]) -> subprocess.Popen[bytes]:
    """The study's command, with a process group of its own."""
    command = [
        sys.executable,
        "-m",
        "sft_lightning",
        "ablate",
        "--config",
        str(study),
        "--runs_dir",
        str(runs),
        "--quiet",
    ]
    return subprocess.Popen([*command, *more], start_new_session=True, stdout=subprocess.DEVNULL)


def finished(folder: Path) -> dict[str, float]:
    """When the records of the points that are finished were written."""
    found = {}
    for file in folder.glob("*/run.json"):
        try:
            if is_finished(json.loads(file.read_text())["status"]):
                found[file.parent.name] = (file.parent / "checkpoints" / "last.ckpt").stat().st_mtime
        except (OSError, ValueError):
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("experiments/ablations/digits.yaml"))
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("more", nargs="*", help="more options of ablate, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="killed-") as place:
        runs = [Path(place) / name for name in ("whole", "killed")]
        began = time.monotonic()
        code = begin(given.study, runs[0], given.more).wait()
        wall = time.monotonic() - began
        (whole,) = runs[0].iterdir()
        print(f"undisturbed: exit {code}, {wall:.0f} s, {len(finished(whole))} points", flush=True)
        killed, again, at = runs[1] / whole.name, 0, []
        held: dict[str, float] = {}
        for moment in sorted(
            random.Random(given.seed).uniform(0.1, 0.8) * wall / given.kills for _ in range(given.kills)
        ):
            process = begin(given.study, runs[1], given.more)
            time.sleep(moment)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            before = finished(killed)
            at.append({"after_s": round(moment), "finished": len(before)})
            print(f"killed after {moment:.0f} s: {len(before)} points finished", flush=True)
            again += sum(before[p] != t for p, t in held.items())
            held = before
        code = begin(given.study, runs[1], given.more).wait()
        after = finished(killed)
        again += sum(after[p] != t for p, t in held.items())
        tables = [(folder / "points.csv").read_bytes() for folder in (whole, killed)]
        ids = [row["point"] for row in csv.DictReader(tables[1].decode().splitlines())]
        found = {
            "date": time.strftime("%Y-%m-%d"),
            "device": f"{os.cpu_count()} cores {platform.machine()}",
            "command": "python -m benchmarks.killed " + " ".join(sys.argv[1:]),
            "commit": git_state(),
            "study": str(given.study),
            "undisturbed_s": round(wall),
            "points": len(ids),
            "kills": at,
            "exit": code,
            "points_csv_equal": tables[0] == tables[1],
            "points_twice": len(ids) - len(set(ids)),
            "finished_points_fitted_again": again,
        }
    print(json.dumps(found, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    if not found["points_csv_equal"] or found["points_twice"] or again:
        raise SystemExit("the killed study is another one")


if __name__ == "__main__":
    main()
