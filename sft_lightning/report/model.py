"""Data classes of a comparison: points (runs) in cells, grouped by arm and setting."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sft_lightning.core.metric_info import MetricInfo, on_test
from sft_lightning.report.read import Notes, RunFiles
from sft_lightning.runs.metric_facts import find
from sft_lightning.runs.status import is_finished

LOOSE = "runs"  # the name in place of a study's, for runs without one


@dataclass
class Point:
    """One run of a comparison. `values` holds metrics by name, those of the test split under `test/…`."""

    id: str
    arm: str
    cell: dict[str, Any]
    setting: dict[str, Any]
    seed: str
    selected: bool
    status: str
    values: dict[str, float]
    variant: str = ""
    study: str = LOOSE
    fold: str = ""
    drawn: str = ""
    """Fingerprint of the labelled samples of a loose run; in a study the seed determines them"""
    files: RunFiles | None = None
    steps: float | None = None

    @property
    def finished(self) -> bool:
        return is_finished(self.status)

    @property
    def repetition(self) -> str:
        """Identifies a repetition within a setting, and pairs it over arms: the seed, and the labelled samples."""
        return f"{self.seed} {self.drawn}".rstrip()

    @property
    def cost(self) -> dict[str, Any]:
        """Seconds of fitting and of measuring retention, trainable parameters, device; unknown ones are left out."""
        record = self.files.record if self.files else {}
        times, parameters, device = (_mapping(record, k) for k in ("times", "parameters", "device"))
        found = {
            "fit_s": times.get("fit_s"),
            "retention_s": times.get("retention_s"),
            "trainable": parameters.get("trainable"),
            "device": device.get("name") or device.get("type"),
        }
        return {k: v for k, v in found.items() if v is not None}


def _mapping(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


@dataclass
class Cell:
    """One combination of axis values, reported separately."""

    study: str
    at: dict[str, Any]
    statistics: Any = None
    answer: str = ""
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Entry of each arm in study.json: `chosen`, `why`, `candidates`"""

    def label(self, several_studies: bool) -> str:
        """`shots_per_class 5`, after the study's name if there are several."""
        at = ", ".join(f"{k.replace('_', ' ')} {value_text(v)}" for k, v in self.at.items())
        return f"{self.study}: {at}" if several_studies and at else self.study if several_studies else at


@dataclass
class Comparison:
    """All points, their cells in order, and the metrics on the axes of the learned × kept plane."""

    points: list[Point]
    cells: list[Cell]
    target: str
    """Metric of what was learned, by validation's name"""
    kept: str | None
    """Metric of what was kept, likewise"""
    drift: str | None
    known: dict[str, MetricInfo] = field(default_factory=dict)
    """Facts of metrics, from the runs"""
    baseline: str | None = None
    notes: Notes = field(default_factory=Notes)
    title: str = ""

    @property
    def arms(self) -> list[str]:
        """Names in order of appearance, so that the baseline keeps its place in the study file."""
        return list(dict.fromkeys(p.arm for p in self.points))

    def label(self, cell: Cell) -> str:
        return cell.label(len({c.study for c in self.cells}) > 1) or "all runs"

    def of(self, cell: Cell) -> list[Point]:
        """The points of a cell."""
        return [p for p in self.points if p.study == cell.study and p.cell == cell.at]

    def info(self, metric: str | None) -> MetricInfo:
        """Facts of a metric, by either split's name. Its direction is None if no run records it; do not rank by it then."""
        found = find(self.known, metric) if metric else None
        return MetricInfo(metric or "", None) if found is None else found

    def metrics(self) -> list[str]:
        """Metrics that any point has, by validation's names; target, kept and drift come first."""
        names = {n for p in self.points for n in p.values if n.startswith(("val/", "retention/", "drift/"))}
        first = [n for n in (self.target, self.kept, self.drift) if n is not None]
        return list(dict.fromkeys([*first, *sorted(names)]))

    def split(self, points: list[Point], metric: str) -> str:
        """'test' if every group of the selected points has test values of a metric, else 'val'."""
        groups = grouped(p for p in points if p.selected)
        all_tested = groups and all(any(on_test(metric) in p.values for p in g) for g in groups.values())
        return "test" if all_tested else "val"


def grouped(points: Any) -> dict[tuple[str, str], list[Point]]:
    """Points by (arm, setting), in order of appearance; the points of a group are repetitions over seeds.

    Settings differ by value and by type: a limit of 1 is one batch, and 1.0 is all batches.
    """
    points = list(points)
    exact = {(p.arm, setting_text(p.setting), exact_text(p.setting)) for p in points}
    alike = Counter((arm, text) for arm, text, _ in exact)
    found: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        text = setting_text(point.setting)
        text = exact_text(point.setting) if alike[point.arm, text] > 1 else text
        found.setdefault((point.arm, text), []).append(point)
    return found


def group_names(points: list[Point]) -> dict[tuple[str, str], str]:
    """A name for each group of points: the arm, with the setting if the arm has several."""
    keys = list(grouped(points))
    arms = [arm for arm, _ in keys]
    return {(arm, setting): arm if arms.count(arm) == 1 else f"{arm}, {setting}" for arm, setting in keys}


def setting_text(setting: dict[str, Any]) -> str:
    """`lr 0.001, alpha 0.01`."""
    return ", ".join(f"{k} {value_text(v)}" for k, v in setting.items())


def exact_text(setting: dict[str, Any]) -> str:
    """The same with all digits, so that 1.0 and 1 differ."""
    return ", ".join(f"{k} {v!r}" if isinstance(v, float) else f"{k} {value_text(v)}" for k, v in setting.items())


def value_text(value: Any) -> str:
    """A setting's value as short text."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
