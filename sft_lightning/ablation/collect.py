"""Collects a study's results from its points' records into `points.csv` and `study.json`."""

import csv
import io
import json
from typing import Any

import yaml

from sft_lightning.ablation.caveats import at_end, ends_said, seen
from sft_lightning.ablation.plan import FOLD, Point
from sft_lightning.ablation.scheduler import Choice, Scheduler
from sft_lightning.ablation.study import COLUMNS
from sft_lightning.ablation.study_dir import PointStatus
from sft_lightning.config.overrides import put, short
from sft_lightning.core.metric_info import on_test
from sft_lightning.runs.directory import write_atomic
from sft_lightning.runs.metric_facts import facts, together
from sft_lightning.runs.record import strict
from sft_lightning.runs.same_data import of_test
from sft_lightning.runs.status import FAILED, FINISHED, INTERRUPTED, QUEUED, RUNNING

SCHEMA = 1


def rows(scheduler: Scheduler) -> tuple[list[str], list[dict[str, Any]]]:
    """(columns, one row per point) of `points.csv`. It has no times, so equal studies have equal files."""
    study = scheduler.study
    tuned = list(dict.fromkeys(k for p in scheduler.all_points() for k in p.setting)) or study.tuned_keys
    names = {k: short(k, tuned) for k in tuned}
    axes = [a.name for a in study.axes]
    names = {k: v if v not in (*axes, *COLUMNS) else k for k, v in names.items()}
    selected = {p.id for c in choices(scheduler) for p in c.points}
    columns = ["point", "arm", *axes, *names.values(), "seed", *(["fold"] if study.folds else [])]
    columns += ["selected", "status", "steps"]
    on_paths = any(arm.path is not None for arm in study.arms)
    columns += ["path_alpha"] if on_paths else []
    metrics: dict[str, None] = {}
    table = []
    for point in scheduler.all_points():
        standing = scheduler.look(point)
        record = standing.record or {}
        places = {**point.cell, **{names[k]: v for k, v in point.setting.items()}}
        row: dict[str, Any] = {"point": point.id, "arm": point.arm, **{k: yaml_value(v) for k, v in places.items()}}
        row |= {
            "seed": point.seed,
            **({"fold": point.fold} if study.folds else {}),
            "selected": int(point.id in selected),
        }
        row |= {"status": standing.status, "steps": record.get("steps")}
        row |= {"path_alpha": (record.get("after") or {}).get("alpha")} if on_paths else {}
        if standing.finished:
            values = measured(record, point.id in selected)
            metrics |= dict.fromkeys(values)
            row |= values
        table.append(row)
    return [*columns, *sorted(metrics, key=order)], table


def yaml_value(value: Any) -> Any:
    """A label or tuned value as YAML writes it. null becomes text, as empty cells are for keys that an arm does not have."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value


def order(metric: str) -> tuple[int, str]:
    """Sort key of metric columns: target, kept, drift, then the test split."""
    stages = ("val/", "retention/", "drift/", "test/")
    return next((i for i, s in enumerate(stages) if metric.startswith(s)), len(stages)), metric


def measured(record: dict[str, Any], tested: bool) -> dict[str, float]:
    """Metrics at best.ckpt, and of the test split if the point is a chosen one. `n/…` are numbers of measured samples."""
    values = {}
    for name, entry in record["metrics"].items():
        if name.startswith(("train/", "test/")) or "selected" not in entry:
            continue
        values[name] = float(entry["selected"])
    for name, value in (record.get("test") or {}).items() if tested else ():
        values[name if name.startswith("test/") else f"test/{name}"] = float(value)
    for column, count in (record.get("n") or {}).items():
        if tested or not column.startswith("test"):
            values[f"n/{column}"] = int(count)
    return values


def choices(scheduler: Scheduler) -> list[Choice]:
    """The choices made so far."""
    found = [scheduler.choice(cell, arm) for cell, arm in scheduler.places()]
    return [c for c in found if c is not None]


def csv_text(columns: list[str], table: list[dict[str, Any]]) -> str:
    """The table as CSV, with all digits of floats."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in table:
        writer.writerow({k: "" if v is None else repr(v) if isinstance(v, float) else v for k, v in row.items()})
    return file.getvalue()


def by_seed(scheduler: Scheduler, points: list[Point], metric: str) -> dict[int, float]:
    """{seed: value} of a metric over an arm's finished chosen points."""
    found = {}
    for point in points:
        value = scheduler.look(point).value(metric) if scheduler.look(point).finished else None
        if value is not None:
            found[point.seed] = value
    return found


def write_file(scheduler: Scheduler) -> None:
    """Writes study.yaml into the study's folder. It includes the base, so it needs no other file."""
    whole = {**scheduler.study.content, "study": scheduler.study.name, "base": scheduler.study.base}
    if scheduler.n_seeds is not None and not scheduler.only_tune:
        whole["seeds"] = scheduler.seeds  # settled by a budget
        if scheduler.study.report_seeds is not None:
            whole["report_seeds"] = scheduler.report_seeds
        if isinstance(whole.get("tune_seeds"), int):
            whole["tune_seeds"] = min(whole["tune_seeds"], len(scheduler.seeds))
    write_atomic(scheduler.folder.path / "study.yaml", yaml.safe_dump(whole, sort_keys=False))


def content(scheduler: Scheduler, status: str, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """The content of `study.json`."""
    study, points = scheduler.study, scheduler.all_points()
    standings = [scheduler.look(p) for p in points]
    count = {s: sum(x.status == s for x in standings) for s in (FINISHED, FAILED, QUEUED, INTERRUPTED, RUNNING)}
    cells = [cell_content(scheduler, cell, with_statistics=status != "running") for cell in study.cells]
    return {
        "schema": SCHEMA,
        "study": study.name,
        "status": status,
        "file": study.content,
        "baseline": study.baseline,
        "axes": {a.name: list(a.levels) for a in study.axes},
        "seeds": scheduler.seeds,
        "report_seeds": scheduler.report_seeds if study.report_seeds is not None else None,
        "caveats": seen(study, any(len(c.candidates) > 1 for c in choices(scheduler))),
        "metrics": next((c["metrics"] for c in cells if c["metrics"]), None),
        "metric_info": metric_info(standings),
        "report": study.report,
        "select": {"rule": study.select.rule, "within": study.select.within},
        "points": {"total": len(points), **count, "tested": sum(s.tested for s in standings)},
        "failures": failures(scheduler, points),
        "work_s": round(sum(x.of(job).get("seconds", 0.0) for x in standings for job in ("fit", "test")), 1),
        **(about or {}),
        "cells": cells,
        "answer": [answer_of(c) for c in cells if c["statistics"] or c["mixed"]],
    }


def named_metrics(scheduler: Scheduler, cell: dict[str, Any]) -> dict[str, Any] | None:
    """Names of a cell's target and kept metrics, on validation and on the test split; None before a fit is finished."""
    found = scheduler.metrics_of(cell)
    if found is None:
        return None
    return {
        "target": found.target.name,
        "kept": found.kept.name if found.kept else None,
        "test_target": on_test(found.target.name),
        "test_kept": on_test(found.kept.name) if found.kept else None,
        "better": {"target": found.target.better, "kept": found.kept.better if found.kept else "max"},
    }


def metric_info(standings: list[PointStatus]) -> dict[str, dict[str, Any]]:
    """Direction and unit of each metric in the table, from the points' records."""
    said, _ = together(facts(s.record) for s in standings if s.finished and s.record)
    return {name: info.to_dict() for name, info in said.items() if not name.startswith(("train/", "times/"))}


def answer_of(cell: dict[str, Any]) -> str:
    """A cell's answer, or the reason for no answer."""
    return str(cell["statistics"]["answer"] if cell["statistics"] else f"No answer: {cell['mixed']}.")


def failures(scheduler: Scheduler, points: list[Point]) -> list[dict[str, Any]]:
    """Failed points, with the reason and the log."""
    found = []
    for point in points:
        standing = scheduler.look(point)
        job = "fit" if standing.status == "failed" else "test" if standing.test_failed else None
        if job is not None:
            log = str(scheduler.folder.log(point.id).relative_to(scheduler.folder.path))
            reason = standing.of(job).get("reason", "")
            found.append(
                {"point": point.id, "arm": point.arm, "label": point.label, "job": job, "reason": reason, "log": log}
            )
    return found


def cell_content(scheduler: Scheduler, cell: dict[str, Any], with_statistics: bool) -> dict[str, Any]:
    """One cell: each arm's choice, and the statistics over the chosen points' tests."""
    study, arms = scheduler.study, {}
    made: dict[str, Choice] = {}
    for arm in study.arms:
        choice = scheduler.choice(cell, arm)
        if choice is None:
            continue
        made[arm.name] = choice
        records = [scheduler.look(p).record for p in choice.points]
        arms[arm.name] = {
            "variant": next((r["variant"] for r in records if r), None),
            "reference": is_reference(scheduler, choice),
            "chosen": None if choice.setting is None else study.shown(choice.setting),
            "why": choice.why,
            "at_end": ends(scheduler, choice),
            "candidates": [
                {"setting": study.shown(c.setting), "target": c.target, "kept": c.kept, "n": c.n, "allowed": allowed}
                for c, allowed in choice.candidates
            ],
            "tested_before": [study.shown(s) for s in choice.tested_before],
            "points": [p.id for p in choice.points],
        }
    mixed = mixed_data(scheduler, cell, made)
    statistics = statistics_of(scheduler, cell, made) if with_statistics and not mixed else None
    return {
        "at": cell,
        "metrics": named_metrics(scheduler, cell),
        "arms": arms,
        "statistics": statistics,
        "mixed": mixed,
    }


def ends(scheduler: Scheduler, choice: Choice) -> list[dict[str, Any]]:
    """The tuned keys whose chosen value lies at an end of the tried values."""
    records = [scheduler.look(p).record or {} for p in choice.points]
    found = at_end(scheduler.study.arm(choice.arm), choice.setting, [r["solved"] for r in records if r.get("solved")])
    return [{**e, "key": short(e["key"], [*scheduler.study.tuned_keys, e["key"]])} for e in found]


def is_reference(scheduler: Scheduler, choice: Choice) -> bool:
    """Whether an arm is named beside the others and not ranked: by the study file, else if it keeps all."""
    said = scheduler.study.arm(choice.arm).reference
    return said if said is not None else keeps_all(scheduler, choice)


def keeps_all(scheduler: Scheduler, choice: Choice) -> bool:
    """Whether an arm keeps all knowledge by construction: its runs trained only the new head."""
    records = [r for p in choice.points if (r := scheduler.look(p).record) and r.get("parameters")]
    return bool(records) and all(map(leaves_the_encoder, records))


def leaves_the_encoder(record: dict[str, Any]) -> bool:
    """Whether a run trained only its new head."""
    parameters = record["parameters"]
    new = parameters.get("new", parameters.get("head"))  # a head may be pretrained, as a language model's is
    frozen = bool(new) and parameters.get("trainable") == new and bool((record.get("pretrained") or {}).get("name"))
    return record.get("variant") == "LinearProbe" or frozen


def mixed_data(scheduler: Scheduler, cell: dict[str, Any], made: dict[str, Choice]) -> str | None:
    """The data or weights that changed on disk between compared points, in words; None if nothing changed."""
    seen: dict[str, tuple[str, Any]] = {}
    for choice in made.values():
        for point in [*scheduler.tuning(cell, scheduler.study.arm(choice.arm)), *choice.points]:
            record = scheduler.look(point).record
            if scheduler.look(point).finished and record:
                for what, same, found in traces(scheduler, point, record):
                    if seen.setdefault(same, (what, found))[1] != found:
                        return f"{what} changed between points: give the study another name"
    return None


def traces(scheduler: Scheduler, point: Point, record: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """(its name in words, a key for what must be equal, the fingerprint) of data and weights that a point read."""
    prints = record.get("data", {}).get("fingerprint", {})
    sources = record.get("data", {}).get("source", {})
    data, network = (json.dumps(point.config.get(k), sort_keys=True, default=str) for k in ("data", "network"))
    drawn = {"data": point.config.get("data")}
    for key in [k for k in (*scheduler.study.vary, *FOLD) if k.startswith("data.")]:
        drawn = put(drawn, key, None)
    anywhere = json.dumps(drawn, sort_keys=True, default=str)
    learned = "the training or validation data"
    return [
        ("the test data", "test", of_test(record, "data")),
        (learned, f"learned {data}", [prints.get("train"), prints.get("val")]),
        (learned, f"source {anywhere}", [sources.get("train"), sources.get("val")]),
        (f"the pretrained weights of {point.arm}", f"teacher {network}", record.get("teacher_hash")),
    ]


def statistics_of(scheduler: Scheduler, cell: dict[str, Any], made: dict[str, Choice]) -> dict[str, Any] | None:
    """The cell's statistics over test metrics; None before the baseline is tested."""
    from sft_lightning.stats.cells import cell_statistics

    names, metrics = named_metrics(scheduler, cell), scheduler.metrics_of(cell)
    if names is None or metrics is None:
        return None
    values = {
        which: {a: by_seed(scheduler, c.points, names[which]) for a, c in made.items()} if names[which] else None
        for which in ("test_target", "test_kept")
    }
    target = {a: v for a, v in (values["test_target"] or {}).items() if v}
    if scheduler.study.baseline not in target:
        return None
    kept = {a: v for a, v in (values["test_kept"] or {}).items() if v} or None
    shown = {a: scheduler.study.shown(c.setting) for a, c in made.items() if c.setting is not None}
    found = cell_statistics(
        target=target,
        kept=kept,
        baseline=scheduler.study.baseline,
        metrics={k: m.named(on_test(m.name)) for k, m in (("target", metrics.target), ("kept", metrics.kept)) if m},
        within=scheduler.study.select.within,
        at=cell,
        settings=shown,
        references=[a for a, c in made.items() if is_reference(scheduler, c) and a != scheduler.study.baseline],
        keeping=[a for a, c in made.items() if keeps_all(scheduler, c)],
    )
    caveats = seen(scheduler.study, any(len(c.candidates) > 1 for c in made.values()))
    if said := ends_said({a: ends(scheduler, c) for a, c in made.items()}):
        caveats.insert(0, said)
    found["answer"] = " ".join([found["answer"], *caveats])
    found["methods"] = [*found["methods"], *caveats]
    return found


def write(scheduler: Scheduler, status: str, about: dict[str, Any] | None = None) -> dict[str, Any]:
    """Writes both files; returns study.json's content."""
    write_atomic(scheduler.folder.points, csv_text(*rows(scheduler)))
    found = content(scheduler, status, about)
    write_atomic(scheduler.folder.record, json.dumps(strict(found), indent=1, default=str, allow_nan=False) + "\n")
    return found
