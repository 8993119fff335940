"""Plans a study's points: each is an ordinary run whose id is a hash of its resolved config."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any

from sft_lightning.ablation.study import Arm, Study
from sft_lightning.after.asked import Asked
from sft_lightning.config.overrides import looked_up, put
from sft_lightning.core import plain_yaml, redaction
from sft_lightning.core.errors import UserError

ASIDE = (
    *("runs_dir", "quiet", "test_after_fit", "save_every_n_steps", "save_every_minutes"),
    *("wandb", "wandb_fallback", "wandb_project", "wandb_group", "wandb_job_type", "wandb_tags"),
)
"""Keys that do not change what a run computes."""
SAME_BITS = ("teacher_cache", "reference_offload")
"""Arguments of variants that change no bit"""
LATER = ("reference_dtype", "teacher_cache_dtype", "teacher_cache_top_k")
"""Arguments of variants that earlier versions did not have, and that change nothing unless they are set"""
FOLD = ("data.init_args.folds", "data.init_args.fold")


@dataclass(frozen=True)
class Point:
    """One run of a study."""

    id: str
    arm: str
    cell: dict[str, Any]
    setting: dict[str, Any]
    """Full key: value"""
    seed: int
    fold: int | None
    config: dict[str, Any] = field(repr=False, compare=False)
    """The resolved config that fit reads"""
    along: tuple[str, Asked] | None = None
    """If it is chosen on the path of a run instead of trained: the run's point, and the path"""

    @property
    def label(self) -> str:
        """The point's name in printed lines: arm, cell, setting, seed and fold."""
        parts = [self.arm, *(f"{k}={v}" for k, v in self.cell.items())]
        parts += [f"{k.rpartition('.')[2]}={v}" for k, v in self.setting.items()]
        return " ".join([*parts, f"seed {self.seed}", *([] if self.fold is None else [f"fold {self.fold}"])])


class Plan:
    """Makes points of a study, whose configs are resolved by fit's own parser.

    Args:
        study: The study.
        resolve: Turns a list of overlays, later ones winning, into a resolved config; see `config.resolve`.
        about: Run options for all points, such as `wandb`.
    """

    def __init__(self, study: Study, resolve: Any, about: dict[str, Any] | None = None) -> None:
        self.study, self.resolve, self.about = study, resolve, about or {}
        self._resolved: dict[str, dict[str, Any]] = {}
        self._made: dict[str, Point] = {}

    def of(self, study: Study) -> "Plan":
        """A plan of another study with the same options."""
        return Plan(study, self.resolve, self.about)

    def point(self, arm: Arm, cell: dict[str, Any], setting: dict[str, Any], seed: int, fold: int | None) -> Point:
        """The point of these choices; made once."""
        key = json.dumps([arm.name, cell, setting, seed, fold], default=str)
        if key not in self._made:
            self._made[key] = self._make(arm, cell, setting, seed, fold)
        return self._made[key]

    def _make(self, arm: Arm, cell: dict[str, Any], setting: dict[str, Any], seed: int, fold: int | None) -> Point:
        config = self._base(arm, cell, setting)
        for name in self.study.vary:
            config = put(config, name, seed)
        if self.study.folds is not None:
            for name, value in zip(FOLD, (self.study.folds, fold), strict=True):
                config = put(config, name, value)
        return Point(address(config), arm.name, cell, setting, seed, fold, config)

    def _base(self, arm: Arm, cell: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
        """The resolved config without seed and fold, which are plain numbers and are set without the parser."""
        key = json.dumps([arm.name, cell, setting], default=str)
        if key not in self._resolved:
            levels = [axis.levels[cell[axis.name]] for axis in self.study.axes]
            tuned: dict[str, Any] = {}
            for name, value in setting.items():
                tuned = put(tuned, name, value)
            mine = {"experiment": self.study.name, "test_after_fit": False, "quiet": True}
            groups = {"wandb_group": self.study.name, "wandb_job_type": arm.name}
            where = f"arms.{arm.name}"
            try:
                config = self.resolve(
                    [self.study.base, self.study.common, *levels, arm.overlay, tuned, {**mine, **groups, **self.about}]
                )
            except UserError as error:
                place = f"{where}{told({**cell, **setting})}"
                raise UserError(place, f"{error.key}: {error.problem}", error.fix) from None
            if redaction.without(config) != config:
                raise UserError(
                    where, "a value is a secret, and a study writes its configs to files", "use an environment variable"
                )
            for wanted in [*self.study.vary, *(FOLD if self.study.folds else ())]:
                try:
                    if isinstance(looked_up(config, wanted), dict):
                        raise KeyError
                except KeyError:
                    problem = f"the config of {where} has no single value '{wanted}'"
                    if wanted in self.study.vary:
                        raise UserError("vary", problem, "list keys of all arms' configs") from None
                    raise UserError("folds", problem, "remove it, or choose data that has folds") from None
            self._resolved[key] = config
        return self._resolved[key]

    def check(self) -> list[dict[str, Any]]:
        """Resolves every arm in every cell with every setting, before anything runs. Raises UserError if two are equal."""
        found: list[dict[str, Any]] = []
        places: dict[str, str] = {}
        trained = [arm for arm in self.study.arms if arm.path is None]
        for cell in self.study.cells:
            for arm in trained:
                for setting in arm.settings:
                    config = self._base(arm, cell, setting)
                    found.append(config)
                    if arm.search is not None:
                        continue
                    place = f"arms.{arm.name}{told({**cell, **setting})}"
                    if (other := places.setdefault(address(config), place)) != place:
                        raise UserError(
                            place,
                            f"is the same run as {other}",
                            "change one of them; if an arm sets what an axis varies, the arm's value wins",
                        )
        return found

    def tuning(self, arm: Arm, cell: dict[str, Any], seeds: list[int]) -> Iterator[Point]:
        """The points that an arm's setting is chosen by, seed by seed."""
        folds: list[int | None] = [None] if self.study.folds is None else list(range(self.study.folds))
        for seed in seeds:
            for setting in arm.settings:
                for fold in folds:
                    yield self.point(arm, cell, setting, seed, fold)

    def final(self, arm: Arm, cell: dict[str, Any], setting: dict[str, Any], seeds: list[int]) -> list[Point]:
        """The points of the chosen setting, which are tested."""
        return [self.point(arm, cell, setting, seed, None) for seed in seeds]

    def along(self, arm: Arm, of: Point) -> Point:
        """The point of an arm that trains nothing, on the path of another arm's point."""
        assert arm.path is not None
        made = address({"path": asdict(arm.path.asked), "of": of.id})
        return Point(made, arm.name, of.cell, {}, of.seed, None, of.config, (of.id, arm.path.asked))


def told(places: dict[str, Any]) -> str:
    """` (k=v, …)`, or an empty string."""
    return f" ({', '.join(f'{k}={v}' for k, v in places.items())})" if places else ""


def address(config: dict[str, Any]) -> str:
    """12 hexadecimal digits of the sha256 of a config, without keys that do not change what the run computes."""
    content = {k: v for k, v in config.items() if k not in ASIDE}
    for name in (
        "relearn_rows",
        "calibration",
        "retention_sets",
    ):  # options that earlier versions did not have, and that change nothing
        if not content.get(name):
            content.pop(name, None)
    rows = content.get(
        "drift_rows"
    )  # 1024 was the default of earlier versions: ids stay, and a 1024 that is asked differs,
    content["drift_rows"] = (
        1024 if rows is None else str(rows) if rows == 1024 else rows
    )  # as it does for masks and boxes
    init = content.get("data", {}).get("init_args", {})
    if init.get("fold") is None and "folds" in init:  # the number of folds matters only if one is left out
        content["data"] = {
            **content["data"],
            "init_args": {k: v for k, v in init.items() if k not in ("fold", "folds")},
        }
    model = content.get("model", {})
    if given := model.get("init_args", {}):
        kept = {k: v for k, v in given.items() if k not in SAME_BITS and not (k in LATER and not v)}
        content["model"] = {**model, "init_args": kept}
    network = content.get("network", {})
    args = network.get("init_args", {})
    if "transforms" in args and not args["transforms"]:  # empty transforms change nothing
        content["network"] = {**network, "init_args": {k: v for k, v in args.items() if k != "transforms"}}
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def written(config: dict[str, Any]) -> str:
    """A resolved config as the text of the file that fit reads."""
    return plain_yaml.dump(config)
