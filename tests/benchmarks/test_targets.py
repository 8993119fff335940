"""Targets, tables and comparison of the speed benchmark, on made-up results."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.bench import growth, page
from benchmarks.bench.compare import changes
from benchmarks.bench.compare import main as compare
from benchmarks.bench.results import without_paths, write
from benchmarks.bench.targets import TARGETS, Results, verdicts
from benchmarks.bench.workload import WORKLOADS

ABOUT = {
    "date": "2026-01-01", "device": "CPU, made up", "cores": 2, "load": 0.1, "git": None, "versions": {"torch": "2"},
    "command": "python -m benchmarks.run",
}  # fmt: skip


def result(cpu: dict[str, list[float]], again: float = 1.0, **more: Any) -> dict[str, Any]:
    """A workload's result in which arm `bare` takes 1 ms."""
    arms: dict[str, Any] = {name: {"cpu": values, "wall": values} for name, values in cpu.items()}
    arms["bare"] = {"cpu": [1.0, 1.0, 1.0], "wall": [1.0, 1.0, 1.0]}
    noise = {"ratio": again, "low": again, "high": again, "verdict": "quiet"}
    held = {"rounds": 3, "arms": arms, "noise": {"cpu": noise, "wall": noise}}
    check = {"bound": 1e-5, "difference": {"bare": 0.0}, "wrong": {}}
    made = {"title": "Made up", "baseline": "bare", "steps_of_a_turn": 4, "check": check, "not_run": {}, "about": ABOUT}
    return {**made, "threads": {"1": held}, **more}


def verdict(results: Results, row: str, what: str) -> str:
    return next(v.text for v in verdicts(results) if (v.target.row, v.target.what) == (row, what))


CLI = "command line, all telemetry ÷ bare Lightning"


def test_a_target_is_met_missed_by_so_much_or_not_measured() -> None:
    assert verdict({"mlp": result({"cli": [1.05] * 3})}, CLI, "MLP") == "met"
    assert verdict({"mlp": result({"cli": [1.26] * 3})}, CLI, "MLP") == "missed by 20 %"
    assert verdict({"mlp": result({"cli": [1.052] * 3})}, CLI, "MLP") == "missed by 0.2 %"
    assert "mlp was not run" in verdict({}, CLI, "MLP")
    assert "without cli" in verdict({"mlp": result({})}, CLI, "MLP")
    broken = result({}, not_run={"cli": "it fell over"})
    assert "it fell over" in verdict({"mlp": broken}, CLI, "MLP")
    assert "no weights" in verdict({"mlp": {"skipped": "no weights"}}, CLI, "MLP")


def test_memory_is_judged_over_the_start_and_without_the_teacher() -> None:
    held = result({"python": [1.0] * 3, "distill_kl": [1.0] * 3}, weights_mib=100.0)
    arms = held["threads"]["1"]["arms"]
    arms["python"]["peak_over_start"], arms["distill_kl"]["peak_over_start"] = 400.0, 600.0
    (found,) = [v for v in verdicts({"llama": held}) if v.target.what.startswith("llama, peak")]
    assert found.value == pytest.approx(1.25) and found.text == "missed by 9 %"


def test_every_target_names_arms_that_its_workload_has() -> None:
    for target in TARGETS:
        names = [c.cell_contents for c in target.value.__closure__ or () if isinstance(c.cell_contents, str)]
        workload = next((WORKLOADS[n] for n in names if n in WORKLOADS), None)
        if workload is not None:
            assert {n for n in names if n != workload.name} <= set(workload.arms), f"{target.row}, {target.what}"


def test_the_page_is_written_between_its_marks_and_the_rest_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "performance.md"
    file.write_text(f"# Mine\n\nbefore\n\n{page.BEGIN}\nstale numbers\n{page.END}\n\nafter\n")
    results = {"mlp": result({"cli": [1.2, 1.2, 1.2]}), "lenet": {"title": "LeNet", "skipped": "needs data"}}
    page.write(file, results)
    once = file.read_text()
    assert once.startswith("# Mine\n\nbefore\n") and once.endswith("\n\nafter\n") and "stale" not in once
    assert "**1.20**" in once and "Not run: needs data." in once and "made up" in once
    page.write(file, results)
    assert file.read_text() == once
    new = tmp_path / "new.md"
    page.write(new, results)
    assert new.read_text().startswith("# Performance")


def test_a_regression_is_a_change_beyond_the_noise(tmp_path: Path) -> None:
    before = {"mlp": result({"cli": [1.0, 1.01, 1.02], "hf": [1.0, 1.2, 1.4]})}
    now = {"mlp": result({"cli": [1.1, 1.11, 1.12], "hf": [1.1, 1.26, 1.5]})}
    judged = {c.where.split(", ")[2]: c for c in changes(before, now)}
    assert judged["cli ÷ bare"].slower, "ten per cent more, with little spread"
    assert not judged["hf ÷ bare"].slower, "the quartiles overlap"
    assert next(c for c in changes(now, before) if "cli" in c.where).faster
    noisy = {"mlp": result({"cli": [1.1, 1.11, 1.12]}, again=1.2)}
    assert not any(c.slower for c in changes(before, noisy)), "identical arms differed by more"
    for name, results in (("before", before), ("now", now)):
        write(tmp_path / name, "mlp", results["mlp"])
    assert compare([str(tmp_path / "before"), "--now", str(tmp_path / "now")]) == 1
    assert compare([str(tmp_path / "now"), "--now", str(tmp_path / "now")]) == 0


def test_results_name_no_path_of_the_machine() -> None:
    assert without_paths(["mlp", "--data", "/home/me/data", "--quick"]) == ["mlp", "--data", "FOLDER", "--quick"]
    assert without_paths(["--data=/home/me/data"]) == ["--data=FOLDER"]


CURVE = {
    "x": [1.0, 2.0, 4.0], "ms": [2.0, 3.3, 5.0], "mib": [1.0, 2.0, 4.0], "law_of_time": "a + b·n", "law_of_memory": "b·n",
    "time_bends": 1.1, "memory_bends": 1.0,
}  # fmt: skip


def test_a_curve_is_judged_by_the_line_through_its_ends() -> None:
    assert growth.line([1.0, 4.0], [2.0, 5.0]) == (1.0, 1.0)
    assert growth.bend(CURVE["x"], CURVE["ms"]) == pytest.approx(1.1)
    assert growth.bend(CURVE["x"], CURVE["mib"]) == 1.0


def test_curves_become_a_table_and_a_figure_beside_the_page(tmp_path: Path) -> None:
    grown = {"title": "How it grows", "how": "So.", "curves": {"samples": CURVE}, "about": ABOUT}
    page.write(tmp_path / "page.md", {"growth": grown})
    assert "| samples | 1 – 4 | 2 – 5 | a + b·n | × 1.10 |" in (tmp_path / "page.md").read_text()
    drawn = ElementTree.parse(tmp_path / page.FIGURE).getroot()
    assert len(drawn.findall("{*}circle")) == 6 and len(drawn.findall("{*}polyline")) == 2


def test_the_readme_shows_the_main_rows_that_were_measured(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"Before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write_readme(readme, {"mlp": result({"cli": [1.05] * 3}), "start": {"fit_over_bare": 1.1, "wrong_key_s": 0.2}})
    text = readme.read_text()
    assert text.startswith("Before\n") and text.endswith("after\n") and "old" not in text
    assert "| start ÷ a bare Lightning script | fit with W&B, CPU to the first step 1.10 | ≤ 1 | 0 of 1 |" in text
    assert "| command line, all telemetry ÷ bare Lightning | MLP 1.05 | ≤ 1.05 | 1 of 1 |" in text and "GPU" not in text
