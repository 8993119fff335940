"""Makes each figure's Vega-Lite specification with Altair, without data; one function each.

A specification reads the data set `rows`, and has placeholders (see `fill`): `@x` and `@y` for names of metrics,
`[@arms]`, `[@colours]` and `[@shapes]` for the arms shown. The page fills them in when its controls change.
"""

from typing import Any

import altair as alt

WIDTH = 520  # for files; on the page a figure is as wide as its box
ROWS = alt.NamedData("rows")
Spec = dict[str, Any]
AXIS = alt.Axis(tickCount=6, labelOverlap="greedy", labelSeparation=6)


def _legend(legend: bool) -> alt.Legend | None:
    """One legend for all layers: Vega-Lite merges equal legends, and drops the legend if a layer has none."""
    return alt.Legend(title=None, orient="bottom", symbolOpacity=1) if legend else None


def _colour(legend: bool = True) -> alt.Color:
    shown = _legend(legend)
    return alt.Color("arm:N", scale=alt.Scale(domain=["@arms"], range=["@colours"]), legend=shown)


def _shape(legend: bool = True) -> alt.Shape:
    shown = _legend(legend)
    return alt.Shape("arm:N", scale=alt.Scale(domain=["@arms"], range=["@shapes"]), legend=shown)


def _spec(chart: Any, height: int | dict[str, Any]) -> Spec:
    made: Spec = chart.properties(width=WIDTH, height=height).to_dict()
    made.pop("config", None)
    return made


def _x(field: str = "x", title: str = "@x") -> alt.X:
    return alt.X(f"{field}:Q", title=title, scale=alt.Scale(zero=False, nice=False, padding=16), axis=AXIS)


def _y(field: str = "y", title: str = "@y") -> alt.Y:
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False, nice=False, padding=16), axis=AXIS)


def _tip(*fields: str | tuple[str, str]) -> list[alt.Tooltip]:
    tips = []
    for field in fields:
        name, title = field if isinstance(field, tuple) else (field, field.partition(":")[0])
        tips.append(
            alt.Tooltip(name, title=title, format=".4~g") if name.endswith(":Q") else alt.Tooltip(name, title=title)
        )
    return tips


def plane() -> Spec:
    """Learned × kept: seeds as small marks, means as large ones with bars of one standard deviation, dashed Pareto front.

    Rows: arm, group, seed, x, y. The parameters `xsign` and `ysign` are +1 if more is better, −1 if less is. A sign of 0
    (unknown direction) leaves the front out.
    """
    base = alt.Chart(ROWS)
    means = base.transform_aggregate(
        mx="mean(x)", my="mean(y)", sx="stdev(x)", sy="stdev(y)", n="count()", groupby=["arm", "group"]
    ).transform_calculate(  # a single seed has no spread, so its bar has length 0
        x0="datum.mx - (datum.n > 1 ? datum.sx : 0)",
        x1="datum.mx + (datum.n > 1 ? datum.sx : 0)",
        y0="datum.my - (datum.n > 1 ? datum.sy : 0)",
        y1="datum.my + (datum.n > 1 ? datum.sy : 0)",
    )
    outward: list[alt.SortField | dict[str, str]] = [
        alt.SortField("fx", order="descending"),
        alt.SortField("fy", order="descending"),
    ]
    front = (
        means.transform_calculate(fx="xsign * datum.mx", fy="ysign * datum.my")
        .transform_window(top="max(fy)", frame=[None, 0], sort=outward)
        .transform_window(above="lag(top)", sort=outward)
        .transform_filter("xsign * ysign != 0 && (!isValid(datum.above) || datum.fy > datum.above)")
        .mark_line(strokeDash=[5, 4], strokeWidth=1.4, style="front", tooltip=None)
        .encode(x=_x("mx"), y=_y("my"), order="fx:Q")
    )
    seeds = base.mark_point(filled=True, size=34, opacity=0.38).encode(
        x=_x(),
        y=_y(),
        color=_colour(),
        shape=_shape(),
        tooltip=_tip("group:N", "setting:N", "seed:N", ("x:Q", "@x"), ("y:Q", "@y")),
    )
    across = means.mark_rule(strokeWidth=1.6, opacity=0.9).encode(x=_x("x0"), x2="x1:Q", y=_y("my"), color=_colour())
    upright = means.mark_rule(strokeWidth=1.6, opacity=0.9).encode(x=_x("mx"), y=_y("y0"), y2="y1:Q", color=_colour())
    tips = _tip(
        "group:N", ("mx:Q", "mean @x"), ("sx:Q", "std @x"), ("my:Q", "mean @y"), ("sy:Q", "std @y"), ("n:Q", "runs")
    )
    centre = means.mark_point(filled=True, size=150, opacity=1).encode(
        x=_x("mx"), y=_y("my"), color=_colour(), shape=_shape(), tooltip=tips
    )
    chart = alt.layer(front, seeds, across, upright, centre).add_params(
        alt.param(name="xsign", value=1), alt.param(name="ysign", value=1)
    )
    return _spec(chart, 360)


def path() -> Spec:
    """Learned × kept on validation for every setting of each arm, joined in order of strength; a ring marks the chosen one.

    Rows: arm, setting, label, by_rate, strand, strength, seed, chosen, x, y.
    """
    means = alt.Chart(ROWS).transform_aggregate(
        mx="mean(x)",
        my="mean(y)",
        n="count()",
        chosen="max(chosen)",
        groupby=["arm", "setting", "label", "by_rate", "strand", "strength"],
    )
    line = means.mark_line(strokeWidth=1.6, opacity=0.75, tooltip=None).encode(
        x=_x("mx"), y=_y("my"), order="strength:Q", detail="strand:N", color=_colour()
    )
    marks = means.mark_point(filled=True, size=70, opacity=1).encode(
        x=_x("mx"),
        y=_y("my"),
        color=_colour(),
        shape=_shape(),
        tooltip=_tip("arm:N", "setting:N", ("mx:Q", "mean @x"), ("my:Q", "mean @y"), ("n:Q", "runs")),
    )
    chosen = alt.condition("datum.chosen == 1", alt.value(1), alt.value(0))
    ring = means.mark_point(size=260, strokeWidth=1.6, filled=False, style="ink", shape="circle", tooltip=None).encode(
        x=_x("mx"), y=_y("my"), opacity=chosen
    )
    # the points of learning rates lie close together, so only the chosen one has room for a label
    words = (
        means.transform_calculate(words="datum.chosen == 1 || !datum.by_rate ? datum.label : ''")
        .mark_text(align="left", dx=11, dy=-9, style="note", tooltip=None)
        .encode(x=_x("mx"), y=_y("my"), text="words:N", color=_colour())
    )
    return _spec(alt.layer(line, marks, ring, words), 360)


def _band(x: alt.X, field: str, point: bool) -> Any:
    """Lines of means with a band of one standard deviation. Rows: arm, group, mean, low, high, n, and `field` along x."""
    base = alt.Chart(ROWS)
    band = base.mark_area(opacity=0.14, tooltip=None).encode(
        x=x, y=_y("low"), y2="high:Q", color=_colour(), detail="group:N"
    )
    tips = _tip("group:N", f"{field}:Q", ("mean:Q", "mean"), "n:Q")
    line = base.mark_line(strokeWidth=2).encode(x=x, y=_y("mean"), color=_colour(), detail="group:N", tooltip=tips)
    marks = base.mark_point(filled=True, size=90 if point else 42, opacity=1).encode(
        x=x, y=_y("mean"), color=_colour(), shape=_shape(), tooltip=tips
    )
    return alt.layer(band, line, marks)


def curve() -> Spec:
    """A metric over steps. Rows: arm, group, step, mean, low, high, n."""
    x = alt.X("step:Q", title="step", scale=alt.Scale(nice=False, padding=6), axis=alt.Axis(tickCount=6))
    return _spec(_band(x, "step", False), 250)


def shots(title: str, wide: bool) -> Spec:
    """A metric over the amount of labelled data; `wide`: on a logarithmic scale. Rows as for `curve`, with amount."""
    scale = alt.Scale(type="log", nice=False, padding=14) if wide else alt.Scale(zero=False, nice=False, padding=14)
    x = alt.X("amount:Q", title=title, scale=scale, axis=alt.Axis(tickCount=6, format="~g"))
    return _spec(_band(x, "amount", True), 250)


def _zero(base: alt.Chart) -> Any:
    """A vertical line at 0."""
    at = base.transform_aggregate(n="count()").transform_calculate(zero="0")
    return at.mark_rule(strokeWidth=1.2, tooltip=None).encode(x=alt.X("zero:Q", title=""))


def forgetting() -> Spec:
    """Forgetting of each arm: seeds as small marks, their mean as a large one. Rows: arm, group, seed, value."""
    base = alt.Chart(ROWS)
    y = alt.Y("group:N", title=None, sort=None, axis=alt.Axis(grid=True, domain=False, ticks=False, labelPadding=8))
    x = alt.X("value:Q", title="forgetting (before − after)", scale=alt.Scale(nice=False, padding=12), axis=AXIS)
    zero = _zero(base)
    seeds = base.mark_point(filled=True, size=60, opacity=0.5).encode(
        x=x,
        y=y,
        color=_colour(False),
        shape=_shape(False),
        tooltip=_tip("group:N", "seed:N", ("value:Q", "forgetting")),
    )
    tips = _tip("group:N", ("m:Q", "mean"), ("s:Q", "std"), "n:Q")
    means = base.transform_aggregate(
        m="mean(value)", s="stdev(value)", n="count()", groupby=["arm", "group"]
    ).transform_calculate(low="datum.m - (datum.n > 1 ? datum.s : 0)", high="datum.m + (datum.n > 1 ? datum.s : 0)")
    bars = means.mark_rule(strokeWidth=1.8).encode(x=alt.X("low:Q", title=""), x2="high:Q", y=y, color=_colour(False))
    centre = means.mark_point(filled=True, size=140, opacity=1).encode(
        x=alt.X("m:Q", title=""), y=y, color=_colour(False), shape=_shape(False), tooltip=tips
    )
    return _spec(alt.layer(zero, seeds, bars, centre), {"step": 34})


def differences() -> Spec:
    """Each arm's mean difference from the baseline with its interval, corrected for the number of tests; 0 is no difference.

    Rows: arm, mean, low, high, verdict, p.
    """
    base = alt.Chart(ROWS)
    y = alt.Y("arm:N", title=None, sort=None, axis=alt.Axis(grid=True, domain=False, ticks=False, labelPadding=8))
    zero = _zero(base)
    tips = _tip(
        "arm:N", ("mean:Q", "difference"), ("low:Q", "from"), ("high:Q", "to"), ("p:Q", "corrected p"), "verdict:N"
    )
    x = alt.X("low:Q", title="@title", scale=alt.Scale(nice=False, padding=12), axis=AXIS)
    bars = base.mark_rule(strokeWidth=2.4).encode(x=x, x2="high:Q", y=y, color=_colour(False), tooltip=tips)
    centre = base.mark_point(filled=True, size=120, opacity=1).encode(
        x=alt.X("mean:Q", title=""), y=y, color=_colour(False), shape=_shape(False), tooltip=tips
    )
    return _spec(alt.layer(zero, bars, centre), {"step": 34})


def layers(many: bool) -> Spec:
    """How far each layer's weights moved, arms × layers in forward order. Rows: group, layer, index, value, n.

    `many`: their names are printed at an angle.
    """
    chart = (
        alt.Chart(ROWS)
        .mark_rect(cornerRadius=2)
        .encode(
            x=alt.X(
                "layer:N",
                sort=alt.SortField("index"),
                title="layer, from input to output",
                axis=alt.Axis(labelAngle=-60 if many else 0, labelOverlap="greedy", domain=False, ticks=False),
                scale=alt.Scale(paddingInner=0.04),
            ),
            y=alt.Y(
                "group:N",
                sort=None,
                title=None,
                axis=alt.Axis(domain=False, ticks=False),
                scale=alt.Scale(paddingInner=0.06),
            ),
            color=alt.Color(
                "value:Q",
                scale=alt.Scale(zero=True),
                legend=alt.Legend(
                    title="@measure", orient="top", gradientLength=180, gradientThickness=10, tickCount=4, format=".2~f"
                ),
            ),
            tooltip=_tip("group:N", "layer:N", ("value:Q", "@measure"), "n:Q"),
        )
    )
    return _spec(chart, {"step": 30})


def confusion() -> Spec:
    """Counts of true × predicted classes over seeds, coloured by the share of the true class.

    Rows: true, predicted, count, share, order.
    """
    axis = alt.Axis(domain=False, ticks=False, grid=False, labelOverlap="greedy", labelLimit=90, labelAngle=0)
    order = alt.SortField("order")
    base = alt.Chart(ROWS).encode(
        x=alt.X("predicted:N", sort=alt.SortField("column"), title="predicted", axis=axis),
        y=alt.Y("true:N", sort=order, title="true", axis=axis),
    )
    tiles = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color(
            "share:Q",
            scale=alt.Scale(domain=[0, 1], type="sqrt"),
            legend=None,
        ),
        tooltip=_tip("true:N", "predicted:N", "count:Q", "share:Q"),
    )
    # no numbers in empty tiles, or if there are too many classes to read them
    texts = (
        base.transform_filter("datum.count > 0 && datum.classes <= 20")
        .mark_text(fontSize=11, tooltip=None)
        .encode(
            text="count:Q",
            color=alt.condition("datum.share > 0.3", alt.value("@on"), alt.value("@off")),
        )
    )
    return _spec(alt.layer(tiles, texts), 300)


def fill(spec: Any, values: dict[str, Any]) -> Any:
    """A copy of a specification with its placeholders filled: a text `@x` by its value, a list `["@arms"]` by a list."""
    if isinstance(spec, dict):
        return {k: fill(v, values) for k, v in spec.items()}
    if isinstance(spec, list):
        if len(spec) == 1 and isinstance(spec[0], str) and isinstance(values.get(spec[0]), list):
            return values[spec[0]]
        return [fill(v, values) for v in spec]
    return values.get(spec, spec) if isinstance(spec, str) else spec
