"""docs/results.md: what the shipped studies found, written from their folders by a command.

    python -m benchmarks.studies runs/ablate-digits [...]   # takes in these studies' results, and writes the page
    python -m benchmarks.studies                            # writes the page from what was taken in
    python -m benchmarks.studies --table ablate-digits --cell 20   # prints the rows of one cell, as the README has them

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

from benchmarks import gauges
from sft_lightning.core.wording import plural
from sft_lightning.runs.status import is_finished

ROOT = Path(__file__).parents[1]
TAKEN = ROOT / "benchmarks/results/studies"
PAGE = ROOT / "docs/results.md"
FIGURE = ROOT / "docs/gauges.svg"
INTRO = """# Results of the shipped studies

Written by `python -m benchmarks.studies` from what `ablate` found. Each arm's settings were chosen on validation alone (see
[ablations.md](ablations.md)); the numbers are of the test splits, mean ± standard deviation over seeds, with the paired
difference from the baseline and its interval, corrected for all tests of the cell. Intervals speak of seeds, on one test split.
Each study says on how many samples its numbers were measured, and whether the tested runs also chose the settings or are of
fresh seeds. The linear probe is logistic regression on the pretrained features, solved to convergence: it keeps all by
construction, and is a reference line.

What the studies of 2026-11-28 say otherwise than those of 2026-11-22, on the same data, with other seeds tested, so that a
part of each difference is the seeds'. *Digits*: the linear probe learns 84.3 and 60.9 points where a probe that was trained
for 60 epochs had 71.3 and 58.3, so tuning gains 11 and 24 points over it, not 24 and 26 (on the earlier seeds the solved
probe has 82.5 with 20 labels). With 20 labels a class the anchor on features is the one that is shown to learn as well to
within a point; the anchors on source logits keep more (97.8 of 98.2 points), and ten seeds do not show that they learn as
well. With 5 labels no arm is shown to. L2-SP in the loss, of which a gain of 1.7 points was claimed with 20 labels, has no
shown gain there. *Coloured digits*: plain keeps 62.7 points and not 70.9, where ties between checkpoints went to the
earliest and five other seeds were tested; how much is due to which was not measured. The anchors on source logits are shown
to learn as well to within a point; the anchor on features, of which that was said, learns 1.2 points less. *CIFAR-10 with
EfficientNet-lite0*: of distillation it was said that it learns 6.4 and keeps 7.7 points more than plain. With nine rates for
plain, as many settings as an anchor has, and evenly drawn samples, it is ahead by 5.0 and 1.4 points, and three seeds show
neither; the solved probe learns 56.1 points, more than plain's 53.2, which is not shown either. *TREC with MiniLM*: with
50 questions a class both anchors were said to keep more than plain without a shown loss. With twelve settings an arm and evenly
drawn samples both keep more (CKA 0.74 and 0.73, plain 0.49): the anchor on features learns as much (88.5, 88.4 points), which
three seeds do not show to within two points, and L2-SP learns 2.5 points less. With 10 the anchor on features keeps a little
more (0.63 and 0.57). It chose at an end of its range with 50, so a better setting may lie beyond.
"""
KEPT = (
    *("study", "baseline", "axes", "seeds", "report_seeds", "caveats", "metrics", "select"),
    *("points", "failures", "work_s", "cells", "answer"),
)
SAID = {
    "val": "to choose",
    "test": "to test",
    "test/retention": "of the source",
    "test/drift": "to compare with the start",
}
"""What samples were measured for, by the key of run.json's `n`"""


def take(folder: Path) -> None:
    """Keeps a finished study's results, and what they were measured with."""
    held = json.loads((folder / "study.json").read_text())
    if not is_finished(held["status"]):
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
        runs = [
            json.loads((folder / p / "run.json").read_text()) for a in cell["arms"].values() for p in a.pop("points")
        ]
        cell["n"] = measured_on(runs)
        if (found := gauges.gauges_of(folder, held, cell)) is not None:
            cell["gauges"] = found
    TAKEN.mkdir(parents=True, exist_ok=True)
    content = {"about": about, **{k: held[k] for k in KEPT}}
    (TAKEN / f"{held['study']}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def measured_on(runs: list[dict[str, Any]]) -> dict[str, list[int]]:
    """{what: [fewest, most] samples} over a cell's tested runs; of runs that do not say, the sizes of their splits."""
    found: dict[str, list[int]] = {}
    for run in runs:
        sizes, source = run["data"]["sizes"], (run.get("retention") or {}).get("sizes", {})
        own = {"val": sizes.get("val"), "test": sizes.get("test"), "test/retention": source.get("test")}
        for key, n in (run.get("n") or {k: v for k, v in own.items() if v is not None}).items():
            if key in SAID:
                low, high = found.get(key, [n, n])
                found[key] = [min(low, n), max(high, n)]
    return found


def samples_said(n: dict[str, list[int]]) -> str:
    """`Samples: 168 to choose, 224 to test.`"""
    parts = [
        f"{low:,}{f' to {high:,}' if high > low else ''} {SAID[key]}"
        for key in SAID
        for low, high in [n.get(key, [0, 0])]
        if high
    ]
    return f"Samples measured: {', '.join(parts)}." if parts else ""


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
        ends = {e["key"]: e["end"] for e in about.get("at_end", [])}
        setting = ", ".join(
            f"{k} {v}{f' ({ends[k]})' if k in ends else ''}" for k, v in (about["chosen"] or {}).items()
        )
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
    minutes, fresh = held["work_s"] / 60, held.get("report_seeds")
    seeds = plural(len(held["seeds"]), "seed") + (
        f" that chose and {len(fresh)} fresh ones that were tested" if fresh else ""
    )
    lines = [f"## {held['study']}", ""]
    lines += [f"{points['total']} fits, {points['tested']} tests, {seeds}: {minutes:.1f} min of work in all"]
    lines[-1] += f" ({about['device']}, {about['cores']} cores), {about['date']}; {packages}."
    lines += [f"Data: {about['data']}.", *([f"Source: {about['retention']}."] if about["retention"] else []), ""]
    for cell in held["cells"]:
        if cell["at"]:
            lines += [f"**{', '.join(f'{k} {v}' for k, v in cell['at'].items())}**", ""]
        lines += [
            *table(cell),
            "",
            *([samples_said(cell["n"]), ""] if cell.get("n") else []),
            cell["statistics"]["answer"],
            "",
        ]
        before = [
            (name, arm["why"].partition("tested earlier, when it was the choice: ")[2])
            for name, arm in cell["arms"].items()
        ]
        if any(setting for _, setting in before):
            said = "; ".join(f"`{name}` {setting}" for name, setting in before if setting)
            lines += [f"The grid grew after a first choice; tested then, and not shown: {said}.", ""]
    return "\n".join(lines)


GAUGES = """## Which gauge tells what was kept

Without source data a gauge must stand in for the source metric. The table has Spearman's correlation of each gauge with what
was kept, over all settings that a study tried (means over the seeds that chose, on validation) and over its arms (means over
the tested seeds). A gauge that orders them rightly has −1 for a distance and +1 for an agreement. Anchors on source outputs
lower the divergence on the new inputs by construction, so each number is also given without them. Settings of one study were
chosen by hand, not drawn at random, so p values would mean nothing and are left out. Of a loss, kept is its negative. Tuning
lowers SmolLM2's loss on the general text (ablate-alpaca-smollm2), most where outputs move most, so there all gauges have the
other sign: they measure change, not harm.

![What was kept over four gauges, a mark for each setting](gauges.svg)
"""


def with_gauges(studies: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(study and cell, what `gauges_of` found) of the cells that have it."""
    found = []
    for held in studies:
        for cell in held["cells"]:
            if "gauges" in cell:
                at = ", ".join(f"{k} {v}" for k, v in cell["at"].items())
                found.append((f"{held['study']}{f', {at}' if at else ''}", cell["gauges"]))
    return found


def all_taken() -> list[dict[str, Any]]:
    """What was taken in, by the study's name."""
    return [json.loads(file.read_text()) for file in sorted(TAKEN.glob("*.json"))]


def page() -> str:
    """The whole page."""
    held = all_taken()
    cells = with_gauges(held)
    of_gauges = [GAUGES, *gauges.table(cells), ""] if cells else []
    return "\n".join([INTRO, *of_gauges, *map(section, held)]).rstrip("\n") + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", type=Path)
    parser.add_argument(
        "--table", help="a study that was taken in: prints one cell's rows and its answer, and writes nothing"
    )
    parser.add_argument("--cell", default="", help="a value of that cell's axes; default the first cell")
    options = parser.parse_args()
    if options.table:
        cells = json.loads((TAKEN / f"{options.table}.json").read_text())["cells"]
        cell = next(c for c in cells if not options.cell or options.cell in map(str, c["at"].values()))
        print("\n".join([*table(cell), "", samples_said(cell.get("n", {})), cell["statistics"]["answer"]]))
        raise SystemExit
    for given in options.studies:
        take(given)
    PAGE.write_text(page())
    if cells := with_gauges(all_taken()):
        gauges.figure(cells, FIGURE)
    print(PAGE)
