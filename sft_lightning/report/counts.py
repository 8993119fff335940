"""Tells on how many samples a cell's numbers were measured, from the records' `n`."""

from math import sqrt

from sft_lightning.core.metric_info import COUNTED
from sft_lightning.report.summary import Row


def counts(rows: list[Row]) -> dict[str, str]:
    """Samples measured, by 'val' or 'test', 'retention' and 'drift': `450`, or `320 to 450` if runs differ."""
    found: dict[str, str] = {}
    for column in COUNTED[rows[0].split] if rows else ():
        known = sorted({int(p.values[f"n/{column}"]) for r in rows for p in r.points if f"n/{column}" in p.values})
        if known:
            name = column.removeprefix("test/").replace("_", " ")
            found[name] = f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"
    return found


def counts_line(rows: list[Row]) -> str:
    """`measured on 450 test samples, retention on 451, drift on 450`, and standard errors; empty if no record has it."""
    found = counts(rows)
    first, *others = found.items() or [("", "")]
    if first[0] not in ("val", "test"):
        return ""
    parts = [f"measured on {first[1]} {first[0]} sample{'' if first[1] == '1' else 's'}"]
    measured = ", ".join([*parts, *(f"{name} on {number}" for name, number in others)])
    return "; ".join([measured, *errors(rows)])


def errors(rows: list[Row]) -> list[str]:
    """What the spread over seeds, which share their test samples, does not show: how an accuracy varies with the samples.

    One phrase with the largest standard error of a run's accuracies; none without accuracies.
    """
    split, found = rows[0].split, []
    source = "test/retention" if split == "test" else "retention"
    for column, name in ((split, f"{split}/accuracy"), (source, f"{source}/accuracy")):
        held = [
            (p.values[name], p.values[f"n/{column}"])
            for r in rows
            for p in r.points
            if {name, f"n/{column}"} <= p.values.keys()
        ]
        if worst := [sqrt(max(0.0, a * (1 - a)) / n) for a, n in held if n > 0]:
            found.append(f"{100 * max(worst):.1f} points in {name}")
    return [f"standard error over samples at most {' and '.join(found)}"] if found else []
