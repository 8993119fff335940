"""Reads and checks a study file: arms, axes, seeds and the rule that chooses settings."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.ablation.path_arm import PathOf, check_paths, read_path
from sft_lightning.config.overrides import full, nested, short
from sft_lightning.core.errors import UserError, nearest

KEYS = {
    "study": "name of the study, and of its folder in runs_dir",
    "base": "the experiment that all arms start from: a file that fit reads, or a mapping",
    "set": "changes to the base that all arms share",
    "arms": "the ways of fine-tuning that are compared",
    "axes": "what is varied for all arms; each combination is reported separately",
    "seeds": "number of seeds, or a list of them",
    "vary": "keys that are set to the seed",
    "tune_seeds": "number of seeds, from the first, that settings are chosen on; default all",
    "report_seeds": "test only fresh seeds, not those that chose the settings: a number, or a list; default none",
    "folds": "number of folds, to choose settings by cross-validation within the labelled set",
    "baseline": "the arm that the others are compared with",
    "select": "how an arm's setting is chosen",
    "report": "metrics of the tables",
}
ARM_KEYS = ("set", "tune", "search", "reference", "path")
SELECT_KEYS = ("target", "kept", "rule", "within")
COLUMNS = ("point", "arm", "seed", "fold", "selected", "status", "steps")
"""Columns that points.csv has in every study"""
RULES = ("keep", "best")
FRESH = 1000
"""First fresh seed when report_seeds is a number: it stays the same when a study grows"""
NAME = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,47}"
NAME_FIX = "use 1 to 48 letters, digits, '.', '_', '+' or '-', and begin with a letter or digit"


@dataclass(frozen=True)
class Select:
    """How an arm's setting is chosen, by validation metrics only.

    `keep`: among settings whose mean target metric is within `within` of the arm's best, the one that keeps most.
    `best`: the best mean target metric.
    """

    target: str | None = None
    """Metric of the target task; default val/<the task's first>."""
    kept: str | None = None
    """Metric of kept knowledge; default the first measured of retention/<task's first>, retention/agreement, drift/kl."""
    rule: str = "keep"
    within: float = 0.01
    """In the target metric's unit."""


@dataclass(frozen=True)
class Arm:
    """A way of fine-tuning: changes to the base config, and the settings to choose among."""

    name: str
    overlay: dict[str, Any]
    tune: dict[str, list[Any]] = field(default_factory=dict)
    """Full key: values"""
    search: dict[str, Any] | None = None
    """Ranges and options of an Optuna search, which replaces `tune`"""
    reference: bool | None = None
    """Whether the arm is named beside the answer and not ranked; None for arms that keep all by construction, by their runs"""
    path: PathOf | None = None
    """Where its points come from if it trains nothing: the path along another arm's runs"""

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Every combination of the tuned values; one empty setting if nothing is tuned."""
        return [dict(zip(self.tune, values, strict=True)) for values in product(*self.tune.values())]


@dataclass(frozen=True)
class Axis:
    """A variation of all arms: each label with its changes to the config."""

    name: str
    levels: dict[Any, dict[str, Any]]


@dataclass(frozen=True)
class Study:
    """The checked content of a study file."""

    name: str
    base: dict[str, Any]
    common: dict[str, Any]
    """Changes to the base that all arms share; those of axes and arms are applied after them"""
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
    """The file's content as it was read"""
    report_seeds: list[int] | None = None
    """Fresh seeds on which the chosen settings are fitted again and tested; None to test the runs that chose"""

    @property
    def cells(self) -> list[dict[str, Any]]:
        """Every combination of the axes' labels, as {axis: label}; one empty cell if there are no axes."""
        return [
            dict(zip((a.name for a in self.axes), labels, strict=True))
            for labels in product(*(a.levels for a in self.axes))
        ]

    def arm(self, name: str) -> Arm:
        return next(a for a in self.arms if a.name == name)

    @property
    def tuned_keys(self) -> list[str]:
        """Full keys that at least one arm tunes, in order."""
        return list(dict.fromkeys(k for a in self.arms for k in a.tune))

    def shown(self, setting: dict[str, Any]) -> dict[str, Any]:
        """A setting under short names."""
        among = [*self.tuned_keys, *setting]
        return {short(k, list(dict.fromkeys(among))): v for k, v in setting.items()}


def read_study(path: Path) -> Study:
    """Reads and checks a study file. A UserError names the file and the key."""
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
    """Checks the content of a study file. Its paths are relative to `folder`."""
    refuse_unknown_keys(content, KEYS)
    name = str(content.get("study") or name)
    if not re.fullmatch(NAME, name):
        raise UserError("study", f"'{name}' is not a valid name", NAME_FIX)
    base = read_base(content.get("base"), folder)
    select = read_select(content.get("select"))
    arms = read_arms(content.get("arms"), select)
    seeds = read_seeds(content.get("seeds", 3))
    report_seeds = read_report_seeds(content, seeds)
    tune_seeds = whole_number_within(content.get("tune_seeds"), "tune_seeds", 1, len(seeds)) or len(seeds)
    baseline = str(content.get("baseline") or ("plain" if any(a.name == "plain" for a in arms) else arms[0].name))
    if baseline not in [a.name for a in arms]:
        raise UserError("baseline", f"there is no arm '{baseline}'", f"use one of {', '.join(a.name for a in arms)}")
    check_paths({a.name: a.path for a in arms}, baseline)
    vary = content.get("vary", ["seed_everything", "data.init_args.subset_seed"])
    if not isinstance(vary, list) or "seed_everything" not in vary or not all(isinstance(v, str) for v in vary):
        raise UserError("vary", f"must be a list of keys with seed_everything in it, got {vary!r}")
    report = content.get("report")
    if report is not None and not (isinstance(report, list) and all(isinstance(m, str) for m in report)):
        raise UserError("report", f"must be a list of metrics, such as [test/accuracy], got {report!r}")
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
        select=select,
        report=report,
        content=content,
        report_seeds=report_seeds,
    )


def refuse_unknown_keys(content: dict[str, Any], keys: Iterable[str], where: str = "") -> None:
    """Raises UserError for the first key that is not in `keys`; `where` is the key of `content` itself."""
    for key in content:
        if key not in keys:
            place = f"{where}.{key}" if where else key
            raise UserError(place, f"unknown key{nearest(key, keys)}", f"use one of {', '.join(keys)}")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Checks that a value is a mapping; None becomes an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(where, f"must be keys and values, as in a config of fit, got {value!r}")
    return value


def whole_number_within(value: Any, where: str, least: int, most: int) -> int | None:
    """Checks that a value is None or a whole number from `least` to `most`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UserError(where, f"must be a whole number from {least} to {most}, got {value!r}")
    return value


def read_base(value: Any, folder: Path) -> dict[str, Any]:
    """Reads the experiment that all arms start from."""
    if isinstance(value, dict):
        return nested(value, "base")
    if not isinstance(value, str):
        raise UserError(
            "base", f"must be a file that fit reads, got {value!r}", "name the experiment that all arms start from"
        )
    from sft_lightning.config.files import check_yaml, named

    path = Path(value).expanduser()
    path = path if path.is_absolute() else folder / path
    if not path.is_file():
        raise UserError("base", f"{path} does not exist", "give its path relative to the study file")
    check_yaml(path)
    return nested(named(yaml.safe_load(path.read_text(encoding="utf-8"))), "base")


def read_arms(value: Any, select: Select) -> list[Arm]:
    """Reads the arms, in the file's order."""
    if not isinstance(value, dict) or not value:
        raise UserError(
            "arms", f"must name at least one arm, got {value!r}", "write {plain: {}, l2sp: {set: …, tune: …}}"
        )
    arms = []
    for name, about in value.items():
        where = f"arms.{name}"
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise UserError("arms", f"{name!r} is not a valid name", NAME_FIX)
        about = mapping(about, where)
        refuse_unknown_keys(about, ARM_KEYS, where)
        tune = {}
        for key, values in mapping(about.get("tune"), f"{where}.tune").items():
            values = values if isinstance(values, list) else [values]
            if not values or any(values.count(v) > 1 for v in values):
                raise UserError(f"{where}.tune.{key}", f"must be a list of different values, got {values!r}")
            tune[full(str(key))] = values
        if tune and about.get("search") is not None:
            raise UserError(where, "has both tune and search", "remove one of them")
        own = nested(mapping(about.get("set"), f"{where}.set"), f"{where}.set")
        reference = about.get("reference")
        if reference is not None and not isinstance(reference, bool):
            raise UserError(f"{where}.reference", f"must be true or false, got {reference!r}")
        search = read_search(about.get("search"), f"{where}.search")
        within = select.within if select.rule == "keep" else None
        path = read_path(about, where, within, select.target, select.kept)
        arms.append(Arm(name, own, tune, search, reference, path))
    return arms


def read_search(value: Any, where: str) -> dict[str, Any] | None:
    """Reads an arm's search: `trials`, `ranges` {key: {low, high, log} or a list}, `sampler`, `prune`."""
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
            raise UserError(f"{where}.{key}", f"must be {kind}, got {value[key]!r}")
    ranges = mapping(value.get("ranges"), f"{where}.ranges")
    if not ranges:
        raise UserError(
            f"{where}.ranges", "names no key to search", "write {model.alpha: {low: 0.001, high: 1.0, log: true}}"
        )
    for key, about in ranges.items():
        if not (isinstance(about, list) and about) and not is_range(about, f"{where}.ranges.{key}"):
            raise UserError(
                f"{where}.ranges.{key}",
                f"{about!r} is not a range",
                "write {low: …, high: …, log: true|false} with low below high, or a list of values",
            )
    return {"trials": 20, "sampler": "tpe", "prune": True, **value, "ranges": {full(k): v for k, v in ranges.items()}}


def is_range(about: Any, where: str) -> bool:
    """Whether `low` and `high`, with an optional `log` or `step`, make a range."""
    if not isinstance(about, dict):
        return False
    refuse_unknown_keys(about, ("low", "high", "log", "step"), where)
    low, high, step = about.get("low"), about.get("high"), about.get("step", 1)
    numbers = [n for n in (low, high, step) if isinstance(n, int | float) and not isinstance(n, bool) and isfinite(n)]
    if len(numbers) < 3 or not isinstance(about.get("log", False), bool):
        return False
    return low < high and step > 0 and not (about.get("log") and (low <= 0 or "step" in about))  # type: ignore[operator]


def read_axes(value: Any) -> list[Axis]:
    """Reads the axes, in the file's order."""
    axes = []
    raw = mapping(value, "axes")
    keys = [full(k) for k, v in raw.items() if isinstance(v, list)]
    for key, levels in raw.items():
        where = f"axes.{key}"
        if isinstance(levels, list) and levels:
            if twice := [v for v in levels if levels.count(v) > 1]:
                raise UserError(where, f"{twice[0]!r} occurs twice", "list each value once")
            overlays = {label(v): nested({key: v}, where) for v in levels}
            name = short(full(key), keys)
            axes.append(Axis(name if name not in COLUMNS else full(key), overlays))
        elif str(key) in COLUMNS:
            raise UserError(where, f"points.csv has a column {key} already", "choose another name")
        elif isinstance(levels, dict) and levels:
            axes.append(Axis(str(key), {k: nested(mapping(v, f"{where}.{k}"), where) for k, v in levels.items()}))
        else:
            raise UserError(
                where, f"must be a list or a mapping, got {levels!r}", "write [5, 20], or {small: {…}, large: {…}}"
            )
    return axes


def label(value: Any) -> Any:
    """The label of an axis's value: the value itself if it is a scalar, else one line of YAML."""
    plain = isinstance(value, str | int | float | bool) or value is None
    return value if plain else yaml.safe_dump(value, default_flow_style=True, sort_keys=False).strip()


def read_seeds(value: Any) -> list[int]:
    """Reads `seeds`: a number of seeds from 0, or a list of seeds."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10_000:
        return list(range(value))
    fits = isinstance(value, list) and value and all(isinstance(s, int) and not isinstance(s, bool) for s in value)
    if not fits or len(set(value)) != len(value) or not all(0 <= s < 2**32 for s in value):
        raise UserError(
            "seeds", f"must be a number of seeds or a list of different whole numbers from 0, got {value!r}"
        )
    return list(value)


def read_report_seeds(content: dict[str, Any], seeds: list[int]) -> list[int] | None:
    """Reads `report_seeds`: a number of seeds from FRESH, or a list of seeds that are not in `seeds`."""
    value = content.get("report_seeds")
    if value is None:
        return None
    try:
        found = read_seeds(value)
    except UserError as error:
        raise error.at("report_seeds") from None
    found = [FRESH + s for s in found] if isinstance(value, int) else found
    if both := sorted(set(found) & set(seeds)):
        raise UserError(
            "report_seeds", f"seed {both[0]} is also in seeds, which choose the settings", "use other seeds"
        )
    if content.get("tune_seeds") is not None:
        raise UserError(
            "tune_seeds", "cannot be combined with report_seeds: all of seeds choose the settings", "remove tune_seeds"
        )
    return found


def read_select(value: Any) -> Select:
    """Reads the rule that chooses settings."""
    value = mapping(value, "select")
    refuse_unknown_keys(value, SELECT_KEYS, "select")
    rule, within = value.get("rule", "keep"), value.get("within", 0.01)
    if rule not in RULES:
        raise UserError("select.rule", f"'{rule}' is unknown{nearest(rule, RULES)}", f"use {' or '.join(RULES)}")
    if isinstance(within, bool) or not isinstance(within, int | float) or not 0 <= within < float("inf"):
        raise UserError("select.within", f"must be a number from 0, in the target metric's unit, got {within!r}")
    for which in ("target", "kept"):
        metric = value.get(which)
        if metric is not None and (not isinstance(metric, str) or metric.startswith("test/")):
            raise UserError(
                f"select.{which}",
                f"must be a validation metric, got {metric!r}: the test split never chooses settings",
                "use one such as val/accuracy",
            )
    return Select(value.get("target"), value.get("kept"), rule, float(within))
