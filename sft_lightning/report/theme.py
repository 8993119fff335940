"""Defines the look of figures: colours that colour-blind readers can distinguish, shapes, Vega's light and dark settings."""

from typing import Any

LIGHT = ("#0077c8", "#e93619", "#008b7c", "#90227e", "#818a29", "#5831aa", "#5f4742", "#863424")
DARK = ("#5fb0f0", "#f27e39", "#52d6a4", "#d678b8", "#e6d25a", "#7f89f7", "#cfe3ea", "#c9606c")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
BACKGROUND = {"light": "#ffffff", "dark": "#16191d"}
TEXT = {"light": "#23272d", "dark": "#e3e6ea"}
MUTED = {"light": "#5d646d", "dark": "#a0a8b2"}
LINE = {"light": "#e4e7eb", "dark": "#30353c"}
RAMP = {
    "light": ["#f3f6f9", "#bcd6ea", "#6ba5d0", "#2470ab", "#0a3d6b"],
    "dark": ["#20262d", "#1f4a6c", "#2c78ac", "#5eaee0", "#c9e7fb"],
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def colours(theme: str, count: int) -> list[str]:
    """A colour for each of `count` arms; eight colours repeat, with other shapes."""
    palette = LIGHT if theme == "light" else DARK
    return [palette[i % len(palette)] for i in range(count)]


def shapes(count: int) -> list[str]:
    """A shape for each of `count` arms; there are seven, so that a repeated colour has another shape."""
    return [SHAPES[i % len(SHAPES)] for i in range(count)]


def config(theme: str) -> dict[str, Any]:
    """Vega-Lite's `config`."""
    text, muted, line = TEXT[theme], MUTED[theme], LINE[theme]
    return {
        "background": BACKGROUND[theme],
        "font": FONT,
        "padding": 6,
        "view": {"stroke": None},
        "axis": {
            "labelColor": muted,
            "titleColor": text,
            "titleFontWeight": 500,
            "titleFontSize": 12,
            "labelFontSize": 11,
            "titlePadding": 10,
            "gridColor": line,
            "domainColor": line,
            "tickColor": line,
            "labelLimit": 150,
        },
        "legend": {
            "labelColor": text,
            "titleColor": muted,
            "labelFontSize": 12,
            "titleFontSize": 11,
            "titleFontWeight": 500,
            "labelLimit": 220,
            "titleLimit": 420,
            "symbolSize": 90,
            "columnPadding": 16,
            "rowPadding": 5,
        },
        "title": {"color": text, "fontSize": 13, "fontWeight": 600, "anchor": "start"},
        "range": {"heatmap": RAMP[theme], "ramp": RAMP[theme]},
        "text": {"color": muted, "font": FONT},
        "rule": {"color": muted},
        "style": {
            "ink": {"stroke": text, "color": text},
            "front": {"stroke": muted, "color": muted},
            "note": {"fontSize": 11},
        },
    }
