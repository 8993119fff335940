"""Makes the data of the figures: tidy rows, shared by the page and by figures in files."""

from collections.abc import Iterable
from typing import Any

from sft_lightning.core.metric_info import on_test
from sft_lightning.report.error_analysis import classes_of, layers_of, matrix_of, rounded, samples_of
from sft_lightning.report.from_runs import flatten, is_setting
from sft_lightning.report.from_study import as_mapping
from sft_lightning.report.model import Comparison, Point, setting_text, value_text
from sft_lightning.report.read import number_or_none
from sft_lightning.report.summary import Row, stat

MOST_STEPS = 80  # of a curve; more would not be distinguishable at a figure's width
TABLE = list[dict[str, Any]]


class Sets:
    """Makes all data sets of the figures from the selected runs, and reads their details only once.

    The column `cell` is the index in `comparison.cells`.
    """

    def __init__(self, comparison: Comparison, rows: list[Row]) -> None:
        self.comparison, self.rows = comparison, rows
        self.metrics = comparison.metrics()
        self.place = {id(cell): i for i, cell in enumerate(comparison.cells)}
        self.used = {id(p) for row in rows for p in row.points}
        self.groups = {id(p): row.group for row in rows for p in row.points}
        self.details = {id(row): self._details(row) for row in rows}

    @staticmethod
    def _details(row: Row) -> list[dict[str, Any]]:
        found = (p.files.details() for p in row.points if p.files is not None)
        return [d for d in found if d]

    def split(self, cell: int) -> str:
        """'test' or 'val': the split whose values are shown for a cell."""
        return next((r.split for r in self.rows if self.place[id(r.cell)] == cell), "val")

    def points(self) -> TABLE:
        """A row for each point: its facts, and its values in the order of `metrics` as `val` and `test`."""
        strengths = _strengths(self.comparison.points)
        found = []
        for i, cell in enumerate(self.comparison.cells):
            for point in self.comparison.of(cell):
                strand, strength, label = strengths[id(point)]
                found.append(
                    {
                        "cell": i,
                        "point": point.id,
                        "arm": point.arm,
                        "group": self.groups.get(id(point), point.arm),
                        "setting": setting_text(point.setting),
                        "label": label,
                        "by_rate": int(label.startswith("lr ")),
                        "strand": strand,
                        "strength": strength,
                        "seed": point.seed + (f", fold {point.fold}" if point.fold else ""),
                        "selected": int(point.selected),
                        "used": int(id(point) in self.used),
                        "status": point.status,
                        "steps": point.steps,
                        "val": [rounded(point.values.get(m)) for m in self.metrics],
                        "test": [rounded(point.values.get(on_test(m))) for m in self.metrics],
                    }
                )
        return found

    def curves(self) -> TABLE:
        """Each metric over steps, mean and one standard deviation over the seeds of a group."""
        found = []
        for row in self.rows:
            series: dict[str, dict[float, list[tuple[str, float]]]] = {}
            for point in row.points:
                for logged in point.files.history() if point.files else []:
                    for metric in self.metrics:
                        if metric in logged:
                            series.setdefault(metric, {}).setdefault(logged["step"], []).append(
                                (point.seed, logged[metric])
                            )
            for metric, by_step in series.items():
                for step in thinned(sorted(by_step)):
                    found.append({**self._about(row), "metric": metric, "step": step, **spread(by_step[step])})
        return found

    def _about(self, row: Row) -> dict[str, Any]:
        return {"cell": self.place[id(row.cell)], "arm": row.arm, "group": row.group}

    def amount(self) -> str | None:
        """The axis for the amount of labelled data: a numeric one, recognised by its name; None if there is none."""
        numeric = [
            name
            for name in dict.fromkeys(k for c in self.comparison.cells for k in c.at)
            if len({c.at[name] for c in self.comparison.cells if isinstance(c.at.get(name), int | float)}) > 1
        ]
        named = [n for n in numeric if any(w in n for w in ("shots", "fraction", "samples", "amount", "labels"))]
        return named[0] if named else None

    def rest(self, cell: int) -> str:
        """A cell without its amount of data; cells that agree in this are joined by a line."""
        place = self.comparison.cells[cell]
        return f"{place.study}|" + setting_text({k: v for k, v in place.at.items() if k != self.amount()})

    def shots(self) -> TABLE:
        """Each metric over the amount of labelled data."""
        amount, found = self.amount(), []
        for row in self.rows if amount is not None else []:
            if not isinstance(row.cell.at.get(str(amount)), int | float):
                continue
            for metric, value in row.stats.items():
                low, high = value.mean - (value.std or 0), value.mean + (value.std or 0)
                found.append(
                    {
                        "rest": self.rest(self.place[id(row.cell)]),
                        "arm": row.arm,
                        "group": row.group,
                        "amount": row.cell.at[str(amount)],
                        "metric": metric,
                        "mean": rounded(value.mean),
                        "low": rounded(low),
                        "high": rounded(high),
                        "n": value.n,
                    }
                )
        return found

    def forgetting(self) -> TABLE:
        """`retention/forgetting` of each seed, on the split that is shown for the cell."""
        found = []
        for row in self.rows:
            name = "test/retention/forgetting" if row.split == "test" else "retention/forgetting"
            for point in row.points:
                if name in point.values:
                    found.append({**self._about(row), "seed": point.seed, "value": rounded(point.values[name])})
        return found

    def differences(self) -> TABLE:
        """Paired differences from the baseline, from the cell's statistics; `side` is target or kept."""
        found = []
        for i, cell in enumerate(self.comparison.cells):
            both = as_mapping(as_mapping(cell.statistics).get("differences"))
            for side in ("target", "kept"):
                entries = both.get(side)
                for entry in entries if isinstance(entries, list) else []:
                    entry = as_mapping(entry)
                    mean = number_or_none(entry.get("mean"))
                    if mean is None:
                        continue
                    low, high = (number_or_none(entry.get(f"{end}_corrected")) for end in ("low", "high"))
                    found.append(
                        {
                            "cell": i,
                            "side": side,
                            "arm": str(entry.get("arm")),
                            "group": str(entry.get("arm")),
                            "mean": rounded(mean),
                            "low": rounded(mean if low is None else low),
                            "high": rounded(mean if high is None else high),
                            "p": rounded(number_or_none(entry.get("p_corrected"))),
                            "verdict": str(entry.get("verdict", "")),
                        }
                    )
        return found

    def layers(self) -> TABLE:
        """Mean distance over seeds that each layer moved, for each measure in details.json."""
        return [{**self._about(row), **entry} for row in self.rows for entry in layers_of(self.details[id(row)])]

    def matrices(self) -> TABLE:
        """Confusion matrices summed over seeds: `which` is target, before or after; counts as lists."""
        return [
            {**self._about(row), "which": which, **matrix}
            for row in self.rows
            for which in ("target", "before", "after")
            if (matrix := matrix_of(self.details[id(row)], which)) is not None
        ]

    def classes(self) -> TABLE:
        """What each class of the source task lost and gained, worst first, over the seeds of a group."""
        return [{**self._about(row), **entry} for row in self.rows for entry in classes_of(self.details[id(row)])]

    def samples(self) -> TABLE:
        """Samples that most seeds of a group predicted right before and wrong after tuning, most confident first."""
        return [{**self._about(row), **samples_of(d)} for row in self.rows if (d := self.details[id(row)])]

    def configs(self) -> TABLE:
        """The settings in which the shown groups differ: for each group key and value, several values if its seeds differ."""
        flat: list[tuple[Row, dict[str, list[str]]]] = []
        for row in self.rows:
            values: dict[str, list[str]] = {}
            for point in row.points:
                for key, value in flatten(point.files.config() if point.files else {}).items():
                    if key and (is_setting(key) or "seed" in key or key.endswith(("shots_per_class", "fraction"))):
                        text = value_text(value)
                        text = text.rpartition(".")[2] if key.endswith("class_path") else text
                        if text not in values.setdefault(key, []):
                            values[key].append(text)
            if values:
                flat.append((row, values))
        keys = dict.fromkeys(k for _, values in flat for k in values)
        differing = [
            k
            for k in keys
            if len({tuple(v.get(k, ())) for _, v in flat}) > 1 or any(len(v.get(k, ())) > 1 for _, v in flat)
        ]
        return [
            {
                **self._about(row),
                "values": {k: together(values[k]) for k in differing if k in values},
            }
            for row, values in flat
        ]


def together(values: list[str]) -> str:
    """Several values of a setting as one text: `0.1`, `a, b`, or `0 … 9` for consecutive whole numbers."""
    ordered = sorted(values, key=_natural)
    numbers = [int(v) for v in ordered if v.lstrip("-").isdigit()]
    if len(numbers) == len(ordered) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} … {numbers[-1]}"
    return ", ".join(ordered)


def _natural(text: str) -> tuple[float, str]:
    number = number_or_none(text)
    return (float("inf") if number is None else number, text)


def spread(values: list[tuple[str, float]]) -> dict[str, Any]:
    """mean, low, high and n of (seed, value) pairs."""
    found = stat(values)
    assert found is not None
    std = found.std or 0.0
    low, high = rounded(found.mean - std), rounded(found.mean + std)
    return {"mean": rounded(found.mean), "low": low, "high": high, "n": found.n}


def thinned(steps: list[float]) -> list[float]:
    """At most MOST_STEPS of the steps, evenly spaced, with the first and the last."""
    if len(steps) <= MOST_STEPS:
        return steps
    return [steps[round(i * (len(steps) - 1) / (MOST_STEPS - 1))] for i in range(MOST_STEPS)]


def _strengths(points: Iterable[Point]) -> dict[int, tuple[str, float, str]]:
    """(strand, strength, label) of each point; a strand is the points that differ only in an anchor's weight, its strength."""
    found: dict[int, tuple[str, float, str]] = {}
    seen: dict[str, dict[str, int]] = {}
    for point in points:
        numeric = [k for k, v in point.setting.items() if isinstance(v, int | float) and not isinstance(v, bool)]
        main = next((k for k in numeric if not k.endswith("lr")), numeric[0] if numeric else None)
        rest = setting_text({k: v for k, v in point.setting.items() if k != main})
        text = setting_text(point.setting)
        if main is None:
            order = seen.setdefault(point.arm, {})
            found[id(point)] = (point.arm, float(order.setdefault(text, len(order))), text)
        else:
            value = value_text(point.setting[main])
            label = f"{main} {value}" if main.endswith("lr") else value
            found[id(point)] = (f"{point.arm} {rest}", float(point.setting[main]), label)
    return found
