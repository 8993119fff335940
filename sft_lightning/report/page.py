"""Writes the comparison as one self-contained HTML file with data, figures and JavaScript (Vega's and its own)."""

import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import on_test
from sft_lightning.report import theme
from sft_lightning.report.catalogue import all_data, catalogue, start
from sft_lightning.report.error_analysis import MEASURES
from sft_lightning.report.from_study import as_mapping
from sft_lightning.report.metrics import words
from sft_lightning.report.model import Comparison, setting_text
from sft_lightning.report.read import number_or_none
from sft_lightning.report.sets import Sets
from sft_lightning.report.summary import Row, answers, rounded, shown
from sft_lightning.report.vega_script import vega

TEMPLATES = Path(__file__).parent / "templates"
SECTIONS = {
    "plane": "Learned × kept",
    "curves": "While training",
    "amount": "By amount of labelled data",
    "forgetting": "Forgetting",
    "layers": "Drift by layer",
    "changed": "What changed",
    "cost": "Cost",
    "settings": "Settings that differ",
    "points": "All points",
    "statistics": "Statistics",
}
ABSENT = {
    "plane": "No run has both a learned and a kept metric.",
    "forgetting": "No run measured what its source metric lost. That needs source data: set retention: in the config.",
    "layers": "No run has drift by layer. It is in details.json, which testing writes.",
    "curves": "No run has a metrics.jsonl with measurements.",
}


def write_page(path: Path, comparison: Comparison, rows: list[Row]) -> Path:
    """Writes the page; returns its path. Raises UserError if it cannot be written."""
    text = page(comparison, rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError("--html", f"{path} cannot be written: {error.strerror}", "choose another file") from None
    return path


def page(comparison: Comparison, rows: list[Row]) -> str:
    """The page's HTML."""
    sets = Sets(comparison, rows)
    data = all_data(sets)
    figures = catalogue(data, sets.amount())
    content = {
        "title": comparison.title,
        "cells": [
            {"label": comparison.label(c), "rest": sets.rest(i), "split": sets.split(i)}
            for i, c in enumerate(comparison.cells)
        ],
        "arms": comparison.arms,
        "metrics": [
            {"name": m, "words": words(m), "test": words(on_test(m)), "better": comparison.info(m).better}
            for m in sets.metrics
        ],
        "measures": {m: t for m, t in MEASURES.items() if any(r["measure"] == m for r in data["layers"])},
        "state": start(comparison, sets, data),
        "figures": [f.plain() for f in figures],
        "data": {name: columnar(table) for name, table in data.items()},
        "themes": {
            t: {
                "config": theme.config(t),
                "colours": theme.colours(t, len(comparison.arms)),
                "on": theme.BACKGROUND[t],
                "off": theme.TEXT[t],
            }
            for t in ("light", "dark")
        },
        "shapes": theme.shapes(len(comparison.arms)),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("page.html").render(
        title=comparison.title,
        answers=answers(comparison, rows),
        cells=[comparison.label(c) for c in comparison.cells],
        facts=facts(comparison, rows),
        notes=list(comparison.notes),
        sections={k: v for k, v in SECTIONS.items() if k != "amount" or sets.amount() is not None},
        figures=figures,
        absent=ABSENT,
        changed=bool(data["matrices"] or data["samples"]),
        summary=summary(comparison, rows),
        costs=costs(comparison, rows),
        choices=choices(comparison),
        statistics=statistics(comparison),
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=script((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        vega=script(vega()),
        content=embedded(content),
    )


def columnar(table: list[dict[str, Any]]) -> dict[str, Any]:
    """A table as columns and rows, so that each name is written once."""
    columns = list(table[0]) if table else []
    return {"columns": columns, "rows": [[row[c] for c in columns] for row in table]}


def embedded(content: Any) -> Markup:
    """JSON that is safe inside a script element, as no text in it can close the element."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def script(text: str) -> Markup:
    """JavaScript that is safe inside a script element, which `</script` would close."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))


def facts(comparison: Comparison, rows: list[Row]) -> list[tuple[str, str]]:
    """The facts below the answer: numbers of runs, arms and seeds, and the metrics."""
    done = sum(p.finished for p in comparison.points)
    seeds = sorted({r.n for r in rows})
    split = rows[0].split if rows else "val"
    found = [
        ("runs", f"{done} finished" + (f" of {len(comparison.points)}" if done < len(comparison.points) else "")),
        ("arms", str(len(comparison.arms))),
        ("seeds", str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}" if seeds else "0"),
        ("learned", shown(comparison.target, split)),
        ("kept", shown(comparison.kept, split) if comparison.kept else "not measured"),
    ]
    if comparison.baseline:
        found.append(("baseline", comparison.baseline))
    return found


def summary(comparison: Comparison, rows: list[Row]) -> list[dict[str, Any]]:
    """The table of means, cell by cell."""
    metrics = [m for m in (comparison.target, comparison.kept, comparison.drift) if m is not None]
    metrics = list(dict.fromkeys(metrics))
    tables = []
    for i, cell in enumerate(comparison.cells):
        mine = [r for r in rows if r.cell is cell]
        if mine:
            heads = [shown(m, mine[0].split) for m in metrics]
            lines = [
                {
                    "row": r,
                    "values": [(r.stats[m].text() if m in r.stats else "–", m in r.best) for m in metrics],
                }
                for r in mine
            ]
            tables.append({"cell": i, "label": comparison.label(cell), "heads": heads, "lines": lines})
    return tables


def costs(comparison: Comparison, rows: list[Row]) -> list[dict[str, Any]]:
    """The mean cost of a run in each group."""
    lines = []
    for row in rows:
        cost = row.cost
        lines.append(
            {
                "cell": next(i for i, c in enumerate(comparison.cells) if c is row.cell),
                "group": row.group,
                "fit": f"{cost['fit_s']:.1f} s" if "fit_s" in cost else "–",
                "retention": f"{cost['retention_s']:.2f} s" if "retention_s" in cost else "–",
                "steps": f"{cost['steps']:,.0f}" if "steps" in cost else "–",
                "trainable": f"{cost['trainable']:,.0f}" if "trainable" in cost else "–",
                "device": cost.get("device", "–"),
            }
        )
    return lines


def choices(comparison: Comparison) -> list[dict[str, Any]]:
    """Each arm's chosen setting and the reason, from a study."""
    return [
        {
            "cell": i,
            "arm": arm,
            "setting": setting_text(as_mapping(said.get("chosen"))) or "–",
            "why": "; ".join([str(said.get("why") or "–"), *ends(said)]),
        }
        for i, cell in enumerate(comparison.cells)
        for arm, said in cell.chosen.items()
    ]


def ends(said: dict[str, Any]) -> list[str]:
    """`lr 0.01 is the highest tried`, for each tuned key whose chosen value is the lowest or highest of its range."""
    found = said.get("at_end")
    held = [as_mapping(e) for e in found] if isinstance(found, list) else []
    return [f"{setting_text({str(e.get('key')): e.get('value')})} is the {e.get('end')} tried" for e in held]


def statistics(comparison: Comparison) -> list[dict[str, Any]]:
    """Each cell's differences from its baseline, and sentences about the methods."""
    found = []
    for i, cell in enumerate(comparison.cells):
        said = as_mapping(cell.statistics)
        columns, lines = as_mapping(said.get("columns")), []
        for side in ("target", "kept"):
            entries = as_mapping(said.get("differences")).get(side)
            for entry in map(as_mapping, entries if isinstance(entries, list) else []):
                lines.append(
                    {
                        "metric": str(as_mapping(columns.get(side)).get("metric", side)),
                        "arm": str(entry.get("arm")),
                        "mean": signed(entry.get("mean")),
                        "interval": f"{signed(entry.get('low_corrected'))} to {signed(entry.get('high_corrected'))}",
                        "p": p_text(entry.get("p_corrected")),
                        "verdict": str(entry.get("verdict", "–")),
                        "n": str(entry.get("n", "–")),
                        "needed": "–" if entry.get("seeds_needed") is None else str(entry["seeds_needed"]),
                        "note": str(entry.get("note") or ""),
                    }
                )
        methods = said.get("methods")
        if lines or methods:
            found.append(
                {
                    "cell": i,
                    "label": comparison.label(cell),
                    "baseline": str(said.get("baseline", "")),
                    "lines": lines,
                    "methods": [str(m) for m in methods] if isinstance(methods, list) else [],
                }
            )
    return found


def signed(value: Any) -> str:
    """`+0.0123`, or a dash."""
    known = number_or_none(value)
    return "–" if known is None else ("+" if known > 0 else "−" if known < 0 else "") + rounded(abs(known))


def p_text(value: Any) -> str:
    """A p-value as papers write it."""
    known = number_or_none(value)
    return "–" if known is None else "< 0.001" if known < 0.001 else f"{known:.3f}"
