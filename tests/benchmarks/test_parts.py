"""Clocks around functions add up, and a profile says why a target is missed."""

import time
from typing import Any

import pytest

from benchmarks.bench import page
from benchmarks.bench.parts import Clock, found, install, reason
from tests.benchmarks.test_targets import ABOUT, CLI, result


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


class Works:
    def outer(self) -> None:
        """Works, and lets others work."""
        busy(0.02)
        self.inner()

    def inner(self) -> None:
        busy(0.04)

    def fails(self) -> None:
        raise LookupError


def test_a_part_is_without_the_parts_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("outer", "inner", "fails"):
        monkeypatch.setattr(Works, name, vars(Works)[name])  # to put it back
    clock = install({"a": (f"{__name__}.Works.outer", f"{__name__}.Works.fails"), "b": (f"{__name__}.Works.inner",)})
    works = Works()
    works.outer()
    works.inner()
    with pytest.raises(LookupError):
        works.fails()
    assert clock.spent["a"] == pytest.approx(0.02, abs=0.01) and clock.spent["b"] == pytest.approx(0.08, abs=0.01)
    assert Works.outer.__doc__ == "Works, and lets others work."
    assert found("not.there.Module.function")[0] is None
    Clock().wrap("not.there.function", "a")  # nothing happens


def profile() -> dict[str, Any]:
    bare = {"forward": 0.2, "hooks, logging": 0.0, "Lightning's loop and the rest": 0.3, "cpu": 0.5}
    ours = {"forward": 0.2, "hooks, logging": 0.05, "Lightning's loop and the rest": 0.31, "cpu": 0.56}
    return {
        "title": "Why",
        "how": "So.",
        "about": ABOUT,
        "not_run": {"lenet": "no data"},
        "parts": {"mlp": {"bare": bare, "cli": ours}},
    }


def test_a_missed_target_says_which_parts_are_larger() -> None:
    assert (
        reason(profile(), "mlp", "cli", "bare")
        == "of bare's step: hooks, logging +10 %, Lightning's loop and the rest +2 %"
    )
    assert reason(None, "mlp", "cli", "bare") == reason(profile(), "mlp", "l2sp_loss", "python") == ""
    missed, met = ({"mlp": result({"cli": [value] * 3}), "profile": profile()} for value in (1.26, 1.0))
    (line,) = [row for row in page.targets_table(missed) if CLI in row and "MLP" in row]
    assert "missed by 20 %; of bare's step: hooks, logging +10 %" in line
    assert "of bare" not in "".join(page.targets_table(met))


def test_the_page_shows_each_part_with_its_share() -> None:
    text = "\n".join(page.section("profile", profile()))
    assert "0.05 (9 %)" in text and "0.2 (40 %)" in text and "Not run: lenet: no data." in text
