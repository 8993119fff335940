"""Writes the page's figures as files for papers: SVG, PDF and PNG, from the same specifications."""

import json
import re
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.report.catalogue import all_data, catalogue, filled, rows_of, start
from sft_lightning.report.model import Comparison
from sft_lightning.report.sets import Sets
from sft_lightning.report.summary import Row

PNG_SCALE = 3.0  # pixels for each of the figure's units: about 290 dots per inch in a column of a paper


def write_figures(folder: Path, comparison: Comparison, rows: list[Row], formats: list[str]) -> list[Path]:
    """Writes each figure of each cell in each format; returns the files. Raises UserError if the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError("--figures", f"{folder} cannot be made: {error.strerror}", "choose another folder") from None
    sets = Sets(comparison, rows)
    data = all_data(sets)
    written: dict[str, dict[str, Any]] = {}
    for cell in range(len(comparison.cells)):
        for figure in catalogue(data, sets.amount()):
            state = start(comparison, sets, data, cell)
            groups = dict.fromkeys(r["group"] for r in data["matrices"] if r["cell"] == cell)
            for group in groups if figure.data == "confusion" else [None]:
                state["group"] = group
                shown = rows_of(figure, data, state, sets.metrics)
                if not shown:
                    continue
                parts = [figure.id]
                if figure.data == "shots":
                    parts.append(state["rest"].partition("|")[2])
                elif len(comparison.cells) > 1:
                    parts.append(comparison.label(comparison.cells[cell]))
                written.setdefault(slug("-".join([*parts, group or ""])), filled(figure, shown, state, comparison))
    return [path for name, spec in written.items() for path in save(spec, folder / name, formats)]


def save(spec: dict[str, Any], stem: Path, formats: list[str]) -> list[Path]:
    """Writes one specification in each format."""
    import vl_convert

    text, files = json.dumps(spec), []
    for form in formats:
        path = stem.with_name(f"{stem.name}.{form}")
        if form == "svg":
            path.write_text(vl_convert.vegalite_to_svg(text), encoding="utf-8")
        elif form == "pdf":
            path.write_bytes(vl_convert.vegalite_to_pdf(text))
        else:
            path.write_bytes(vl_convert.vegalite_to_png(text, scale=PNG_SCALE))
        files.append(path)
    return files


def slug(text: str) -> str:
    """Turns any text into a file's name: at most 100 small letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:100] or "figure"
