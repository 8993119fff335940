"""The page in headless Chromium: desktop and phone, light and dark. Skipped where there is no browser."""

import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sft_lightning.callbacks.overlays import jpeg_uri
from sft_lightning.callbacks.shown_samples import sound_uri
from tests.data.audio_files import beep
from tests.report.conftest import Compare
from tests.report.test_page import HOSTILE, hostile
from tests.report.written import write_run, write_study

DESKTOP, PHONE, NARROWEST = (1280, 900), (375, 740), (360, 740)
FIGURES = 13
WHEN = ("true", "before", "after")


@dataclass
class Opened:
    """A page in the browser, and what it did that it should not."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def go(self, file: Path) -> None:
        self.page.on("console", lambda m: self.said.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda e: self.said.append(f"error: {e}"))
        self.page.on("dialog", lambda d: self.said.append(f"dialog: {d.message}"))
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def draw_all(self) -> None:
        """Scrolls through the page; figures are drawn when they come into view."""
        for figure in self.page.query_selector_all("[data-figure]"):
            figure.scroll_into_view_if_needed()
            name = figure.get_attribute("data-figure")
            self.page.wait_for_selector(f'[data-figure="{name}"] .chart svg, [data-figure="{name}"] .empty')

    def marks(self) -> dict[str, int]:
        found: dict[str, int] = self.page.evaluate(
            """() => Object.fromEntries([...document.querySelectorAll('[data-figure]')].map((f) =>
            [f.dataset.figure, f.querySelectorAll('.chart svg .mark-group path, .chart svg .mark-symbol path').length]))"""
        )
        return found

    def check(self) -> None:
        outside = [u for u in self.asked if not u.startswith(("file:", "data:", "blob:"))]
        assert not outside, f"the page asked for {outside}"
        assert not self.said, f"the console says {self.said}"


@pytest.fixture
def opened(chromium: Any) -> Iterator[Any]:
    """`opened(file, size, scheme)` opens a page."""
    contexts = []

    def go(file: Path, size: tuple[int, int] = DESKTOP, scheme: str = "light", **options: Any) -> Opened:
        viewport = {"width": size[0], "height": size[1]}
        context = chromium.new_context(viewport=viewport, color_scheme=scheme, accept_downloads=True, **options)
        contexts.append(context)
        made = Opened(context.new_page())
        made.go(file)
        return made

    yield go
    for context in contexts:
        context.close()


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("size", "scheme"),
    [
        pytest.param(size, scheme, id=f"{name}-{scheme}")
        for size, name, schemes in (
            (DESKTOP, "desktop", ("light", "dark")),
            (PHONE, "phone", ("dark", "light")),
            (NARROWEST, "narrowest", ("light", "dark")),
        )
        for scheme in schemes
    ],
)
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_screen(
    page_file: Path, opened: Any, size: tuple[int, int], scheme: str
) -> None:
    it: Opened = opened(page_file, size, scheme)
    it.draw_all()
    marks = it.marks()
    assert len(marks) == FIGURES and all(marks.values()), f"empty figures: {[k for k, v in marks.items() if not v]}"
    assert it.page.evaluate("document.documentElement.scrollWidth") <= size[0], "the page scrolls sideways"
    drawn = it.page.evaluate("[...document.querySelectorAll('.chart')].map((c) => c.dataset.drawn)")
    assert set(drawn) == {scheme}, "figures should follow the system's theme"
    wide = it.page.evaluate(
        "[...document.querySelectorAll('.chart svg')].filter((s) => s.getBoundingClientRect().right > innerWidth).length"
    )
    assert wide == 0, f"{wide} figures reach beyond the screen"
    it.check()


def test_the_controls_change_what_is_shown(page_file: Path, opened: Any) -> None:
    it: Opened = opened(page_file)
    it.draw_all()
    page = it.page
    plane = page.locator('[data-figure="plane"]')
    plane.scroll_into_view_if_needed()
    words = plane.locator(".chart").get_attribute("aria-label")

    page.select_option("#pick-cell", "1")
    page.wait_for_function("(w) => document.querySelector('[data-figure=plane] .chart').ariaLabel !== w", arg=words)
    shown = page.evaluate(
        "[...document.querySelectorAll('.card[data-cell]')].filter((e) => !e.hidden).map((e) => e.dataset.cell)"
    )
    assert set(shown) == {"1"}, "tables should follow the cell"

    page.select_option("#pick-y", "drift/kl")
    page.wait_for_selector('[data-figure="curve-y"] h3:has-text("Drift: kl")', state="attached")
    page.wait_for_selector('[data-figure="plane"] .chart svg text:has-text("drift: kl")')

    arm = page.locator("#arms button", has_text="plain")
    assert arm.get_attribute("aria-pressed") == "true"
    arm.click()
    assert arm.get_attribute("aria-pressed") == "false"
    page.wait_for_function("!document.querySelector('[data-figure=plane] .chart').ariaLabel.includes('plain:')")
    assert "plain" not in page.locator("#configs thead").inner_text().split()

    page.click("[data-theme-is=dark]")
    page.wait_for_selector('[data-figure="plane"] .chart[data-drawn=dark]')
    page.click("[data-theme-is=light]")
    page.wait_for_selector('[data-figure="plane"] .chart[data-drawn=light]')

    before = page.locator("#samples .sample").first.inner_text()
    page.select_option("#pick-group", "logit-anchor")
    page.wait_for_selector("#samples .sample")
    assert page.locator("#samples .sample img").count() > 0 and before
    page.select_option("#pick-measure", "cka")
    page.locator('[data-figure="layers"]').scroll_into_view_if_needed()
    page.wait_for_selector('[data-figure="layers"] .chart svg text:has-text("CKA")')
    it.check()


def test_the_table_of_points_sorts_and_filters(page_file: Path, opened: Any) -> None:
    it: Opened = opened(page_file)
    page = it.page
    assert page.locator("#points-table tbody tr").count() == 84
    page.fill("#filter", "l2sp 0.01")
    assert page.locator("#points-table tbody tr").count() == 6
    assert "6 of 84" in page.inner_text("#points-said")
    page.fill("#filter", "")
    head = page.locator("#points-table th", has_text="val/accuracy").first
    column = page.evaluate("(t) => [...t.parentNode.children].indexOf(t)", head.element_handle())
    for direction in ("descending", "ascending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        texts = page.locator(f"#points-table tbody td:nth-child({column + 1})").all_inner_texts()
        values = [float(t) for t in texts if t]
        assert values == sorted(values, reverse=direction == "descending")
    it.check()


@pytest.mark.parametrize("name", ["plane", "confusion-after"])
def test_downloads_are_real_files(page_file: Path, opened: Any, name: str, tmp_path: Path) -> None:
    it: Opened = opened(page_file)
    it.draw_all()
    figure = it.page.locator(f'[data-figure="{name}"]')
    figure.scroll_into_view_if_needed()
    for kind, magic in (("svg", b"<svg"), ("png", b"\x89PNG"), ("csv", b"group,")):
        with it.page.expect_download() as waiting:
            figure.locator(f"[data-save={kind}]").click()
        assert waiting.value.suggested_filename == f"{name}-shots-per-class-5.{kind}"
        waiting.value.save_as(tmp_path / kind)
        content = (tmp_path / kind).read_bytes()
        assert content.startswith(magic) and len(content) > 300, f"{kind}: {content[:60]!r}"
    found = list(csv.DictReader(io.StringIO((tmp_path / "csv").read_text())))
    assert len(found) == (15 if name == "plane" else 25), "five arms × three seeds, or five classes squared"
    it.check()


def test_a_figures_table_has_the_same_rows_as_its_file(page_file: Path, opened: Any) -> None:
    it: Opened = opened(page_file)
    figure = it.page.locator('[data-figure="plane"]')
    figure.locator("summary").click()  # a browser says that it is open in a task of its own, later
    figure.locator(".rows tbody tr").first.wait_for()
    assert figure.locator(".rows tbody tr").count() == 15
    it.check()


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(page_file: Path, opened: Any) -> None:
    it: Opened = opened(page_file)
    page = it.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    reached, bare = set(), []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            """() => { const e = document.activeElement, s = getComputedStyle(e);
            const name = e.id || e.dataset.save || e.dataset.themeIs || e.className || e.tagName;
            return [name, s.outlineStyle + s.outlineWidth]; }"""
        )
        reached.add(name)
        if outline.startswith("none") or outline.endswith("none0px"):
            bare.append(name)
    assert {"auto", "pick-cell", "pick-x", "pick-y", "arm", "svg", "png", "csv", "SUMMARY", "scroll"} <= reached, (
        reached
    )
    assert not bare, f"focus does not show on {bare}"
    page.focus("#arms button")
    page.keyboard.press("Space")
    assert page.get_attribute("#arms button", "aria-pressed") == "false"
    it.check()


def test_controls_and_figures_have_names_for_screen_readers(page_file: Path, opened: Any) -> None:
    it: Opened = opened(page_file)
    it.draw_all()
    nameless = it.page.evaluate(
        """() => [...document.querySelectorAll('button, select, input, [role=img], [role=region], figure, nav, form')]
        .filter((e) => !(e.ariaLabel || e.getAttribute('aria-labelledby') || e.labels?.length || e.textContent.trim()))
        .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert not nameless, nameless
    label = it.page.get_attribute('[data-figure="plane"] .chart', "aria-label")
    assert "Means: probe: " in label, "the figure should say its numbers in words"


def test_hostile_names_run_nothing(tmp_path: Path, opened: Any, compare: Compare) -> None:
    compare(hostile(tmp_path / "runs"), "--html", tmp_path / "page.html")
    it: Opened = opened(tmp_path / "page.html")
    it.draw_all()
    for summary in it.page.query_selector_all(".rows summary"):
        summary.click()
    it.page.wait_for_function(
        "[...document.querySelectorAll('.rows')].every((r) => !r.open || r.querySelector('tbody tr'))"
    )
    it.page.locator('[data-figure="plane"] .chart svg .mark-symbol.role-mark path').last.hover(force=True)
    it.page.wait_for_selector("#vg-tooltip-element.visible")
    assert it.page.evaluate("typeof hacked") == "undefined"
    assert HOSTILE.split("\u2028")[0] in it.page.inner_text("#arms")
    it.check()


def test_reduced_motion_is_respected(page_file: Path, opened: Any) -> None:
    it: Opened = opened(page_file, reduced_motion="reduce")
    assert it.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


@pytest.mark.slow
def test_hundreds_of_runs_open(
    tmp_path: Path, opened: Any, compare: Compare, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(tmp_path / "digits", seeds=11)
    compare(study, "--html", tmp_path / "page.html")
    began = time.perf_counter()
    it: Opened = opened(tmp_path / "page.html")
    it.page.wait_for_selector('[data-figure="plane"] .chart svg')
    took = time.perf_counter() - began
    it.draw_all()
    size = (tmp_path / "page.html").stat().st_size
    with capsys.disabled():
        print(
            f"\n308 runs: {size / 1e6:.2f} MB, opened with its first figure in {took:.2f} s (browser's start included)"
        )
    assert it.page.locator("#points-table tbody tr").count() == 308
    it.check()


def test_changed_tags_answers_and_texts_are_shown_in_the_form_that_suits_them(
    tmp_path: Path, opened: Any, compare: Compare
) -> None:
    write_run(tmp_path / "runs" / "a")
    file = tmp_path / "runs" / "a" / "details.json"
    details = json.loads(file.read_text())
    said = {"on": "retention", "score_before": 1.0, "score_after": 0.0, "name": "x"}
    context = (
        "😀 Rebuilt later, it was built in 1889. " + "Nobody lives there. " * 20 + "In front it is 300 metres high."
    )
    details["changed"] = [
        {**said, "row": 0, "form": "tags", "words": ["Anna", "sees", "<b>Rome</b>"], "before": ["B-per", "O", "B-loc"]}
        | {"after": ["B-loc", "I-per", "I-per"], "label": ["B-per", "O", "B-loc"]},
        {
            **said,
            "row": 1,
            "form": "answer",
            "question": "When?",
            "text": context,
            "before": "it",
            "after": "it",
            "start_before": context.index("it was"),
            "start_after": context.index("it is"),
        }
        | {"label": "built"},
        {
            **said,
            "row": 2,
            "form": "text",
            "text": "a dog",
            "before": "ein Hund",
            "after": "ein <i>Haus</i>",
            "label": "ein Hund",
            "sound": sound_uri(beep(300.0, 0.5), 8000),
        },
        {**said, "row": 3, "form": "choice", "question": "2 and 2?", "choices": ["<b>3</b>", "4", "5"]}
        | {"before": "1", "after": "0", "label": "1"},
        {**said, "row": 4, "form": "text", "before": "2 cell", "after": "1 cell", "label": "2 cell"}
        | {"pictures": dict.fromkeys(("truth", "before", "after"), jpeg_uri(Image.new("RGB", (40, 20), "white")))}
        | {"colours": [["cell", "#800000"], ["<b>", "#008000"]]},
        {**said, "row": 5, "form": "text", "before": "a dog", "after": "", "label": "a dog"},
        {**said, "row": 6, "form": "labels", "before": "film", "after": "film, old film", "label": "film"},
        {**said, "row": 7, "form": "answer", "text": "a fox …", "before": "fox", "after": "fox"}
        | {"start_before": 2, "start_after": 4000},
    ]
    file.write_text(json.dumps(details))
    compare(tmp_path / "runs", "--html", tmp_path / "page.html")
    it: Opened = opened(tmp_path / "page.html")
    it.page.wait_for_selector("#samples .sample.wide", state="attached")
    samples = it.page.locator("#samples .sample.wide")
    assert samples.count() == 8
    assert samples.nth(7).locator(".spoken").all_inner_texts() == ["a fox …", "fox"], (
        "the text is cut before the answer"
    )
    assert "are answered worse" in it.page.locator("#changed-said").inner_text(), (
        "samples that got better are not counted"
    )
    marked = [samples.nth(n).locator("mark").all_inner_texts() for n in range(4)]
    known = ["Anna [per]", "<b>Rome</b> [loc]"]
    assert marked[0] == [*known, "Anna [loc]", "sees [per]", "<b>Rome</b>", *known], (
        "a tag of another type is not named, or one that goes on is"
    )
    assert marked[1] == ["it", "it", "built"]
    ahead = (
        samples.nth(1)
        .locator("mark")
        .evaluate_all("(all) => all.map((one) => one.previousSibling.textContent.slice(-9))")
    )
    assert [text.split()[-1] for text in ahead] == ["later,", "front", "was"], "the answer is marked in another place"
    assert samples.nth(6).locator("mark").all_inner_texts() == ["old film"], "a comma makes a label another one"
    assert samples.nth(5).locator(".spoken").all_inner_texts() == ["a dog", "nothing", "a dog"]
    assert marked[2] == ["<i>Haus</i>"], "the word that is new"
    assert marked[3] == ["<b>3</b>", "4"], "the choices that were chosen or are right"
    assert samples.nth(3).locator("li").all_inner_texts() == ["<b>3</b> [after]", "4 [true, before]", "5"]
    player = (
        "new Promise((done) => { a.onloadedmetadata = () => done(a.duration); a.onerror = () => done(0); a.load(); })"
    )
    assert abs(samples.nth(2).locator("audio").evaluate(f"(a) => {player}") - 0.5) < 0.15, "the sound is not played"
    figures = samples.nth(4).locator(".pictures figure")
    assert figures.locator("figcaption").all_inner_texts() == ["true", "before", "after"]
    assert figures.locator("img").evaluate_all("(all) => all.map((one) => one.alt)") == [f"x, {w}" for w in WHEN]
    assert samples.nth(4).locator(".colours span").all_inner_texts() == ["cell", "<b>"]
    colour = samples.nth(4).locator(".colours i").first.evaluate("(one) => getComputedStyle(one).backgroundColor")
    assert colour == "rgb(128, 0, 0)"
    question = samples.nth(1).inner_text()
    assert "When?" in question and "100 % right" in question and "0 % right" in question
    it.check()


def test_classes_lead_worst_first_and_say_in_how_many_seeds_they_lost(
    tmp_path: Path, opened: Any, compare: Compare
) -> None:
    for seed in range(3):
        write_run(tmp_path / "runs" / f"{seed}", seed=seed)
    compare(tmp_path / "runs", "--html", tmp_path / "page.html")
    it: Opened = opened(tmp_path / "page.html")
    it.page.wait_for_selector("#classes tbody tr", state="attached")
    rows = [row.split("\t") for row in it.page.locator("#classes tbody tr").all_inner_texts()]
    assert [row[0] for row in rows] == ["0", "1", "2", "3", "4"]
    assert [part.strip() for part in rows[0][1:4]] == ["45", "5.3", "0"] and rows[0][-1].strip() == "3 of 3"
    order = it.page.evaluate(
        "document.getElementById('classes').compareDocumentPosition(document.getElementById('samples')) & 4"
    )
    assert order, "classes stand after samples"
    it.check()
