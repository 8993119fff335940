"""The page as text: whole, its own, and safe whatever the runs are called."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft_lightning.report.error_analysis import classes_of
from tests.report.conftest import Compare
from tests.report.written import outcome, write_run

HOSTILE = "</script><script>hacked=1</script><img src=x onerror=hacked=1>\"'&{{7*7}}\u2028"


class Outline(HTMLParser):
    """Elements outside scripts, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def content(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="content">(.*?)</script>', text, re.S)
    assert found, "the page has no data"
    read: dict[str, Any] = json.loads(found[1])
    return read


def hostile(folder: Path) -> Path:
    for i, arm in enumerate((HOSTILE, "calm")):
        write_run(
            folder / f"run-{i}",
            experiment=arm,
            variant=HOSTILE if i == 0 else "PlainSFT",
            values=outcome(float(i), 20, 0),
            sample=HOSTILE,
            settings={"note": HOSTILE + str(i)},
        )
    (folder / "<b><script>hacked=1").mkdir()
    (folder / "<b><script>hacked=1" / "run.json").write_text("{")
    return folder


def test_hostile_names_texts_and_settings_stay_text(tmp_path: Path, compare: Compare) -> None:
    compare(hostile(tmp_path / "runs"), "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    elements = Outline(text).elements
    assert sum(tag == "script" for tag, _ in elements) == 3, "the data, Vega and the page's own script, and no other"
    assert not any(name.startswith("on") for _, attributes in elements for name in attributes)
    assert not any(tag == "img" for tag, _ in elements), "images come from the data alone"
    assert content(text)["arms"] == [HOSTILE, "calm"], "names arrive as they were"
    assert "49" not in content(text)["arms"][0]


def test_the_page_asks_nothing_of_any_server(page_file: Path) -> None:
    for tag, attributes in Outline(page_file.read_text()).elements:
        for name in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), f"<{tag} {name}={value!r}>"


def test_the_page_is_laid_out_in_landmarks_and_ordered_headings(page_file: Path) -> None:
    elements = Outline(page_file.read_text()).elements
    tags = [tag for tag, _ in elements]
    assert [tags.count(t) for t in ("main", "header", "footer", "nav", "h1")] == [1] * 5
    levels = [int(t[1]) for t in tags if re.fullmatch("h[1-6]", t)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels)), f"a level of heading is left out: {levels}"
    ids = [a["id"] for _, a in elements if a.get("id")]
    assert len(ids) == len(set(ids))
    named = {a["aria-labelledby"] for _, a in elements if "aria-labelledby" in a}
    assert named <= set(ids)


def test_the_answer_comes_first(page_file: Path) -> None:
    text = page_file.read_text()
    assert text.index("With shots_per_class 5, ") < text.index("<figure")


def test_only_settings_that_differ_are_on_the_page(tmp_path: Path, compare: Compare) -> None:
    for i, lr in enumerate((0.001, 0.002)):
        write_run(tmp_path / f"{i}", experiment="ab"[i], settings={"lr": lr, "weight_decay": 0.5})
    compare(tmp_path, "--html", tmp_path / "page.html")
    configs = content((tmp_path / "page.html").read_text())["data"]["configs"]
    values = [dict(zip(configs["columns"], row, strict=True))["values"] for row in configs["rows"]]
    assert [set(v) for v in values] == [{"model.init_args.lr"}] * 2


def test_a_run_that_measured_nothing_still_makes_a_page(tmp_path: Path, compare: Compare) -> None:
    path = tmp_path / "runs" / "empty"
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"schema": 1, "metrics": {}, "status": "failed"}))
    said = compare(tmp_path / "runs", "--html", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert said.code == 0 and any("measured nothing" in n for n in said.notes)


def test_images_from_elsewhere_are_left_out(tmp_path: Path, compare: Compare) -> None:
    write_run(tmp_path / "runs" / "a")
    file = tmp_path / "runs" / "a" / "details.json"
    details = json.loads(file.read_text())
    for entry in details["changed"]:
        entry["image"] = "https://example.org/pixel.png"
    file.write_text(json.dumps(details))
    compare(tmp_path / "runs", "--html", tmp_path / "page.html")
    assert "example.org" not in (tmp_path / "page.html").read_text()


def test_classes_over_seeds_are_means_and_the_worst_comes_first() -> None:
    def details(*classes: tuple[str, int, int, int]) -> dict[str, Any]:
        made = [
            {
                "label": name,
                "n": n,
                "lost": lost,
                "gained": gained,
                "change": (gained - lost) / n,
                "low": -0.5,
                "high": 0.1,
            }
            for name, n, lost, gained in classes
        ]
        return {"lost_and_gained": {"classes": made}}

    one, other = details(("a", 10, 1, 0), ("b", 20, 8, 2)), details(("a", 10, 0, 1), ("b", 20, 4, 0))
    worst, best = classes_of([one, other])
    assert (worst["label"], worst["n"], worst["lost"], worst["gained"]) == ("b", 20, 6, 1)
    assert worst["change"] == pytest.approx(-0.25) and worst["std"] == pytest.approx(
        np.std([-0.3, -0.2], ddof=1), rel=1e-5
    )
    assert (worst["worse"], worst["of"], worst["low"]) == (2, 2, None)
    assert (best["label"], best["change"], best["worse"]) == ("a", 0, 1)
    (alone, _) = classes_of([one])
    assert (alone["std"], alone["low"], alone["high"]) == (None, -0.5, 0.1)
    assert (
        classes_of([{"lost_and_gained": {"classes": [{"label": "a", "n": "many"}, 3]}}, {"lost_and_gained": 1}]) == []
    )
    for part in (one, other):
        part["lost_and_gained"]["n"] = 40  # of which ten are of classes beyond the list's end
    other["lost_and_gained"]["classes"].pop(0)
    assert [c["label"] for c in classes_of([one, other])] == ["b"], (
        "a mean over the seeds in which a class was among the worst"
    )
