"""Pages that `make docs` writes from results: their generators run, and every promise names tests that are there."""

import csv
import json
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from benchmarks import exactness, gauges, studies

STUDY = Path(__file__).parent / "compat/before/small-study"
OUTCOMES = {"passed": 2, "failed": 0, "skipped": 0}


def test_a_finished_study_gets_its_section_with_each_arms_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studies, "TAKEN", tmp_path)
    studies.take(STUDY)
    page = studies.page()
    assert "## small-study" in page and "6 fits, 4 tests" in page
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| ")}
    assert "62.9" in rows["plain"] and "98.2" in rows["distill"], "the table lacks what was measured"


def test_gauges_are_correlated_with_what_each_setting_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "TAKEN", tmp_path)
    monkeypatch.setattr(gauges, "LEAST", 2)
    studies.take(STUDY)
    ((title, found),) = studies.with_gauges(studies.all_taken())
    with (STUDY / "points.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert title == "small-study, shots_per_class 4" and found["kept"] == "retention/accuracy"
    for point in found["points"]:
        mine = [float(r["retention/accuracy"]) for r in rows if r["arm"] == point["arm"]]
        assert min(mine) - 1e-6 <= point["retention/accuracy"] <= max(mine) + 1e-6
    assert {p["arm"] for p in found["points"]} == {"plain", "distill"} and found["anchored"] == []
    for on, anchored in (("source_logits", True), (None, True), ("features", False)):
        model = {"class_path": "sft_lightning.modules.DistillSFT", "init_args": {"on": on}}
        (tmp_path / "config.yaml").write_text(json.dumps({"model": model}))
        assert gauges.on_source_outputs(tmp_path) is anchored
    kept = [p["retention/accuracy"] for p in found["points"]]
    kl = found["settings"]["drift/kl"]
    expected = spearmanr(kept, [p["drift/kl"] for p in found["points"]]).statistic
    assert kl["n"] == len(kept) and kl["rho"] == pytest.approx(expected, abs=1e-6)
    studies.gauges.figure(studies.with_gauges(studies.all_taken()), tmp_path / "figure.svg")
    assert "small-study" in (tmp_path / "figure.svg").read_text() and "gauges.svg" in studies.page()


def test_a_study_that_is_not_finished_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "TAKEN", tmp_path)
    held = json.loads((STUDY / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps({**held, "status": "running"}))
    with pytest.raises(SystemExit, match="finish it first"):
        studies.take(tmp_path)


def test_every_promise_names_tests_that_are_there() -> None:
    for _, promises in exactness.PROMISES:
        for text, files, _ in promises:
            for file in files:
                assert (exactness.ROOT / file).is_file(), f"'{text[:50]}…' names {file}, which is not there"


def test_a_figure_stands_under_its_promise_with_its_largest_value() -> None:
    files = {file for _, promises in exactness.PROMISES for _, named, _ in promises for file in named}
    about = {"date": "2026-01-01", "commands": ["pytest"], "python": "3", "packages": {}, "cores": 1, "gpu": False}
    key = "gradient, 2 processes, float64"
    figures = {key: {"value": 3e-9, "unit": "relative", "cases": 7}}
    results = {"run": about, "figures": figures, "tests": dict.fromkeys(files, OUTCOMES)}
    page = exactness.page(results, json.loads(exactness.PEERS.read_text()))
    (line,) = [line for line in page.splitlines() if key in line]
    assert "3" in line and "7" in line
