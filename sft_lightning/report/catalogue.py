"""Lists the figures with their texts, rows and specifications, and fills specifications in for figures in files."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sft_lightning.core.metric_info import on_test
from sft_lightning.report import figures, theme
from sft_lightning.report.error_analysis import MEASURES
from sft_lightning.report.metrics import words
from sft_lightning.report.model import Comparison
from sft_lightning.report.sets import TABLE, Sets
from sft_lightning.runs.status import is_finished

State = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure. `where` selects its rows of the data set: by a column's value, or by `@name` of the page's state."""

    id: str
    section: str
    title: str
    caption: str
    data: str
    spec: dict[str, Any]
    where: dict[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()
    """Columns of the table and of the CSV"""

    def plain(self) -> dict[str, Any]:
        return asdict(self)


SPREAD = "Bands and bars are one standard deviation over seeds."
CURVE = ("group", "step", "mean", "low", "high", "n")


def catalogue(data: dict[str, TABLE], amount: str | None) -> list[Figure]:
    """The figures that have data, in the page's order."""
    at = {"cell": "@cell"}
    amounts = {row["amount"] for row in data["shots"]}
    wide = bool(amounts) and min(amounts) > 0 and max(amounts) / min(amounts) >= 8
    label = (amount or "").replace("_", " ")
    several = len({(p["cell"], p["arm"], p["setting"]) for p in data["points"]}) > len(
        {(p["cell"], p["arm"]) for p in data["points"]}
    )
    plane = Figure(
        "plane",
        "plane",
        "What was learned, and what was kept",
        f"Each arm at its chosen setting: small marks are seeds, large ones their means. {SPREAD} The dashed line is the "
        "Pareto front of the means: no other arm is better than an arm on it on both axes.",
        "plane",
        figures.plane(),
        fields=("group", "setting", "seed", "x", "y"),
    )
    path = Figure(
        "path",
        "plane",
        "The path of each arm's settings, on validation",
        "Means over seeds for every setting that was tried, joined in order of strength; a ring marks the chosen one. "
        "Settings were chosen by these numbers, so they are too good; those of the figure of chosen settings are not.",
        "path",
        figures.path(),
        fields=("arm", "setting", "seed", "x", "y"),
    )
    found = [plane, *([path] if several else [])]
    for axis in ("x", "y"):
        found.append(
            Figure(
                f"curve-{axis}",
                "curves",
                f"@{axis} over steps",
                f"Validation while fitting, from the pretrained network at step 0. {SPREAD}",
                "curves",
                figures.fill(figures.curve(), {"@y": f"@{axis}"}),
                {**at, "metric": f"@{axis}"},
                CURVE,
            )
        )
    for axis in ("x", "y"):
        found.append(
            Figure(
                f"amount-{axis}",
                "amount",
                f"@{axis} by {label}",
                f"Chosen settings of each cell. {SPREAD}",
                "shots",
                figures.fill(figures.shots(label, wide), {"@y": f"@{axis}"}),
                {"rest": "@rest", "metric": f"@{axis}"},
                ("group", "amount", "mean", "low", "high", "n"),
            )
        )
    found += [
        Figure(
            "forgetting",
            "forgetting",
            "Forgetting by arm",
            f"How much the source metric lost by tuning; 0 means no loss. Small marks are seeds. {SPREAD}",
            "forgetting",
            figures.forgetting(),
            at,
            ("group", "seed", "value"),
        ),
        Figure(
            "layers",
            "layers",
            "How far each layer moved from the pretrained network",
            "Means over seeds.",
            "layers",
            figures.layers(len({r["layer"] for r in data["layers"]}) > 6),
            {**at, "measure": "@measure"},
            ("group", "layer", "measure", "value", "n"),
        ),
    ]
    for which, title in (
        ("target", "Target task"),
        ("before", "Source task, before tuning"),
        ("after", "Source task, after tuning"),
    ):
        found.append(
            Figure(
                f"confusion-{which}",
                "changed",
                title,
                "Counts, summed over the arm's seeds; the colour is the share of the true class.",
                "confusion",
                figures.confusion(),
                {**at, "group": "@group", "which": which},
                ("group", "true", "predicted", "count", "share"),
            )
        )
    for side, title in (("target", "Learned"), ("kept", "Kept")):
        found.append(
            Figure(
                f"difference-{side}",
                "statistics",
                f"{title}: difference from the baseline",
                "Mean paired difference over seeds with its interval, widened for the number of tests. An interval that "
                "includes 0 shows no difference.",
                "differences",
                figures.fill(figures.differences(), {"@title": f"{title.lower()}: arm − baseline"}),
                {**at, "side": side},
                ("arm", "mean", "low", "high", "p", "verdict"),
            )
        )
    return [f for f in found if exists(f, data)]


def exists(figure: Figure, data: dict[str, TABLE]) -> bool:
    """Whether a figure has rows in any state of the page."""
    fixed = {k: v for k, v in figure.where.items() if not str(v).startswith("@")}
    name = {"plane": "points", "path": "points", "confusion": "matrices"}.get(figure.data, figure.data)
    return any(all(row[k] == v for k, v in fixed.items()) for row in data[name])


def all_data(sets: Sets) -> dict[str, TABLE]:
    """All data sets by name."""
    return {
        "points": sets.points(),
        "curves": sets.curves(),
        "shots": sets.shots(),
        "forgetting": sets.forgetting(),
        "layers": sets.layers(),
        "matrices": sets.matrices(),
        "differences": sets.differences(),
        "classes": sets.classes(),
        "samples": sets.samples(),
        "configs": sets.configs(),
    }


def start(comparison: Comparison, sets: Sets, data: dict[str, TABLE], cell: int = 0) -> State:
    """The page's first state: a cell, the axes of the plane, a group and a measure."""
    groups = [r["group"] for r in data["matrices"] + data["samples"] if r["cell"] == cell]
    measures = {r["measure"] for r in data["layers"]}
    return {
        "cell": cell,
        "rest": sets.rest(cell),
        "x": comparison.target,
        "y": comparison.kept or comparison.drift or comparison.target,
        "group": groups[0] if groups else None,
        "measure": next((m for m in MEASURES if m in measures), "relative"),
        "split": sets.split(cell),
    }


def rows_of(figure: Figure, data: dict[str, TABLE], state: State, metrics: list[str]) -> TABLE:
    """The rows that a figure shows in a state; the page's script does the same."""
    if figure.data in ("plane", "path"):
        return _points(figure.data, data["points"], state, metrics)
    wanted = {k: state[v[1:]] if str(v).startswith("@") else v for k, v in figure.where.items()}
    name = "matrices" if figure.data == "confusion" else figure.data
    rows = [row for row in data[name] if all(row[k] == v for k, v in wanted.items())]
    return [tile for row in rows for tile in tiles(row)] if figure.data == "confusion" else rows


def _points(kind: str, points: TABLE, state: State, metrics: list[str]) -> TABLE:
    split = state["split"] if kind == "plane" else "val"
    places = metrics.index(state["x"]), metrics.index(state["y"])
    here = [
        p for p in points if p["cell"] == state["cell"] and (p["used"] if kind == "plane" else is_finished(p["status"]))
    ]
    unchosen = {p["arm"] for p in here if not p["selected"]}
    found = []
    for p in here:
        x, y = (p[split][i] for i in places)
        if x is not None and y is not None:
            found.append({**p, "x": x, "y": y, "chosen": int(p["selected"] and p["arm"] in unchosen)})
    return found


def tiles(row: dict[str, Any]) -> TABLE:
    """A confusion matrix as one row per tile."""
    found = []
    for i, (name, counts) in enumerate(zip(row["labels"], row["counts"], strict=True)):
        total = sum(counts)
        for j, count in enumerate(counts):
            about = {"arm": row["arm"], "group": row["group"], "true": name, "predicted": row["labels"][j]}
            share = count / total if total else 0.0
            place = {"order": i, "column": j, "classes": len(counts)}
            found.append({**about, "count": count, "share": round(share, 4), **place})
    return found


def filled(figure: Figure, rows: TABLE, state: State, comparison: Comparison) -> dict[str, Any]:
    """The complete specification in the light theme, with its rows, for a file."""
    arms = comparison.arms
    shown = [a for a in arms if any(r["arm"] == a for r in rows)]
    palette, marks = theme.colours("light", len(arms)), theme.shapes(len(arms))
    on = (lambda m: words(on_test(m))) if state["split"] == "test" else words
    values = {
        "@x": on(state["x"]),
        "@y": on(state["y"]),
        "mean @x": "mean " + on(state["x"]),
        "mean @y": "mean " + on(state["y"]),
        "std @x": "std " + on(state["x"]),
        "std @y": "std " + on(state["y"]),
        "@measure": MEASURES.get(state["measure"], ""),
        "@arms": shown,
        "@colours": [palette[arms.index(a)] for a in shown],
        "@shapes": [marks[arms.index(a)] for a in shown],
        "@on": theme.BACKGROUND["light"],
        "@off": theme.TEXT["light"],
    }
    signs = {"xsign": state["x"], "ysign": state["y"]}
    spec = figures.fill(figure.spec, values)
    for parameter in spec.get("params", []):
        if parameter["name"] in signs:
            parameter["value"] = comparison.info(signs[parameter["name"]]).sign
    return {**spec, "datasets": {"rows": rows}, "config": theme.config("light")}
