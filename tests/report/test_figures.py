"""The figures: their rows, their colours, and their files."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import vl_convert

from sft_lightning.report import read, theme
from sft_lightning.report.build import compare as build
from sft_lightning.report.catalogue import all_data, catalogue, filled, rows_of, start
from sft_lightning.report.model import Comparison
from sft_lightning.report.sets import Sets, thinned, together
from sft_lightning.report.summary import rows
from tests.report.conftest import Compare
from tests.report.written import write_run

ALL = {
    "plane",
    "path",
    "curve-x",
    "curve-y",
    "amount-x",
    "amount-y",
    "forgetting",
    "layers",
    "confusion-target",
    "confusion-before",
    "confusion-after",
    "difference-target",
    "difference-kept",
}


def opened(path: Path) -> tuple[Comparison, Sets]:
    comparison = build(read.collect([str(path)]))
    return comparison, Sets(comparison, rows(comparison))


@pytest.fixture(scope="module")
def of_study(study: Path) -> tuple[Comparison, Sets]:
    return opened(study)


def test_a_study_has_every_figure(of_study: tuple[Comparison, Sets]) -> None:
    _, sets = of_study
    assert {f.id for f in catalogue(all_data(sets), sets.amount())} == ALL


@pytest.mark.one_in(3)
@pytest.mark.parametrize("name", sorted(ALL))
def test_each_figure_is_a_valid_specification_with_marks_for_its_rows(
    of_study: tuple[Comparison, Sets], name: str
) -> None:
    comparison, sets = of_study
    data = all_data(sets)
    figure = next(f for f in catalogue(data, sets.amount()) if f.id == name)
    state = start(comparison, sets, data)
    found = rows_of(figure, data, state, sets.metrics)
    spec = filled(figure, found, state, comparison)
    assert "@" not in json.dumps({**spec, "datasets": {}, "config": {}}).replace('"@context"', ""), "a place is left"
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    marks = len(re.findall(r"<(?:path|rect|line|text)\b", svg))
    assert marks > 20 and "NaN" not in svg and "undefined" not in svg, f"{marks} marks for {len(found)} rows"
    assert set(figure.fields) <= set(found[0]), "the table's columns are those of the rows"


def test_the_plane_marks_each_chosen_seed_and_the_path_each_setting(of_study: tuple[Comparison, Sets]) -> None:
    comparison, sets = of_study
    data = all_data(sets)
    by_id = {f.id: f for f in catalogue(data, sets.amount())}
    state = start(comparison, sets, data, 1)
    plane, path = (rows_of(by_id[name], data, state, sets.metrics) for name in ("plane", "path"))
    assert len(plane) == 5 * 3 and len(path) == 14 * 3
    assert {(r["arm"], r["setting"]) for r in path if r["chosen"]} == {(r["arm"], r["setting"]) for r in plane}
    order = [r["strength"] for r in path if r["arm"] == "l2sp" and r["seed"] == "0"]
    assert sorted(order) == [0.001, 0.01, 0.1], "the path runs in order of strength"


@pytest.mark.slow
def test_figures_are_written_as_files_for_papers(study: Path, tmp_path: Path, compare: Compare) -> None:
    said = compare(study, "--figures", tmp_path / "figures", "--figure_format", "svg")
    svg = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert {p.suffix for p in (tmp_path / "figures").iterdir()} == {".svg"}
    assert {"plane-shots-per-class-5", "plane-shots-per-class-20", "amount-x", "layers-shots-per-class-5"} <= svg
    assert f"{len(svg)} files" in said.out


def test_a_figure_is_written_in_all_three_formats(tmp_path: Path, compare: Compare) -> None:
    write_run(tmp_path / "runs" / "a", details=False)
    compare(tmp_path / "runs", "--figures", tmp_path / "figures")
    for form, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF-"), ("svg", b"<svg")):
        assert (tmp_path / "figures" / f"plane.{form}").read_bytes().startswith(magic)


def test_hostile_names_make_harmless_file_names(tmp_path: Path, compare: Compare) -> None:
    write_run(tmp_path / "runs" / "a", experiment="../../up & <b>", data={"shots_per_class": 5})
    write_run(tmp_path / "runs" / "b", experiment="..", data={"shots_per_class": 20})
    compare(tmp_path / "runs", "--figures", tmp_path / "figures", "--figure_format", "svg")
    names = [p.name for p in (tmp_path / "figures").iterdir()]
    assert names and all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*\.svg", n) for n in names), names


def test_long_curves_keep_their_ends() -> None:
    steps = thinned([float(s) for s in range(1000)])
    assert len(steps) == 80 and steps[0] == 0 and steps[-1] == 999


def test_several_values_of_a_setting_are_put_together() -> None:
    assert together(["2", "0", "1"]) == "0 … 2"
    assert together(["0", "2", "5"]) == "0, 2, 5"
    assert together(["0.1"]) == "0.1" and together(["b", "a"]) == "a, b"


# ---- colours ----

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
SIGHT = {
    "normal": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}  # fmt: skip


def linear(colour: str) -> np.ndarray:
    s = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(a: str, b: str) -> float:
    light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_arm_colours_and_words_hold_contrast(ground: str) -> None:
    background = theme.BACKGROUND[ground]
    for colour in theme.colours(ground, 8):
        assert contrast(colour, background) >= 3.0, f"{colour} on {background}: marks need 3"
    for colour in (theme.TEXT[ground], theme.MUTED[ground]):
        assert contrast(colour, background) >= 4.5, f"{colour} on {background}: words need 4.5"


@pytest.mark.parametrize("ground", ["light", "dark"])
@pytest.mark.parametrize("sight", sorted(SIGHT))
def test_arm_colours_or_their_shapes_differ_for_all_kinds_of_sight(ground: str, sight: str) -> None:
    seen = [lab(SIGHT[sight] @ linear(c)) for c in theme.colours(ground, 8)]
    shapes = theme.shapes(8)
    for (i, a), (j, b) in itertools.combinations(enumerate(seen), 2):
        distance = float(np.linalg.norm(a - b))
        assert distance >= 8, f"arms {i} and {j} look alike to {sight} sight: {distance:.1f}"
        assert distance >= 14 or shapes[i] != shapes[j], f"arms {i} and {j} are close, and have one shape"


def test_arms_beyond_the_palette_differ_by_shape() -> None:
    pairs = list(zip(theme.colours("light", 50), theme.shapes(50), strict=True))
    assert len(set(pairs)) == 50
