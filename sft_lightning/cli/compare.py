"""`compare`: compares runs and studies in a table, a page, figures or a W&B report."""

import sys
from pathlib import Path

from sft_lightning.cli.parser import Parser
from sft_lightning.core.errors import escape_controls
from sft_lightning.report import loose_statistics, read, table
from sft_lightning.report.build import compare
from sft_lightning.report.summary import rows

FIGURE_FORMATS = ("svg", "pdf", "png")


def parser() -> Parser:
    """Builds the parser of `compare`."""
    made = Parser(
        "compare",
        description="Runs and studies side by side: what each way of fine-tuning learned and kept, over seeds.",
    )
    made.add_argument(
        "paths",
        nargs="+",
        metavar="RUN_OR_STUDY",
        help="run directories, study directories, folders that hold some, or patterns such as 'runs/digits-*/*'",
    )
    made.add_argument("--html", metavar="FILE", type=Path, help="write the page, one file that works offline")
    made.add_argument(
        "--format", choices=table.FORMATS, default="table", help="format of the output: one row per arm and cell"
    )
    made.add_argument("--figures", metavar="DIR", type=Path, help="write the page's figures as files for papers")
    made.add_argument(
        "--figure_format",
        action="append",
        choices=FIGURE_FORMATS,
        help="format of those files; may be given several times; all three by default",
    )
    made.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="a metric to show, such as val/f1_macro; may be given several times: the first is what was learned, "
        "the second what was kept",
    )
    made.add_argument(
        "--wandb-report",
        metavar="[ENTITY/]PROJECT",
        help="write a W&B report over the runs in that project; needs the extra [wandb-report] and a server",
    )
    return made


def main(arguments: list[str]) -> int:
    """Runs `compare` with the arguments after that word. Returns 0, or raises UserError."""
    options = parser().parse_intermixed_args(arguments)
    found = read.collect(options.paths)
    metrics = [m for given in options.metric or [] for m in given.split(",") if m]
    comparison = compare(found, metrics)
    summary = rows(comparison)
    loose_statistics.add(comparison, summary)
    shown = table.columns(comparison, metrics or asked_by_study(found))
    text = table.render(options.format, comparison, summary, shown)
    said: list[str] = []
    if options.html is not None:
        from sft_lightning.report.page import write_page

        said.append(f"page    {write_page(options.html, comparison, summary)}")
    if options.figures is not None:
        from sft_lightning.report.export import write_figures

        files = write_figures(options.figures, comparison, summary, options.figure_format or list(FIGURE_FORMATS))
        said.append(f"figures {len(files)} files in {options.figures}")
    if options.wandb_report is not None:
        from sft_lightning.report.wandb_report import parse_target, send

        entity, project = parse_target(options.wandb_report)
        said.append(f"report  {send(comparison, summary, entity, project)}")
    for note in comparison.notes.together():
        print(f"note: {escape_controls(note)}", file=sys.stderr)
    print(text if options.format == "json" else _safe(text), end="")
    for line in said:
        print(line, file=sys.stderr if options.format != "table" else sys.stdout)
    return 0


def asked_by_study(found: read.Found) -> list[str]:
    """Returns the metrics that a study's file asks tables to show, if one study alone is compared."""
    asked = found.studies[0].content.get("report") if len(found.studies) == 1 and not found.runs else None
    return [str(m) for m in asked] if isinstance(asked, list) else []


def _safe(text: str) -> str:
    """Escapes control characters, which names in run files may hold, but keeps line breaks."""
    return "".join(c if c == "\n" else escape_controls(c) for c in text) if not text.isprintable() else text
