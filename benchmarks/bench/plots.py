"""Draws the curves of `growth.py` as one SVG: points measured, and the expected law as a line, both on logarithmic axes."""

import math
from html import escape
from typing import Any

from benchmarks.bench.growth import line

WIDE, HIGH, LEFT, TOP, GAP = 250, 150, 52, 46, 34
INK, LAW, MUTED = "#1f4e79", "#c0504d", "#666666"
STYLE = "font-family:sans-serif;font-size:11px"


def svg(curves: dict[str, Any]) -> str:
    """A row of two panels, time and memory, for each curve."""
    height, width = TOP + len(curves) * (HIGH + TOP), 2 * (WIDE + LEFT + GAP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="{STYLE}">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    parts.append(text(LEFT, 18, "measured", INK) + text(LEFT + 70, 18, "— the law, through the ends", LAW))
    for row, (name, held) in enumerate(curves.items()):
        for column, (key, unit) in enumerate((("ms", "CPU ms a step"), ("mib", "MiB"))):
            law = held["law_of_time" if key == "ms" else "law_of_memory"]
            x, y = LEFT + column * (WIDE + LEFT + GAP), TOP + row * (HIGH + TOP)
            parts.append(panel(x, y, name, f"{unit}: {law}", held["x"], held[key]))
    return "\n".join([*parts, "</svg>", ""])


def panel(left: int, top: int, name: str, title: str, x: list[float], y: list[float]) -> str:
    """One plot at a place."""
    a, b = line(x, y)
    steps = [x[0] * (x[-1] / x[0]) ** (i / 40) for i in range(41)]
    law = [(at, a + b * at) for at in steps]
    low, high = min(y) / 1.3, max(y) * 1.3

    def place(at: float, value: float) -> tuple[float, float]:
        share = math.log(at / x[0]) / math.log(x[-1] / x[0])
        up = math.log(max(value, low) / low) / math.log(high / low)
        return round(left + share * WIDE, 1), round(top + HIGH - up * HIGH, 1)

    parts = [f'<rect x="{left}" y="{top}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#cccccc"/>']
    parts.append(text(left, top - 6, title, MUTED))
    points = " ".join(f"{px},{py}" for px, py in (place(*p) for p in law))
    parts.append(f'<polyline points="{points}" fill="none" stroke="{LAW}"/>')
    for at, value in zip(x, y, strict=True):
        px, py = place(at, value)
        parts.append(f'<circle cx="{px}" cy="{py}" r="3" fill="{INK}"><title>{at:g}: {value:g}</title></circle>')
    for value in (min(y), max(y)):
        parts.append(text(left - 6, place(x[0], value)[1] + 4, f"{value:.3g}", MUTED, "end"))
    for at, anchor in ((x[0], "start"), (x[-1], "end")):
        parts.append(text(place(at, low)[0], top + HIGH + 14, f"{at:,.0f}", MUTED, anchor))
    parts.append(text(left + WIDE / 2, top + HIGH + 14, name, INK, "middle"))
    return "\n".join(parts)


def text(x: float, y: float, said: str, colour: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}">{escape(said)}</text>'
