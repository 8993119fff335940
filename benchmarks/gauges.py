"""How well gauges order ways of tuning by what they kept, over all arms and settings of a finished study.

`benchmarks/studies.py` takes this in with a study's results, and writes it and its figure into docs/results.md.
"""

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from sft_lightning.stats.rank_correlation import rank_correlations

GAUGES = (
    *("drift/kl", "drift/kl_reverse", "retention/agreement", "drift/features_cka", "drift/features_cka_debiased"),
    *("drift/weights_relative", "drift/buffers_relative"),
)
"""Gauges that need no source data"""
SHOWN = ("drift/kl", "retention/agreement", "drift/features_cka_debiased", "drift/weights_relative")
"""Those of the figure"""
LEAST = 4
"""Fewest arms or settings whose order says anything"""


def gauges_of(folder: Path, held: dict[str, Any], cell: dict[str, Any]) -> dict[str, Any] | None:
    """Correlations in one cell, and the points of the figure; None if the study did not measure the source task itself.

    `settings` are means over the seeds that chose, on validation, of every setting that was tried; `arms` are means over the
    tested seeds of each arm's chosen setting, on test. Each is given twice, the second time without arms whose anchor lowers
    the divergence on the target's inputs by construction. Of a metric of which less is better, such as a loss, kept is the
    negative.
    """
    kept = str(held["metrics"]["kept"])
    sign = -1.0 if held["metrics"]["better"]["kept"] == "min" else 1.0
    if kept in GAUGES or not kept.startswith("retention/"):
        return None
    with (folder / "points.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if inside(row, cell["at"]) and row["status"] == "finished"]
    tuned = columns_between(list(rows[0]), "arm", "seed") if rows else []
    by_setting: dict[str, list[dict[str, str]]] = {}
    tested: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["seed"] in map(str, held["seeds"]):
            by_setting.setdefault(json.dumps([row["arm"], *(row[c] for c in tuned)]), []).append(row)
        if row["selected"] == "1" and row.get(f"test/{kept}"):
            tested.setdefault(row["arm"], []).append(row)
    anchored = {row["arm"] for row in rows if on_source_outputs(folder / row["point"])}
    arm_of = {unit: part[0]["arm"] for unit, part in (by_setting | tested).items()}
    share = cell["statistics"]["columns"]["kept"]["share"]
    found: dict[str, Any] = {"kept": kept, "share": share, "anchored": sorted(anchored)}
    for name, units, prefix in (("settings", by_setting, ""), ("arms", tested, "test/")):
        of_all = {metric: means(units, prefix + metric) for metric in (kept, *GAUGES)}
        of_all[kept] = {unit: sign * value for unit, value in of_all[kept].items()}
        free = {unit: value for unit, value in of_all[kept].items() if arm_of[unit] not in anchored}
        there = {metric: of_all[metric] for metric in GAUGES if of_all[metric]}
        found[name] = {
            metric: {"rho": rounded(c.rho), "n": c.n, "free_rho": rounded(other.rho), "free_n": other.n}
            for (metric, c), other in zip(
                rank_correlations(of_all[kept], there).items(), rank_correlations(free, there).values(), strict=True
            )
        }
        if name == "settings":
            found["points"] = [
                {"arm": arm_of[unit], **{m: rounded(of_all[m].get(unit)) for m in (kept, *SHOWN)}} for unit in units
            ]
    return found if max((c["n"] for c in found["settings"].values()), default=0) >= LEAST else None


def inside(row: dict[str, str], at: dict[str, Any]) -> bool:
    """Whether a row of points.csv is of a cell."""
    return all(row.get(name) == str(value) for name, value in at.items())


def columns_between(columns: list[str], first: str, last: str) -> list[str]:
    """The columns after `first` and before `last`: axes and tuned settings."""
    return columns[columns.index(first) + 1 : columns.index(last)]


def means(units: dict[str, list[dict[str, str]]], column: str) -> dict[str, float]:
    """Mean of a column over the rows of each unit that have it."""
    values = {unit: [float(row[column]) for row in rows if row.get(column)] for unit, rows in units.items()}
    return {unit: fmean(v) for unit, v in values.items() if v and all(map(math.isfinite, v))}


def on_source_outputs(run: Path) -> bool:
    """Whether a run distils the pretrained outputs, which lowers the divergence on the target's inputs by construction."""
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    return model["class_path"].endswith(".DistillSFT") and model["init_args"].get("on") != "features"


def rounded(value: float | None) -> float | None:
    """Six decimals; None stays None."""
    return None if value is None else round(value, 6)


def table(cells: Iterable[tuple[str, dict[str, Any]]]) -> list[str]:
    """A row for each cell and kind of unit, a column for each gauge."""
    cells = list(cells)
    names = [g for g in GAUGES if any(g in found[kind] for _, found in cells for kind in ("settings", "arms"))]
    lines = [f"| study | over | {' | '.join(f'`{n}`' for n in names)} |", "|---" * (len(names) + 2) + "|"]
    for title, found in cells:
        for kind, what in (("settings", "settings, val"), ("arms", "arms, test")):
            for which, said in (("", ""), ("free_", ", without anchors on source outputs")):
                counts = {c[f"{which}n"] for c in found[kind].values()}
                n = min(counts, default=0)
                if n < LEAST:
                    continue
                values = [found[kind].get(name, {}).get(f"{which}rho") for name in names]
                cells_of = ["–" if v is None else f"{v:+.2f}".replace("-", "−") for v in values]
                lines.append(f"| {title} | {n} {what}{said} | {' | '.join(cells_of)} |")
    return lines


def figure(cells: Iterable[tuple[str, dict[str, Any]]], path: Path) -> None:
    """Draws what was kept over each gauge, a mark for each setting, as SVG: a row for each cell, a column for each gauge."""
    import altair as alt
    import vl_convert

    rows = []
    for title, found in cells:
        panels, share = [], found.get("share", True)
        for gauge in SHOWN:
            rho = found["settings"].get(gauge, {}).get("rho")
            values = [
                {"arm": p["arm"], "x": p[gauge], "y": (100 if share else 1) * p[found["kept"]]}
                for p in found["points"]
                if None not in (p[gauge], p[found["kept"]])
            ]
            chart = alt.Chart(alt.Data(values=values)).mark_point(filled=True, size=28, opacity=0.8)
            said = f"{gauge} (\u03c1 {'–' if rho is None else f'{rho:+.2f}'})"
            x = alt.X("x:Q", title=said, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=4))
            y = alt.Y(
                "y:Q",
                title=f"kept{', points' if share else ''} ({title})" if gauge == SHOWN[0] else None,
                scale=alt.Scale(zero=False),
            )
            panels.append(
                chart.encode(x=x, y=y, color=alt.Color("arm:N", title=None)).properties(width=190, height=190)
            )
        rows.append(alt.hconcat(*panels))
    drawn = alt.vconcat(*rows).resolve_scale(color="independent").configure_axis(titleFontSize=9, labelFontSize=8)
    drawn = drawn.configure(aria=False)
    path.write_text(vl_convert.vegalite_to_svg(drawn.to_dict()) + "\n")
