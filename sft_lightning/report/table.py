"""Writes the comparison as text: a table for the terminal, CSV, JSON, LaTeX (booktabs) or Markdown."""

import csv
import io
import json
import shutil
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sft_lightning.core.metric_info import on_validation
from sft_lightning.report.counts import counts, counts_line
from sft_lightning.report.model import Comparison
from sft_lightning.report.summary import Row, answers, shown

FORMATS = ("table", "csv", "json", "latex", "markdown")


def columns(comparison: Comparison, metrics: list[str] | None = None) -> list[str]:
    """The metrics shown, by validation's names: those of `metrics`, or else target, kept and drift."""
    asked = [on_validation(m) for m in metrics or []]
    default = [comparison.target, comparison.kept, comparison.drift]
    return list(dict.fromkeys(asked or [m for m in default if m is not None]))


def render(form: str, comparison: Comparison, found: list[Row], metrics: list[str], width: int | None = None) -> str:
    """The text of `form`, one of FORMATS."""
    if form == "csv":
        return as_csv(comparison, found)
    if form == "json":
        return as_json(comparison, found)
    if form == "latex":
        return as_latex(comparison, found, metrics)
    if form == "markdown":
        return as_markdown(comparison, found, metrics)
    return as_table(comparison, found, metrics, width)


def cells_of(comparison: Comparison, found: list[Row]) -> list[tuple[str, list[Row]]]:
    """(label, rows) of each cell that has rows."""
    pairs = [(comparison.label(c), [r for r in found if r.cell is c]) for c in comparison.cells]
    return [(label, mine) for label, mine in pairs if mine]


def _entries(row: Row, metrics: list[str]) -> list[str]:
    """Metrics, seconds and seeds of a row."""
    values = [(row.stats[m].text() + (" *" if m in row.best else "")) if m in row.stats else "–" for m in metrics]
    seconds = f"{row.cost['fit_s']:.1f} s" if "fit_s" in row.cost else "–"
    return [*values, seconds, str(row.n) if row.finished else "none finished"]


def _about(mine: list[Row], metrics: list[str]) -> tuple[list[str], bool]:
    """Headings, and whether there is a column of settings."""
    has_setting = any(r.setting and r.group == r.arm for r in mine)
    first = ["arm", "setting"] if has_setting else ["arm"]
    return [*first, *(shown(m, mine[0].split) for m in metrics), "fit", "seeds"], has_setting


def _names(row: Row, has_setting: bool) -> list[str]:
    return [row.group, row.setting if row.group == row.arm else ""] if has_setting else [row.group]


LEAST = 80  # characters
LEGEND = "mean ± standard deviation over seeds; * best mean; ◆ no other arm is better on both target and kept"


def as_table(comparison: Comparison, found: list[Row], metrics: list[str], width: int | None = None) -> str:
    """The text for a terminal: a table for each cell, with its answer."""
    out = io.StringIO()
    width = width or max(LEAST, shutil.get_terminal_size((110, 40)).columns)
    console = Console(file=out, width=width, highlight=False, markup=False, emoji=False, color_system=None)
    said = dict(answers(comparison, found))
    hidden: list[str] = []
    main = (comparison.target, comparison.kept)
    for label, mine in cells_of(comparison, found):
        title = label if len(comparison.cells) > 1 else None
        here, costs, table = list(metrics), True, _grid(mine, metrics, title)
        while least_width(console, table) > width and (
            costs or len(here) > 1
        ):  # the least important column is removed first
            aside = [m for m in here[1:] if m not in main]
            if aside or not costs:
                hidden.append(shown(leaves := (aside or here)[-1], mine[0].split))
                here.remove(leaves)
            else:
                hidden, costs = [*hidden, "fit", "seeds"], False
            table = _grid(mine, here, title, costs)
        console.print(table)
        console.print(Text(said.get(label, "")), soft_wrap=True)
        if line := counts_line(mine):
            console.print(Text(line), soft_wrap=True)
        console.print()
    if hidden:
        names = ", ".join(dict.fromkeys(hidden))
        console.print(
            Text(f"{width} columns have no room for {names}: use a wider terminal, or --format csv"), soft_wrap=True
        )
    console.print(Text(LEGEND), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n") + "\n"


def _grid(mine: list[Row], metrics: list[str], title: str | None, costs: bool = True) -> Table:
    """The table of a cell's rows. Names and numbers are not wrapped; settings are, between words if possible."""
    heads, has_setting = _about(mine, metrics)
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="", pad_edge=False)
    lines = []
    for row in mine:
        names = _names(row, has_setting)
        names[0] = f"◆ {names[0]}" if row.front else f"  {names[0]}"
        lines.append([*names, *_entries(row, metrics)][: None if costs else -2])
    for i, head in enumerate(heads[: None if costs else -2]):
        left, setting = i < 1 + has_setting, i == 1 and has_setting
        head = head if left else "/\n".join(head.rsplit("/", 1)) if len(head) > 16 else head
        texts = [*head.split("\n"), *(line[i] for line in lines)]
        least = min(max(len(w) for t in texts for w in t.split()), 24) if setting else max(map(len, texts))
        justify: Any = "left" if left else "right"
        table.add_column(Text(head), justify=justify, overflow="fold", no_wrap=not setting, min_width=least)
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def least_width(console: Console, table: Table) -> int:
    """Characters that a table needs."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).minimum


def tidy(comparison: Comparison, found: list[Row]) -> list[dict[str, Any]]:
    """A flat mapping for each row: its names, the mean, std and n of every metric, and its cost."""
    several = len({c.study for c in comparison.cells}) > 1
    records = []
    for row in found:
        about: dict[str, Any] = {"study": row.cell.study} if several else {}
        about |= dict(row.cell.at)
        about |= {"arm": row.arm, "setting": row.setting, "variant": row.variant, "seeds": row.n, "split": row.split}
        about["on_front"] = int(row.front)
        for metric, value in row.stats.items():
            name = shown(metric, row.split)
            about |= {name: value.mean, f"{name} std": value.std, f"{name} n": value.n}
        about |= {f"samples {column}": number for column, number in counts([row]).items()}
        records.append(about | row.cost)
    return records


def as_csv(comparison: Comparison, found: list[Row]) -> str:
    """One line for each arm × cell; an empty cell is not known."""
    records = tidy(comparison, found)
    names = list(dict.fromkeys(k for r in records for k in r))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def as_json(comparison: Comparison, found: list[Row]) -> str:
    """An object: target, kept, answer and notes, and `rows` as in the CSV."""
    content = {
        "schema": 1,
        "target": comparison.target,
        "kept": comparison.kept,
        "baseline": comparison.baseline,
        "answer": [{"cell": label, "text": text} for label, text in answers(comparison, found)],
        "rows": tidy(comparison, found),
        "notes": list(comparison.notes),
    }
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "–": "--",
    "◆": r"$\diamond$",
    **{c: "\\" + c for c in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\n": " ",
}


def latex(text: str) -> str:
    """Text escaped for LaTeX."""
    return "".join(LATEX.get(c, c) for c in text)


def as_latex(comparison: Comparison, found: list[Row], metrics: list[str]) -> str:
    """A booktabs table for each cell; the best mean of a column is bold."""
    parts = []
    for label, mine in cells_of(comparison, found):
        heads, has_setting = _about(mine, metrics)
        first = 1 + has_setting
        lines = [f"% {' '.join(label.split())}: {LEGEND}; needs \\usepackage{{booktabs}}"]
        lines += [rf"\begin{{tabular}}{{{'l' * first}{'r' * (len(heads) - first)}}}", r"\toprule"]
        lines += [" & ".join(map(latex, heads)) + r" \\", r"\midrule"]
        for row in mine:
            texts = [latex(t) for t in _names(row, has_setting)]
            for entry in _entries(row, metrics):
                value = latex(entry.removesuffix(" *"))
                texts.append(rf"\textbf{{{value}}}" if entry.endswith(" *") else value)
            lines.append(" & ".join(texts) + r" \\")
        parts.append("\n".join([*lines, r"\bottomrule", r"\end{tabular}"]))
    return "\n\n".join(parts) + "\n"


def markdown(text: str) -> str:
    """Text escaped for Markdown."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + c if c in "\\`*_[]|~" else c for c in text)


def as_markdown(comparison: Comparison, found: list[Row], metrics: list[str]) -> str:
    """A table for each cell, the best mean of a column bold, then the answer."""
    said = dict(answers(comparison, found))
    parts = []
    for label, mine in cells_of(comparison, found):
        heads, has_setting = _about(mine, metrics)
        lines = [f"**{markdown(label)}**", ""] if len(comparison.cells) > 1 else []
        lines.append("| " + " | ".join(map(markdown, heads)) + " |")
        lines.append("|" + "|".join([" --- "] * (1 + has_setting) + [" ---: "] * (len(heads) - 1 - has_setting)) + "|")
        for row in mine:
            texts = [markdown(t) for t in _names(row, has_setting)]
            for entry in _entries(row, metrics):
                value = markdown(entry.removesuffix(" *"))
                texts.append(f"**{value}**" if entry.endswith(" *") else value)
            lines.append("| " + " | ".join(texts) + " |")
        line = counts_line(mine)
        parts.append("\n".join([*lines, "", markdown(said.get(label, "")), *(["", markdown(line)] if line else [])]))
    return "\n\n".join(parts) + "\n"
