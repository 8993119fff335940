"""Turns loose runs into points: derives the arm, cell and setting of each run from its record and config."""

from collections import Counter
from typing import Any

from sft_lightning.core.metric_info import on_test
from sft_lightning.report.from_study import as_mapping
from sft_lightning.report.metrics import main_target
from sft_lightning.report.model import LOOSE, Cell, Point
from sft_lightning.report.read import Notes, RunFiles, number_or_none
from sft_lightning.runs.same_data import of_test

AXES = {"data.init_args.shots_per_class": "shots_per_class", "data.init_args.train_fraction": "train_fraction"}
SEEDS = {"seed_everything", "data.init_args.subset_seed", "data.init_args.seed", "retention.init_args.subset_seed"}
NOT_SETTINGS = {
    "experiment",
    "runs_dir",
    "run_id",
    "quiet",
    "weights_only",
    "ckpt_path",
    "test_after_fit",
    "data.init_args.num_workers",
    "data.init_args.eval_batch_size",
    "retention.init_args.eval_batch_size",
    "retention.init_args.num_workers",
    "retention.init_args.seed",
    "save_every_minutes",
    "save_every_n_steps",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.default_root_dir",
}
UNKNOWN = {"settings": "unknown"}


def read_points(runs: list[RunFiles], notes: Notes) -> tuple[list[Point], list[Cell]]:
    """A point for each run; runs of one arm that differ only in seeds share their setting, as repetitions."""
    if not runs:
        return [], []
    flat = [flatten(run.config()) for run in runs]
    arms = arm_names(runs)
    tasks = task_names(runs, notes)
    at = axes(flat, tasks)
    settings = setting_of(arms, flat)
    points = [
        Point(
            id=run.path.name,
            arm=arm,
            cell=cell,
            setting=setting,
            seed=str(run.record.get("seed", "")),
            selected=True,
            status=run.status,
            values=values(run),
            variant=str(run.record.get("variant", "")),
            drawn=drawn(run, config),
            files=run,
            steps=number_or_none(run.record.get("steps")),
        )
        for run, arm, cell, setting, config in zip(runs, arms, at, settings, flat, strict=True)
    ]
    for point, run in zip(points, runs, strict=True):
        if not point.finished:
            reason = f" ({run.record['reason']})" if run.record.get("reason") else ""
            notes.add(run.path, f"it is {point.status}{reason}: shown, but left out of means of finished runs")
        if not point.values:
            notes.add(run.path, "it has measured nothing yet")
    _say_other_data(runs, at, notes)
    cells = [Cell(LOOSE, dict(c)) for c in dict.fromkeys(tuple(c.items()) for c in at)]
    return points, sorted(cells, key=lambda c: [(isinstance(v, str), v) for v in map(orderable, c.at.values())])


def drawn(run: RunFiles, config: dict[str, Any]) -> str:
    """Identifies the labelled samples of a run: the fingerprint's first digits, or the subset's seed without one."""
    found = as_mapping(as_mapping(run.record.get("data")).get("fingerprint")).get("train")
    return str(found)[:12] if found else str(config.get("data.init_args.subset_seed") or "")


def orderable(value: Any) -> Any:
    """A number unchanged, any other value as text."""
    return value if isinstance(value, int | float) else str(value)


def values(run: RunFiles) -> dict[str, float]:
    """Each metric at best.ckpt, or its last value without one; test's under `test/…`; numbers of samples under `n/…`."""
    found: dict[str, float] = {}
    for name, entry in run.record["metrics"].items():
        entry = as_mapping(entry)
        value = number_or_none(entry.get("selected", entry.get("final")))
        if value is not None and name.startswith(("val/", "retention/", "drift/")):
            found[name] = value
    for name, value in as_mapping(run.record.get("test")).items():
        if (number := number_or_none(value)) is not None:
            found[on_test(name)] = number
    for column, count in as_mapping(run.record.get("n")).items():
        if (number := number_or_none(count)) is not None:
            found[f"n/{column}"] = number
    return found


def arm_names(runs: list[RunFiles]) -> list[str]:
    """An arm's name: the experiment, or the variant if there is one experiment; both if an experiment has several variants."""
    of = [(str(r.record.get("experiment", "?")), str(r.record.get("variant", "?"))) for r in runs]
    if len({e for e, _ in of}) == 1 and len({v for _, v in of}) > 1:
        return [v for _, v in of]
    several = {e for e, _ in of if len({v for x, v in of if x == e}) > 1}
    return [f"{e} {v}" if e in several else e for e, v in of]


def task_names(runs: list[RunFiles], notes: Notes) -> list[str]:
    """A name for the task of each run; adds a note for each run whose kind of task is not the most frequent."""
    kinds, shown = [], []
    for run in runs:
        task, data = as_mapping(run.record.get("task")), as_mapping(run.record.get("data"))
        main = as_mapping(run.record.get("primary")).get("target") or main_target(run.record["metrics"])
        chosen = as_mapping(run.record.get("selected")).get("by") or main or "no metric"
        kinds.append((str(task.get("name", "unknown task")), str(task.get("labels")), str(chosen)))
        shown.append(str(data.get("description", "data")).partition(":")[0])
    usual = Counter(kinds).most_common(1)[0][0]
    order = list(dict.fromkeys([usual, *kinds]))
    for run, kind in zip(runs, kinds, strict=True):
        if kind != usual:
            what = "the same task with other labels" if kind[::2] == usual[::2] else f"{kind[0]}, chosen by {kind[2]}"
            notes.add(
                run.path, f"{what}, while most runs are {usual[0]}, chosen by {usual[2]}: shown in a cell of its own"
            )
    return [
        f"{n} ({k[0]}{'' if order.index(k) == 0 else f' {order.index(k) + 1}'})"
        for n, k in zip(shown, kinds, strict=True)
    ]


def axes(flat: list[dict[str, Any]], tasks: list[str]) -> list[dict[str, Any]]:
    """The cell of each run: those of its task, shots and fraction that differ among the runs."""
    columns: dict[str, list[Any]] = {"task": list(tasks)}
    for key, name in AXES.items():
        columns[name] = [config.get(key, "unknown") if config else "unknown" for config in flat]
    differing = {
        name: column for name, column in columns.items() if len({str(v) for v in column if v != "unknown"}) > 1
    }
    return [
        {name: "all" if column[i] is None else column[i] for name, column in differing.items()}
        for i in range(len(flat))
    ]


def setting_of(arms: list[str], flat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings in which the runs of an arm differ, without seeds, axes and keys that do not change numbers."""
    differing: dict[str, list[str]] = {}
    for arm in set(arms):
        mine = [config for a, config in zip(arms, flat, strict=True) if a == arm and config]
        keys = dict.fromkeys(k for config in mine for k in config)
        differing[arm] = [k for k in keys if (is_setting(k) or draws_by_batches(k, mine)) and differs(k, mine)]
    names = short_names([k for keys in differing.values() for k in keys])
    return [
        {names[k]: config.get(k) for k in differing[arm]} if config else dict(UNKNOWN)
        for arm, config in zip(arms, flat, strict=True)
    ]


def is_setting(key: str) -> bool:
    """Whether a config key can change a run's results, and is not a seed or an axis."""
    known = key in SEEDS or key in NOT_SETTINGS or key in AXES
    return not known and not key.startswith("wandb") and not key.endswith(".on_bad_sample")


def draws_by_batches(key: str, configs: list[dict[str, Any]]) -> bool:
    """Whether a key is a batch size that determines the number of measured samples, as a limit counts batches."""
    limits = [config.get(f"trainer.limit_{split}_batches") for config in configs for split in ("val", "test")]
    return key.endswith(".eval_batch_size") and any(isinstance(limit, int) for limit in limits)


def differs(key: str, configs: list[dict[str, Any]]) -> bool:
    """Whether the configs that have a key disagree on it; a config without it may be from an older version."""
    return len({repr(c[key]) for c in configs if key in c}) > 1


def short_names(keys: list[str]) -> dict[str, str]:
    """Shortens keys: `model.init_args.lr` becomes `lr` if no other key ends in it."""
    last = Counter(k.rpartition(".")[2] for k in set(keys))
    return {k: k.rpartition(".")[2] if last[k.rpartition(".")[2]] == 1 else k.replace("init_args.", "") for k in keys}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as dotted keys with plain values; a list is a value."""
    if not isinstance(config, dict):
        return {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        below = f"{prefix}.{key}" if prefix else str(key)
        found.update(flatten(value, below) if value != {} else {below: {}})
    return found


def _say_other_data(runs: list[RunFiles], at: list[dict[str, Any]], notes: Notes) -> None:
    """Adds a note for each run that was measured on other samples than most runs of its cell."""
    for split, of in (("test", "data"), ("test", "retention")):
        prints = [of_test(r.record, of) for r in runs]
        for cell in {str(c) for c in at}:
            here = [(r, p) for r, p, c in zip(runs, prints, at, strict=True) if str(c) == cell and p]
            usual = Counter(str(p) for _, p in here).most_common(1)
            for run, fingerprint in here:
                if str(fingerprint) != usual[0][0]:
                    notes.add(
                        run.path,
                        f"its {split} split of {of} differs from that of most runs: the numbers do not compare",
                    )
