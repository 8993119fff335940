"""The same invariance checks on this library and on transformers' Trainer, with the same tiny models and data.

    python -m benchmarks.peers.invariance [--peer ours|hf|both] [--out benchmarks/results/peers.json]

Every arm runs in fresh processes on one thread each; what crashes or hangs is a row of its own. Gradients and weights are
held against the same training in plain PyTorch, each optimizer step's samples as one batch.
"""

import argparse
import gc
import json
import os
import pkgutil
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import sft_lightning
from benchmarks.peers import hf_trainer, ours, plain, tiny_tasks
from benchmarks.peers.checks import FAMILIES, Family, Row
from benchmarks.peers.processes import run

PEERS: dict[str, Any] = {"ours": ours, "hf": hf_trainer}


def warm(files: tiny_tasks.Files, norms: str = "double") -> None:
    """Imports once what every forked process would import: all see one state of the tree, also while it is edited."""
    for module in ("sklearn.metrics", "transformers.trainer"):
        import_module(module)
    for module in pkgutil.walk_packages(sft_lightning.__path__, "sft_lightning."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    if norms == "double":
        tiny_tasks.double_norms()
    for task in ("classification", "causal_lm"):
        plain.model_of(task, files, "float32")
        for rows in tiny_tasks.SIZES:
            files.samples(task, rows)
    gc.collect()
    gc.freeze()


def measure(peers: list[str], families: list[str], norms: str) -> list[Row]:
    """All rows, resume last."""
    rows = []
    with tempfile.TemporaryDirectory() as root:
        (files,) = run(tiny_tasks.make, root)
        warm(files, norms)
        known = {name: Family(PEERS[name], files) for name in peers}
        for family in families:
            for name in peers:
                began = time.monotonic()
                found = list(FAMILIES[family](known[name]))
                rows += found
                passed = sum(row.passed for row in found)
                spent = time.monotonic() - began
                print(f"{family}, {name}: {passed} of {len(found)} in {spent:.0f} s", file=sys.stderr, flush=True)
    return rows


def show(rows: list[Row], console: Console) -> None:
    """One table: checks one below the other, peers and their settings within."""
    table = Table("check", "peer: setting", "", "value", "bound", "note", show_lines=False)
    for check in dict.fromkeys(row.check for row in rows):
        table.add_section()
        first = check
        for row in (row for row in rows if row.check == check):
            number = ".1e" if row.kind == "relative error" else ".0f"
            value = "—" if row.value is None else format(row.value, number)
            bound = f"{row.bound:.0e}" if row.bound else "0"
            mark = "[green]pass[/]" if row.passed else "[red]FAIL[/]"
            table.add_row(first, f"{row.peer}: {row.setting}", mark, value, bound, escape(row.note))
            first = ""
    console.print(table)


def about(command: str, seconds: float) -> dict[str, Any]:
    """Where the numbers come from."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent)
        return done.stdout.strip()

    packages = ("torch", "lightning", "transformers", "accelerate", "torchmetrics", "scikit-learn")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {package: version(package) for package in packages},
        "commit": git("rev-parse", "HEAD"),
        "uncommitted": bool(git("status", "--porcelain", "--", "../../sft_lightning")),
        "seconds": round(seconds),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=[*PEERS, "both"], default="both")
    parser.add_argument("--only", choices=FAMILIES, nargs="+", default=list(FAMILIES), help="families of checks")
    parser.add_argument("--out", type=Path)
    norms = "of the tiny Llama, for all peers: in the model's precision, or in single as transformers has them"
    parser.add_argument("--norms", choices=("double", "single"), default="double", help=norms)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    start = time.monotonic()
    chosen = list(PEERS) if given.peer == "both" else [given.peer]
    found = measure(chosen, given.only, given.norms)
    if given.out:
        command = "python -m benchmarks.peers.invariance " + " ".join(sys.argv[1:])
        record = about(command.strip(), time.monotonic() - start)
        record["peers"] = {PEERS[name].name: PEERS[name].versions() for name in chosen}
        record["norms"] = f"{given.norms} ({norms})"
        record["rows"] = [asdict(row) | {"versions": record["peers"][row.peer]} for row in found]
        given.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    show(found, Console(width=None if sys.stdout.isatty() else 220))
