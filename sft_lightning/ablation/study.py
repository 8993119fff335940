"""A study file: what it may say, and what it means."""

import re
from dataclasses import dataclass, field
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.config.overrides import full, nested, short
from sft_lightning.core.errors import UserError, nearest

KEYS = {
    "study": "name of the study, and of its folder in runs_dir",
    "base": "the experiment that all arms start from: a file that fit reads, or a mapping",
    "set": "what all arms change of it",
    "arms": "the ways of fine-tuning that are compared",
    "axes": "what is varied for all arms; each combination is reported apart",
    "seeds": "number of seeds, or a list of them",
    "vary": "keys that are set to the seed",
    "tune_seeds": "tune on the first so many seeds; default all",
    "report_seeds": "test fresh seeds alone, in place of those that chose: a number of them, or a list; default none",
    "folds": "choose settings by cross-validation within the labelled set, of so many folds",
    "baseline": "the arm that the others are compared with",
    "select": "how an arm's setting is chosen",
    "report": "metrics of the tables",
}
ARM_KEYS = ("set", "tune", "search", "reference")
SELECT_KEYS = ("target", "kept", "rule", "within")
COLUMNS = ("point", "arm", "seed", "fold", "selected", "status", "steps")
"""Of points.csv, whatever the study"""
RULES = ("keep", "best")
FRESH = 1000
"""The first of a number of fresh seeds: what it is does not change when a study grows"""
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,47}"


@dataclass(frozen=True)
class Select:
    """How an arm's setting is chosen, on validation alone.

    `keep`: of the settings whose mean target metric is within `within` of the arm's best, the one that keeps most.
    `best`: the best mean target metric.
    """

    target: str | None = None
    """Metric of what is learned; default val/ and the task's first."""
    kept: str | None = None
    """Metric of what is kept; default the first of retention/<task's first>, retention/agreement, drift/kl that there is."""
    rule: str = "keep"
    within: float = 0.01
    """In the target metric's unit."""


@dataclass(frozen=True)
class Arm:
    """A way of fine-tuning: an overlay, and the settings to choose among."""

    name: str
    overlay: dict[str, Any]
    tune: dict[str, list[Any]] = field(default_factory=dict)
    """Full key: values"""
    search: dict[str, Any] | None = None
    """Optuna's part: ranges in place of values"""
    reference: bool | None = None
    """Whether it keeps all by construction, and is named beside the answer; None where its runs are to say"""

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Every combination of the tuned values; one empty setting where nothing is tuned."""
        return [dict(zip(self.tune, values, strict=True)) for values in product(*self.tune.values())]


@dataclass(frozen=True)
class Axis:
    """What is varied for all arms: labels and the overlay that each stands for."""

    name: str
    levels: dict[Any, dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """A study file, checked."""

    name: str
    base: dict[str, Any]
    common: dict[str, Any]
    """What all arms change of it; axes and arms are laid over it"""
    arms: list[Arm]
    axes: list[Axis]
    seeds: list[int]
    vary: list[str]
    tune_seeds: list[int]
    folds: int | None
    baseline: str
    select: Select
    report: list[str] | None
    content: dict[str, Any]
    """As it was read"""
    report_seeds: list[int] | None = None
    """Fresh seeds, on which the chosen settings are fitted anew and tested; None to test the runs that chose"""

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the axes' labels: {axis: label}; one empty one where there are no axes."""
        return [
            dict(zip((a.name for a in self.axes), labels, strict=True))
            for labels in product(*(a.levels for a in self.axes))
        ]

    def arm(self, name: str) -> Arm:
        return next(a for a in self.arms if a.name == name)

    @property
    def tuned_keys(self) -> list[str]:
        """Full keys that any arm tunes, in order."""
        return list(dict.fromkeys(k for a in self.arms for k in a.tune))

    def shown(self, setting: dict[str, Any]) -> dict[str, Any]:
        """A setting under short names."""
        among = [*self.tuned_keys, *setting]
        return {short(k, list(dict.fromkeys(among))): v for k, v in setting.items()}


def read_study(path: Path) -> Study:
    """Reads and checks a study file; UserError names the key and the file."""
    from sft_lightning.config.files import check_yaml, named

    check_yaml(path)
    content = named(yaml.safe_load(path.read_text(encoding="utf-8")))
    try:
        return make_study(content, path.parent, path.stem)
    except UserError as error:
        if error.key == "--config":
            raise
        raise UserError("--config", f"{path}: {error.key}: {error.problem}", error.fix) from None


def make_study(content: dict[str, Any], folder: Path, name: str) -> Study:
    """Checks the content of a study file; `folder` is what its paths are relative to."""
    refuse_unknown_keys(content, KEYS, "a study file")
    name = str(content.get("study") or name)
    if not re.fullmatch(NAME, name):
        raise UserError("study", f"'{name}' must be 1 to 48 letters, digits, '.', '_', '+' or '-'")
    base = read_base(content.get("base"), folder)
    arms = read_arms(content.get("arms"))
    seeds = read_seeds(content.get("seeds", 3))
    report_seeds = read_report_seeds(content, seeds)
    tune_seeds = whole_number_within(content.get("tune_seeds"), "tune_seeds", 1, len(seeds)) or len(seeds)
    baseline = str(content.get("baseline") or ("plain" if any(a.name == "plain" for a in arms) else arms[0].name))
    if baseline not in [a.name for a in arms]:
        raise UserError("baseline", f"no arm '{baseline}'; there are {', '.join(a.name for a in arms)}")
    vary = content.get("vary", ["seed_everything", "data.init_args.subset_seed"])
    if not isinstance(vary, list) or "seed_everything" not in vary or not all(isinstance(v, str) for v in vary):
        raise UserError("vary", "must be a list of keys, seed_everything among them")
    report = content.get("report")
    if report is not None and not (isinstance(report, list) and all(isinstance(m, str) for m in report)):
        raise UserError("report", "must be a list of metrics, such as test/accuracy")
    return Study(
        name=name,
        base=base,
        common=nested(mapping(content.get("set"), "set"), "set"),
        arms=arms,
        axes=read_axes(content.get("axes")),
        seeds=seeds,
        vary=[full(v) for v in vary],
        tune_seeds=seeds[:tune_seeds],
        folds=whole_number_within(content.get("folds"), "folds", 2, 1000),
        baseline=baseline,
        select=read_select(content.get("select")),
        report=report,
        content=content,
        report_seeds=report_seeds,
    )


def refuse_unknown_keys(content: dict[str, Any], keys: Any, where: str) -> None:
    """Raises UserError for a key that is none of `keys`."""
    for key in content:
        if key not in keys:
            raise UserError(key, f"no key of {where}{nearest(key, keys)}; there are {', '.join(keys)}")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """An overlay: a mapping, or nothing."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(where, f"must be keys and values, as in a config of fit, not {value!r}")
    return value


def whole_number_within(value: Any, where: str, least: int, most: int) -> int | None:
    """A whole number within bounds, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(where, f"must be a whole number from {least} to {most}, not {value!r}")
    return value


def read_base(value: Any, folder: Path) -> dict[str, Any]:
    """The experiment that all arms start from."""
    if isinstance(value, dict):
        return nested(value, "base")
    if not isinstance(value, str):
        raise UserError("base", "name the experiment that all arms start from, a file that fit reads")
    from sft_lightning.config.files import check_yaml, named

    path = Path(value).expanduser()
    path = path if path.is_absolute() else folder / path
    if not path.is_file():
        raise UserError("base", f"{path} does not exist (it is relative to the study file)")
    check_yaml(path)
    return nested(named(yaml.safe_load(path.read_text(encoding="utf-8"))), "base")


def read_arms(value: Any) -> list[Arm]:
    """Arms in their order."""
    if not isinstance(value, dict) or not value:
        raise UserError("arms", "name at least one: {plain: {}, l2sp: {set: …, tune: …}}")
    arms = []
    for name, about in value.items():
        where = f"arms.{name}"
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise UserError("arms", f"{name!r} is no name: 1 to 48 letters, digits, '.', '_', '+' or '-'")
        about = mapping(about, where)
        refuse_unknown_keys(about, ARM_KEYS, where)
        tune = {}
        for key, values in mapping(about.get("tune"), f"{where}.tune").items():
            values = values if isinstance(values, list) else [values]
            if not values or any(values.count(v) > 1 for v in values):
                raise UserError(f"{where}.tune.{key}", "must be a list of different values")
            tune[full(str(key))] = values
        if tune and about.get("search") is not None:
            raise UserError(where, "give tune or search, not both")
        own = nested(mapping(about.get("set"), f"{where}.set"), f"{where}.set")
        reference = about.get("reference")
        if reference is not None and not isinstance(reference, bool):
            raise UserError(f"{where}.reference", f"must be true or false, not {reference!r}")
        arms.append(Arm(name, own, tune, read_search(about.get("search"), f"{where}.search"), reference))
    return arms


def read_search(value: Any, where: str) -> dict[str, Any] | None:
    """Optuna's part of an arm: `trials`, `ranges` {key: {low, high, log} or a list}, `sampler`, `prune`."""
    if value is None:
        return None
    value = mapping(value, where)
    refuse_unknown_keys(value, ("trials", "ranges", "sampler", "prune"), where)
    whole_number_within(value.get("trials", 20), f"{where}.trials", 1, 10_000)
    for key, kind, fits in (
        ("trials", "a whole number", int),
        ("sampler", "a name", str),
        ("prune", "true or false", bool),
    ):
        if key in value and not isinstance(value[key], fits):
            raise UserError(f"{where}.{key}", f"must be {kind}, not {value[key]!r}")
    ranges = mapping(value.get("ranges"), f"{where}.ranges")
    if not ranges:
        raise UserError(f"{where}.ranges", "name what is searched: {model.alpha: {low: 0.001, high: 1.0, log: true}}")
    for key, about in ranges.items():
        if not (isinstance(about, list) and about) and not is_range(about, f"{where}.ranges.{key}"):
            raise UserError(f"{where}.ranges.{key}", "must be {low: …, high: …, log: true|false} or a list of values")
    return {"trials": 20, "sampler": "tpe", "prune": True, **value, "ranges": {full(k): v for k, v in ranges.items()}}


def is_range(about: Any, where: str) -> bool:
    """Whether `low` and `high`, with `log` or `step`, make a range."""
    if not isinstance(about, dict):
        return False
    refuse_unknown_keys(about, ("low", "high", "log", "step"), where)
    low, high, step = about.get("low"), about.get("high"), about.get("step", 1)
    numbers = [n for n in (low, high, step) if isinstance(n, int | float) and not isinstance(n, bool) and isfinite(n)]
    if len(numbers) < 3 or not isinstance(about.get("log", False), bool):
        return False
    return low < high and step > 0 and not (about.get("log") and (low <= 0 or "step" in about))  # type: ignore[operator]


def read_axes(value: Any) -> list[Axis]:
    """Axes in their order."""
    axes = []
    raw = mapping(value, "axes")
    keys = [full(k) for k, v in raw.items() if isinstance(v, list)]
    for key, levels in raw.items():
        where = f"axes.{key}"
        if isinstance(levels, list) and levels:
            if any(levels.count(v) > 1 for v in levels):
                raise UserError(where, "names a value twice")
            overlays = {label(v): nested({key: v}, where) for v in levels}
            name = short(full(key), keys)
            axes.append(Axis(name if name not in COLUMNS else full(key), overlays))
        elif str(key) in COLUMNS:
            raise UserError(where, f"points.csv has a column {key} already", "choose another name")
        elif isinstance(levels, dict) and levels:
            axes.append(Axis(str(key), {k: nested(mapping(v, f"{where}.{k}"), where) for k, v in levels.items()}))
        else:
            raise UserError(where, "must be a list of values, or named overlays {small: {…}, large: {…}}")
    return axes


def label(value: Any) -> Any:
    """A value as an axis's label: itself where it is plain, else as YAML in one line."""
    plain = isinstance(value, str | int | float | bool) or value is None
    return value if plain else yaml.safe_dump(value, default_flow_style=True, sort_keys=False).strip()


def read_seeds(value: Any) -> list[int]:
    """A number of seeds from 0, or those listed."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000:
        return list(range(value))
    fits = isinstance(value, list) and value and all(isinstance(s, int) and not isinstance(s, bool) for s in value)
    if not fits or len(set(value)) != len(value) or not all(0 <= s < 2**32 for s in value):
        raise UserError("seeds", f"must be a number of seeds, or a list of different ones from 0, not {value!r}")
    return list(value)


def read_report_seeds(content: dict[str, Any], seeds: list[int]) -> list[int] | None:
    """Seeds of the report: fresh ones from FRESH for a number, or those listed; none of them may be among `seeds`."""
    value = content.get("report_seeds")
    if value is None:
        return None
    try:
        found = read_seeds(value)
    except UserError as error:
        raise error.at("report_seeds") from None
    found = [FRESH + s for s in found] if isinstance(value, int) else found
    if both := sorted(set(found) & set(seeds)):
        raise UserError("report_seeds", f"{both[0]} is among seeds, which choose the settings", "name fresh ones")
    if content.get("tune_seeds") is not None:
        raise UserError("tune_seeds", "with report_seeds, `seeds` are those that choose", "leave tune_seeds out")
    return found


def read_select(value: Any) -> Select:
    """The rule."""
    value = mapping(value, "select")
    refuse_unknown_keys(value, SELECT_KEYS, "select")
    rule, within = value.get("rule", "keep"), value.get("within", 0.01)
    if rule not in RULES:
        raise UserError("select.rule", f"'{rule}' is neither keep nor best{nearest(rule, RULES)}")
    if isinstance(within, bool) or not isinstance(within, int | float) or not 0 <= within < float("inf"):
        raise UserError("select.within", f"must be a number from 0, in the target metric's unit, not {within!r}")
    for which in ("target", "kept"):
        metric = value.get(which)
        if metric is not None and (not isinstance(metric, str) or metric.startswith("test/")):
            raise UserError(
                f"select.{which}", "must be a metric of validation, such as val/accuracy: test decides nothing"
            )
    return Select(value.get("target"), value.get("kept"), rule, float(within))
