"""Writes a gate's decisions: as lines for a terminal, as Markdown for a comment, as an HTML page, as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sft_lightning.core.errors import UserError, escape_controls
from sft_lightning.core.wording import plural
from sft_lightning.gate.decide import FAIL, PASS, UNDECIDED, Decision, overall
from sft_lightning.report.page import TEMPLATES
from sft_lightning.runs.directory import write_atomic
from sft_lightning.stats.formatting import fixed

TEMPLATE = "gate.html"
WORDS = {PASS: "passes", FAIL: "fails", UNDECIDED: "cannot be decided"}
MARKS = {PASS: "✅", FAIL: "❌", UNDECIDED: "❔"}


def sentence(decisions: Sequence[Decision]) -> str:
    """The verdict on all requirements: `passes: 2 of 2 requirements are shown`."""
    verdict = overall(decisions)
    counts = {name: sum(d.verdict == name for d in decisions) for name in WORDS}
    total = plural(len(decisions), "requirement")
    if verdict == FAIL:
        return f"fails: {counts[FAIL]} of {total} shown not to hold"
    if verdict == PASS:
        return f"passes: {counts[PASS]} of {total} shown"
    return f"cannot be decided: {counts[PASS]} of {total} shown, none shown not to hold"


def cells(d: Decision, alpha: float) -> dict[str, str]:
    """The numbers of one requirement, as texts."""
    test = d.test
    of = d.difference if d.difference is not None else d.candidate
    counts = ""
    if test.gained is not None and test.lost is not None:
        words = ("lost", "gained") if test.right_or_wrong else ("worse", "better")
        counts = f"{test.lost:,} {words[0]}, {test.gained:,} {words[1]}"
    return {
        "verdict": d.verdict,
        "requirement": d.requirement.text + (f" ({d.where})" if d.where else ""),
        "base": "" if d.base is None else fixed(d.base, 4),
        "candidate": fixed(d.candidate, 4),
        "difference": "" if d.difference is None else fixed(of, 4, sign=True),
        "interval": f"[{fixed(d.low, 4)}, {fixed(d.high, 4)}]",
        "n": f"{test.n:,}" if d.counted == "sample" else plural(test.n, d.counted),
        "samples": counts,
        "reason": d.reason,
        "note": d.note,
        "level": f"{1 - 2 * alpha:.0%}",
    }


def lines(decisions: Sequence[Decision], alpha: float) -> list[str]:
    """One line for each requirement, one for its reason, and the verdict."""
    said = []
    for d in decisions:
        c = cells(d, alpha)
        numbers = [f"base {c['base']}, candidate {c['candidate']}, difference {c['difference']} {c['interval']}"]
        if d.base is None:
            numbers = [f"candidate {c['candidate']} {c['interval']}"]
        numbers += [f"n {c['n']}", *([c["samples"]] if c["samples"] else [])]
        said.append(f"{c['verdict']:<10}{c['requirement']}   {', '.join(numbers)}")
        said += [f"{'':<10}{c['reason']}", *([f"{'':<10}note: {c['note']}"] if c["note"] else [])]
    said.append(f"gate      {sentence(decisions)}")
    return [escape_controls(line) for line in said]


def markdown(decisions: Sequence[Decision], about: dict[str, Any]) -> str:
    """A table for a comment on a change."""
    rows = [
        f"### {MARKS[overall(decisions)]} The gate {sentence(decisions)}",
        "",
        f"`{about['candidate']}`" + (f" against `{about['against']}`" if about["against"] else ""),
        "",
        f"| | requirement | base | candidate | difference, {1 - 2 * about['alpha']:.0%} interval | n | samples | reason |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for d in decisions:
        c = {name: text.replace("|", "\\|") for name, text in cells(d, about["alpha"]).items()}
        reason = c["reason"] + (f" ({c['note']})" if c["note"] else "")
        shown = f"{c['difference']} {c['interval']}".strip()
        rows.append(
            f"| {MARKS[d.verdict]} | `{c['requirement']}` | {c['base']} | {c['candidate']} | {shown} | {c['n']} | "
            f"{c['samples']} | {reason} |"
        )
    return "\n".join(rows) + "\n"


def html(decisions: Sequence[Decision], about: dict[str, Any]) -> str:
    """A page that works offline."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template(TEMPLATE).render(
        **about,
        verdict=overall(decisions),
        sentence=sentence(decisions),
        rows=[cells(d, about["alpha"]) for d in decisions],
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
    )


def to_json(decisions: Sequence[Decision], about: dict[str, Any]) -> str:
    """All numbers."""
    found = {**about, "verdict": overall(decisions), "requirements": [d.to_dict() for d in decisions]}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


def write(option: str, path: Path, text: str) -> None:
    """Writes a file. Raises UserError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        raise UserError(option, f"{path} cannot be written: {error.strerror}", "choose another file") from None
