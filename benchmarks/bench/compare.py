"""Shows what became slower since other results: `python -m benchmarks.bench.compare BASE`.

BASE is a folder of results, or a commit that has some. Compared is each arm's ratio to the workload's baseline, so that two
machines, or two days, can be compared. A change counts beyond 3 %, beyond both A/A controls, and where the quartiles of the
ratios do not overlap. Exit code 1 if something became slower.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bench.arithmetic import QUIET, ratio
from benchmarks.bench.results import PLACE, ROOT, read


@dataclass(frozen=True)
class Change:
    """One arm's ratio before and now."""

    where: str
    before: float
    now: float
    slower: bool
    faster: bool

    def __str__(self) -> str:
        word = "SLOWER" if self.slower else "faster" if self.faster else "same"
        return (
            f"{word:7} {self.where}: {self.before:.3f} → {self.now:.3f} ({100 * (self.now / self.before - 1):+.1f} %)"
        )


def changes(before: dict[str, Any], now: dict[str, Any]) -> Iterator[Change]:
    """Changes of all workloads that both have."""
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name].get("threads", {}), now[name].get("threads", {})
        for threads in sorted(old.keys() & new.keys()):
            baseline = now[name]["baseline"]
            for measure in ("cpu", "device"):
                yield from of_arms(f"{name}, {threads} threads", old[threads], new[threads], baseline, measure)


def of_arms(where: str, old: dict[str, Any], new: dict[str, Any], baseline: str, measure: str) -> Iterator[Change]:
    if any(measure not in held["arms"].get(baseline, {}) for held in (old, new)):
        return
    noises = [held["noise"].get(measure, {"ratio": 1.0})["ratio"] for held in (old, new)]
    bound = max(QUIET, *(abs(r - 1) for r in noises))
    for arm in new["arms"]:
        if arm == baseline or arm not in old["arms"]:
            continue
        was, is_ = (ratio(held["arms"][arm][measure], held["arms"][baseline][measure]) for held in (old, new))
        change = is_.median / was.median - 1
        slower, faster = change > bound and is_.low > was.high, change < -bound and is_.high < was.low
        yield Change(f"{where}, {arm} ÷ {baseline}, {measure}", was.median, is_.median, slower, faster)


def base(given: str) -> dict[str, Any]:
    """Results in a folder, or those of a commit."""
    if Path(given).is_dir():
        return read(Path(given))
    folder = PLACE.relative_to(ROOT).as_posix()
    listed = git("ls-tree", "-r", "--name-only", given, "--", folder).split()
    if not listed:
        raise SystemExit(f"BASE: {given} is neither a folder nor a commit with results under {folder}")
    return {Path(name).stem: json.loads(git("show", f"{given}:{name}")) for name in listed if name.endswith(".json")}


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", metavar="BASE")
    parser.add_argument("--now", type=Path, default=PLACE, help="folder of the results to judge")
    given = parser.parse_args(arguments)
    found = list(changes(base(given.base), read(given.now)))
    print(*found, sep="\n")
    slower = sum(c.slower for c in found)
    print(f"{len(found)} compared, {slower} slower, {sum(c.faster for c in found)} faster")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
