"""docs/results.md: what the shipped studies found, written from their folders by a command.

    python -m benchmarks.studies runs/ablate-digits [...]   # takes in these studies' results, and writes the page
    python -m benchmarks.studies                            # writes the page from what was taken in

What is taken in: study.json's choices and statistics, to benchmarks/results/studies/. Nothing on the page is typed in but its
first lines.
"""

import argparse
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TAKEN = ROOT / "benchmarks/results/studies"
PAGE = ROOT / "docs/results.md"
INTRO = """# Results of the shipped studies

Written by `python -m benchmarks.studies` from what `ablate` found. Each arm's settings were chosen on validation alone (see
[ablations.md](ablations.md)); the numbers are of the test splits, mean ± standard deviation over seeds, with the paired
difference from the baseline and its interval, corrected for all tests of the cell. Intervals speak of seeds, on one test split.
"""
KEPT = ("study", "baseline", "axes", "seeds", "metrics", "select", "points", "failures", "work_s", "cells", "answer")


def take(folder: Path) -> None:
    """Keeps a finished study's results, and what they were measured with."""
    held = json.loads((folder / "study.json").read_text())
    if held["status"] != "finished":
        raise SystemExit(f"{folder} is {held['status']}: finish it first")
    point = next(iter(next(iter(held["cells"][0]["arms"].values()))["points"]))
    run = json.loads((folder / point / "run.json").read_text())
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "device": run["device"]["name"],
        "cores": os.cpu_count(),
        "platform": platform.machine(),
        "commit": run["git"],
        "packages": {n: metadata.version(n) for n in ("torch", "lightning", "transformers", "timm")},
        "data": run["data"]["description"],
        "retention": (run.get("retention") or {}).get("description"),
    }
    for cell in held["cells"]:
        for arm in cell["arms"].values():
            arm.pop("points")
    TAKEN.mkdir(parents=True, exist_ok=True)
    content = {"about": about, **{k: held[k] for k in KEPT}}
    (TAKEN / f"{held['study']}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def shown(value: float | None, share: bool, digits: int = 1) -> str:
    """A number in points where it is a share."""
    if value is None:
        return "–"
    text = f"{round(100 * value, digits) + 0.0:.{digits}f}" if share else f"{value:.4g}"
    return text.replace("-", "−") if share else text


def table(cell: dict[str, Any]) -> list[str]:
    """One cell's arms."""
    statistics = cell["statistics"]
    columns = [(k, statistics["columns"][k]) for k in ("target", "kept") if statistics["columns"].get(k)]
    head = ["arm", "chosen"]
    for _, about in columns:
        head += [f"{about['metric']}{', points' if about['share'] else ''}", "difference"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for arm, about in cell["arms"].items():
        setting = ", ".join(f"{k} {v}" for k, v in (about["chosen"] or {}).items())
        row = [f"`{arm}`", setting]
        for which, column in columns:
            summary = statistics["summaries"][which].get(arm, {})
            difference = next((d for d in statistics["differences"][which] if d["arm"] == arm), None)
            row.append(f"{shown(summary.get('mean'), column['share'])} ± {shown(summary.get('std'), column['share'])}")
            if difference is None or difference["mean"] is None:
                row.append("baseline" if arm == statistics["baseline"] else "–")
            else:
                low, high = difference["low_corrected"], difference["high_corrected"]
                interval = (
                    f" [{shown(low, column['share'])}, {shown(high, column['share'])}]" if low is not None else ""
                )
                row.append(f"{shown(difference['mean'], column['share'])}{interval}")
        lines.append(f"| {' | '.join(row)} |")
    return lines


def section(held: dict[str, Any]) -> str:
    """One study."""
    about, points = held["about"], held["points"]
    packages = ", ".join(f"{k} {v}" for k, v in about["packages"].items())
    minutes = held["work_s"] / 60
    lines = [f"## {held['study']}", ""]
    lines += [
        f"{points['total']} fits, {points['tested']} tests, {len(held['seeds'])} seeds: {minutes:.1f} min of work in all"
    ]
    lines[-1] += f" ({about['device']}, {about['cores']} cores), {about['date']}; {packages}."
    lines += [f"Data: {about['data']}.", *([f"Source: {about['retention']}."] if about["retention"] else []), ""]
    for cell in held["cells"]:
        if cell["at"]:
            lines += [f"**{', '.join(f'{k} {v}' for k, v in cell['at'].items())}**", ""]
        lines += [*table(cell), "", cell["statistics"]["answer"], ""]
        before = [
            (name, arm["why"].partition("tested earlier, when it was the choice: ")[2])
            for name, arm in cell["arms"].items()
        ]
        if any(setting for _, setting in before):
            said = "; ".join(f"`{name}` {setting}" for name, setting in before if setting)
            lines += [f"The grid grew after a first choice; tested then, and not shown: {said}.", ""]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    held = [json.loads(file.read_text()) for file in sorted(TAKEN.glob("*.json"))]
    return "\n".join([INTRO, *map(section, held)]).rstrip("\n") + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path)
    for given in parser.parse_args().studies:
        take(given)
    PAGE.write_text(page())
    print(PAGE)
