"""Writes a comparison as a W&B report: the answer, the table, and W&B's own panels over the compared runs.

It uses W&B's workspaces library (extra `[wandb-report]`), which needs a server, while the page of `compare --html` does not.
The panels are empty until the runs are on that server; `wandb sync` sends runs that were recorded offline.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import on_test
from sft_lightning.core.redaction import redact
from sft_lightning.report import loose_statistics, read
from sft_lightning.report.build import compare
from sft_lightning.report.metrics import words
from sft_lightning.report.model import LOOSE, Cell, Comparison, Point
from sft_lightning.report.summary import Row, answers, rows
from sft_lightning.report.table import as_markdown, columns
from sft_lightning.report.theme import colours

STEP = "trainer/global_step"
FORGETTING = "retention/forgetting"
LONGEST_TITLE = 128  # characters that the library accepts
PATIENCE = 20.0  # seconds for the server's first answer, and for the end of W&B's own process


def write_report(paths: list[Path], entity: str | None, project: str, title: str | None = None) -> str:
    """Compares the runs and studies under `paths` and writes the report; returns its URL.

    Args:
        paths: As `compare` takes them.
        entity: W&B user or team; None for the default of the logged-in user.
        project: The W&B project that the runs are in.
        title: The report's title; None for one from the names of the studies and runs.
    """
    comparison = compare(read.collect(map(str, paths)))
    summary = rows(comparison)
    loose_statistics.add(comparison, summary)
    return send(comparison, summary, entity, project, title)


def send(comparison: Comparison, summary: list[Row], entity: str | None, project: str, title: str | None = None) -> str:
    """Writes the report of a comparison; returns its URL. Raises UserError if the library, a key or a server is missing."""
    wr = library()
    import wandb

    with said_in_one_line(wandb):
        first_answer(os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url)
        entity = entity or wandb.Api().default_entity
        if not entity:
            raise UserError("--wandb-report", "your W&B account has no default entity", "give ENTITY/PROJECT")
    report = wr.Report(
        project=project,
        entity=entity,
        title=redact(title or f"Learned and kept: {comparison.title}")[:LONGEST_TITLE],
        description="Made by sft_lightning compare --wandb-report",
        width="fluid",
        blocks=blocks(comparison, summary, entity, project),
    )
    with said_in_one_line(wandb):
        return str(report.save().url)


def library(part: str = "reports.v2") -> Any:
    """Imports a module of W&B's workspaces library; raises UserError if it is not installed."""
    try:
        return import_module(f"wandb_workspaces.{part}")
    except ImportError:
        raise UserError(
            "--wandb-report",
            "W&B's workspaces library is not installed",
            "run pip install 'sft-lightning[wandb-report]'",
        ) from None


@contextmanager
def said_in_one_line(wandb: Any) -> Iterator[None]:
    """Turns errors of W&B or its library (no key, server or project) into a UserError, and ends W&B's processes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exceptions too, if no user is logged in
        said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UserError(
            "--wandb-report",
            f"W&B cannot be used: {said}",
            "log in by `wandb login` or WANDB_API_KEY, name the server in WANDB_BASE_URL, or use --html, which needs neither",
        ) from None
    finally:
        # W&B waits without limit for its process, which may still be asking a server that does not answer.
        ending = threading.Thread(target=torn_down, args=(wandb,), daemon=True)
        ending.start()
        ending.join(PATIENCE)


def torn_down(wandb: Any) -> None:
    """Ends W&B's process and waits for it."""
    with suppress(Exception):
        wandb.teardown()


def first_answer(url: str) -> None:
    """Raises an error if no server answers at `url`: W&B's own requests are repeated for minutes before they fail."""
    import requests

    try:
        requests.head(url, timeout=PATIENCE)
    except requests.RequestException as error:
        raise ConnectionError(f"no answer from {url} ({type(error).__name__})") from None


def parse_target(given: str) -> tuple[str | None, str]:
    """(entity, project) of `PROJECT` or `ENTITY/PROJECT`."""
    *entity, project = given.split("/")
    if len(entity) > 1 or not project or entity == [""]:
        raise UserError("--wandb-report", f"must be PROJECT or ENTITY/PROJECT, got '{given}'")
    return (entity[0] if entity else None), project


# ---- contents of the report ----


def blocks(comparison: Comparison, summary: list[Row], entity: str, project: str) -> list[Any]:
    """The report from top to bottom: the answer, the table, then panels for each cell."""
    wr = library()
    said = dict(answers(comparison, summary))
    table, several = as_markdown(comparison, summary, columns(comparison)), len(said) > 1
    made: list[Any] = [wr.H1("Answer")]
    made += [wr.P(redact(f"{label}: {text}" if several else text)) for label, text in said.items() if text]
    made += [wr.H1("Comparison"), wr.MarkdownBlock(redact(table))]
    for cell in comparison.cells:
        mine = [r for r in summary if r.cell is cell]
        if mine:
            made += [wr.H1(redact(comparison.label(cell))), *cell_blocks(comparison, cell, mine, entity, project)]
    made.append(wr.P("Runs that were recorded offline appear here once `wandb sync` has sent them to this project."))
    if comparison.notes:
        made += [wr.H1("Notes"), wr.UnorderedList([redact(note) for note in comparison.notes.together()])]
    return made


def cell_blocks(comparison: Comparison, cell: Cell, mine: list[Row], entity: str, project: str) -> list[Any]:
    """Curves and bars by arm for the runs of the table, then every run as a dot."""
    wr = library()
    target, kept = comparison.target, comparison.kept
    split = mine[0].split
    chosen = [p for r in mine for p in r.points]
    arm = "JobType" if cell.study != LOOSE else "Group"
    curves = [
        wr.LinePlot(
            title=f"{words(metric)}, over steps",
            x=STEP,
            y=[metric],
            groupby=arm,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            title_x="optimizer steps",
            layout=wr.Layout(w=12, h=8),
        )
        for metric in (target, kept)
        if metric is not None
    ]
    bars = [
        wr.BarPlot(
            title=f"{words(metric)} ({at_the_end(metric, split)})",
            metrics=[at_the_end(metric, split)],
            groupby=arm,
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            layout=wr.Layout(w=8, h=8),
        )
        for metric in dict.fromkeys([target, kept, FORGETTING])
        if metric is not None and has_values(chosen, metric, split)
    ]
    made = [
        wr.PanelGrid(runsets=[runset(cell, chosen, "settings compared", entity, project, arm)], panels=[*curves, *bars])
    ]
    if kept is not None:
        dots = [("compared", split, chosen)]
        every = comparison.of(cell)
        if len(every) > len(chosen):
            dots.append(("every setting tried", "val", every))
        for name, of, points in dots:
            plane = wr.ScatterPlot(
                title=f"Learned × kept: {name}, a dot for each run",
                x=at_the_end(target, of),
                y=at_the_end(kept, of),
                layout=wr.Layout(w=24, h=12),
            )
            of_arms = runset(cell, points, name, entity, project, None)
            coloured(of_arms, points, comparison.arms)
            made.append(wr.PanelGrid(runsets=[of_arms], panels=[plane]))
    return made


def at_the_end(metric: str, split: str) -> str:
    """A metric's key in W&B's summary: of the test split, or of validation at best.ckpt."""
    return on_test(metric) if split == "test" else f"selected/{metric}"


def has_values(points: list[Point], metric: str, split: str) -> bool:
    """Whether any run has the metric."""
    return any((on_test(metric) if split == "test" else metric) in p.values for p in points)


def runset(cell: Cell, points: list[Point], name: str, entity: str, project: str, arm: str | None) -> Any:
    """A run set of exactly these runs, by the study's group and their ids; grouped by `arm`, W&B's key of the arm, if given."""
    wr, expr = library(), library("expr")
    filters = [expr.Metric("ID").isin(list(dict.fromkeys(p.id for p in points)))]
    if cell.study != LOOSE:
        filters.insert(0, expr.Metric("Group") == cell.study)
    return wr.Runset(entity=entity, project=project, name=name, filters=filters, groupby=[arm] if arm else [])


def coloured(of_arms: Any, points: list[Point], arms: list[str]) -> None:
    """Gives the runs of each arm the page's colour of that arm."""
    wr = library()
    palette = dict(zip(arms, colours("light", len(arms)), strict=True))
    of_arms.run_settings = {p.id: wr.RunSettings(color=palette[p.arm]) for p in points}
