"""Speed beside peers: the same work in interleaved turns, on one thread and on all; what a command and a study cost.

    python -m benchmarks.run                     # all, on one thread and on all: more than 15 minutes
    python -m benchmarks.run --quick             # a few turns of mlp, lenet and minilm: 3 minutes, written only with --out
    python -m benchmarks.run mlp lenet           # these alone
    python -m benchmarks.run mlp --arms cli hf   # these arms alone, beside the baseline and its A/A control

Names: mlp lenet fixed minilm llama smollm2 lite0 start study end decode compile growth profile. Some need --data FOLDER (or
SFT_BENCH_DATA) with cifar10/train.parquet and test.parquet, trec/train.jsonl, alpaca/alpaca_en_demo.json, and the packages of
weights that experiments/ name. What is not at hand is skipped and said.

`profile` says what each part of a step takes, in the arms that miss targets.

Each arm is a process that stays warm and takes its turns in a shuffled order, so that all see the same machine. Before, arms
that do the same work must have the same losses on a fixed batch after the same steps, to 1e-5: same initial weights, batches
and settings of the optimizer (AdamW, constant rate, no weight decay, no clipping, no dropout). Where two identical arms
differ by more than 3 %, the result says "too noisy": run it again on quiet cores. Results: benchmarks/results/bench/*.json,
and the tables of docs/performance.md from them.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.bench import page, results
from benchmarks.bench.arms import ARMS
from benchmarks.bench.targets import verdicts
from benchmarks.bench.workload import WORKLOADS, Missing

WHOLE = ("start", "study", "end", "decode", "compile", "growth")
"""Benchmarks of whole commands and of single parts; run first, while nothing else is in memory"""
PROFILE = "profile"
"""The parts of a step, for each missed target"""
NAMES = (*WHOLE, *WORKLOADS, PROFILE)
QUICK = ("mlp", "lenet", "minilm")


def whole(name: str, quick: bool, place: Path) -> dict[str, Any]:
    from benchmarks.bench import after_training, compiled, decoding, growth, start, study_row

    folder = place / name
    folder.mkdir()
    modules = {
        "start": start,
        "study": study_row,
        "end": after_training,
        "decode": decoding,
        "compile": compiled,
        "growth": growth,
    }
    measure: Callable[[Path, bool], dict[str, Any]] = modules[name].measure  # type: ignore[attr-defined]
    return measure(folder, quick)


def in_turns(names: list[str], options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """The workloads of these names."""
    from benchmarks.bench.processes import Failed, Home
    from benchmarks.bench.turns import measure

    home, found = Home(place), dict[str, Any]()
    try:
        for name in names:
            results.say(f"{name}: {WORKLOADS[name].title}")
            try:
                found[name] = measure(
                    home, WORKLOADS[name], options.data, options.quick, options.one_thread, options.arms
                )
                results.say(f"{name}: {found[name]['seconds']} s")
            except Missing as why:
                found[name] = {"title": WORKLOADS[name].title, "skipped": str(why)}
                results.say(f"{name}: skipped: {why}")
            except Failed as error:
                found[name] = {
                    "title": WORKLOADS[name].title,
                    "skipped": f"failed: {str(error).strip().splitlines()[-1]}",
                }
                results.say(f"{name}: failed: {error}")
    finally:
        home.close()
    return found


def profiled(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Why targets are missed."""
    from benchmarks.bench import why
    from benchmarks.bench.processes import Home

    folder, fits = place / "arms-of-profile", place / "warm-fits"
    folder.mkdir()
    fits.mkdir()
    os.environ.update(why.environment())
    home = Home(folder)
    try:
        return why.measure(home, options.data, options.quick, fits)
    finally:
        home.close()
        for name in why.environment():
            del os.environ[name]


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if an arm did other work than the reference, or a workload failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default all")
    parser.add_argument("--quick", action="store_true", help="two turns of each arm, on one thread")
    parser.add_argument("--one-thread", action="store_true", help="no turns on all threads")
    parser.add_argument("--data", type=Path, default=os.environ.get("SFT_BENCH_DATA"), help="folder of the data sets")
    parser.add_argument("--arms", nargs="+", help="these arms alone")
    parser.add_argument(
        "--out", type=Path, help=f"folder of the results; default {results.PLACE.relative_to(results.ROOT)}"
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if unknown := [n for n in options.names if n not in NAMES]:
        parser.error(f"there is no {', '.join(unknown)}; choose {', '.join(NAMES)}")
    if unknown := [a for a in options.arms or () if a not in ARMS]:
        parser.error(f"unknown arm {', '.join(unknown)}; choose {', '.join(ARMS)}")
    names = options.names or (list(QUICK) if options.quick else list(NAMES))
    load = results.load_average()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        for name in WHOLE:
            if name in names:
                found[name] = whole(name, options.quick, Path(place))
        if turns := [n for n in WORKLOADS if n in names]:
            found |= in_turns(turns, options, Path(place))
        if PROFILE in names:
            found[PROFILE] = profiled(options, Path(place))
    about = results.about(given, load)
    for result in found.values():
        result["about"] = about
    print(page.written(found))
    keep = not options.quick and options.arms is None
    out = options.out or (results.PLACE if keep else None)
    if out is not None:
        for name, result in found.items():
            if "skipped" not in result or not (out / f"{name}.json").is_file():  # an older measurement stays
                results.write(out, name, result)
    if keep and options.out is None:
        page.write(results.PAGE, results.read(results.PLACE))
        page.write_readme(results.ROOT / "README.md", results.read(results.PLACE))
    wrong = [name for name, r in found.items() if r.get("check", {}).get("wrong") or "failed" in r.get("skipped", "")]
    missed = sum(v.met is False for v in verdicts(found))
    results.say(f"{len(found)} measured, {missed} targets missed" + (f"; wrong: {', '.join(wrong)}" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
