"""What is wrong with a run is said of that run, and the rest is still shown."""

import json
from pathlib import Path

import pytest

from sft_lightning.core.errors import UserError
from tests.refused import refused
from tests.report.conftest import Compare
from tests.report.written import write_run, write_study


def three(folder: Path) -> Path:
    for seed in range(3):
        write_run(folder / f"run-{seed}", seed=seed)
    return folder


def rows(text: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(text)["rows"]
    return found


@pytest.mark.parametrize("content", ["{", "", "[]", "null", '{"metrics": 3}', '"text"', "\x00\xff"])
def test_a_damaged_record_is_said_and_the_rest_is_shown(tmp_path: Path, compare: Compare, content: str) -> None:
    three(tmp_path)
    (tmp_path / "run-1" / "run.json").write_text(content, encoding="latin-1")
    said = compare(tmp_path, "--format", "json")
    assert [r["seeds"] for r in rows(said.out)] == [2], "the two good runs should still make a row"
    assert any("run-1" in n and "run.json" in n for n in said.notes), said.err


def test_a_record_of_another_schema_is_said(tmp_path: Path, compare: Compare) -> None:
    three(tmp_path)
    record = json.loads((tmp_path / "run-2" / "run.json").read_text())
    (tmp_path / "run-2" / "run.json").write_text(json.dumps({**record, "schema": 7}))
    said = compare(tmp_path, "--format", "json")
    assert rows(said.out)[0]["seeds"] == 2
    assert any("run-2" in n and "schema 7" in n for n in said.notes), said.err


def test_a_run_that_was_killed_is_shown_as_unfinished_and_is_in_no_mean(tmp_path: Path, compare: Compare) -> None:
    three(tmp_path)
    worse = {"accuracy": 0.1, "kept": 0.1, "kl": 9.0, "relative": 1.0}
    write_run(tmp_path / "killed", seed=3, status="interrupted", values=worse, tested=False)
    said = compare(tmp_path, "--format", "json", "--html", tmp_path / "page.html")
    (row,) = rows(said.out)
    assert row["seeds"] == 3 and float(str(row["test/accuracy"])) > 0.5
    assert any("killed" in n and "interrupted" in n for n in said.notes), said.err
    assert '"killed"' in (tmp_path / "page.html").read_text(), "it should stand in the table of all points"


def test_only_unfinished_runs_make_a_table_that_says_so(tmp_path: Path, compare: Compare) -> None:
    write_run(tmp_path / "running", status="running", tested=False)
    said = compare(tmp_path)
    assert "none finished" in said.out and "No run is finished" in said.out


def test_missing_files_are_said_and_cost_only_what_they_hold(tmp_path: Path, compare: Compare) -> None:
    three(tmp_path)
    for name in ("metrics.jsonl", "details.json", "config.yaml"):
        (tmp_path / "run-0" / name).unlink()
    (tmp_path / "run-1" / "metrics.jsonl").write_text('{"step": 0, "val/accuracy": 0.1}\n{broken\n{"step": 1}\n')
    (tmp_path / "run-1" / "details.json").write_text("{")
    (tmp_path / "run-2" / "config.yaml").write_text("a: [")
    said = compare(tmp_path, "--html", tmp_path / "page.html")
    for run, what in (
        ("run-0", "metrics.jsonl"),
        ("run-0", "details.json"),
        ("run-0", "config.yaml"),
        ("run-1", "1 of its 3 lines"),
        ("run-1", "details.json cannot be read"),
        ("run-2", "config.yaml cannot be read"),
    ):
        assert any(run in n and what in n for n in said.notes), f"nothing said of {run}'s {what}:\n{said.err}"


@pytest.mark.parametrize(
    "content",
    [
        {"schema": 2},
        {"confusion": {"labels": ["a"], "counts": [[1, 2]]}, "layers": 3, "changed": "x"},
        {"confusion": {"labels": ["a"], "counts": [["x"]]}, "layers": [{"name": 1}], "changed": [3, {}]},
        {"confusion": [], "source_confusion": {"labels": None}, "layers": [None], "changed_total": "many"},
        [1],
    ],
)
def test_details_of_another_shape_leave_the_page_whole(tmp_path: Path, compare: Compare, content: object) -> None:
    three(tmp_path)
    (tmp_path / "run-0" / "details.json").write_text(json.dumps(content))
    said = compare(tmp_path, "--html", tmp_path / "page.html")
    assert said.code == 0 and (tmp_path / "page.html").is_file()


def test_runs_of_another_task_are_said_and_stand_in_a_cell_of_their_own(tmp_path: Path, compare: Compare) -> None:
    three(tmp_path)
    write_run(tmp_path / "other", task="regression", target="mse")
    said = compare(tmp_path, "--format", "json")
    found = rows(said.out)
    assert len(found) == 2 and len({str(r["task"]) for r in found}) == 2
    assert any("other" in n and "regression, chosen by val/mse" in n for n in said.notes), said.err


def test_runs_tested_on_other_rows_are_said(tmp_path: Path, compare: Compare) -> None:
    three(tmp_path)
    file = tmp_path / "run-1" / "run.json"
    file.write_text(file.read_text().replace("93b8", "0000"))
    assert any("run-1" in n and "do not compare" in n for n in compare(tmp_path).notes)


def test_a_damaged_study_is_read_as_runs(tmp_path: Path, compare: Compare) -> None:
    study = write_study(tmp_path / "digits", seeds=1, shots=(5,))
    (study / "study.json").write_text("{")
    said = compare(study, "--format", "json")
    assert len(rows(said.out)) == 14, "each of the 14 settings should have a row"
    assert any("damaged study.json" in n for n in said.notes), said.err


def test_a_point_whose_directory_is_gone_keeps_its_row(tmp_path: Path, compare: Compare) -> None:
    study = write_study(tmp_path / "digits", seeds=2, shots=(5,))
    gone = json.loads((study / "study.json").read_text())["cells"][0]["arms"]["plain"]["points"][0]
    for file in (study / gone).iterdir():
        file.unlink()
    (study / gone).rmdir()
    said = compare(study, "--format", "json")
    assert next(r for r in rows(said.out) if r["arm"] == "plain")["seeds"] == 2
    assert any(gone in n and "gone" in n for n in said.notes), said.err


def test_nothing_to_compare_is_the_users_to_mend(tmp_path: Path, compare: Compare) -> None:
    with refused("compare", tmp_path):
        compare(tmp_path)
    with refused("compare", tmp_path / "nowhere*"):
        compare(tmp_path / "nowhere*")


@pytest.mark.parametrize(
    "arguments", [(), ("--format", "pdf", "x"), ("--nonsense", "x"), ("--figure_format", "gif", "x")]
)
def test_a_wrong_option_is_one_line(compare: Compare, arguments: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        compare(*arguments)
    assert "\n" not in str(caught.value) and "compare" in str(caught.value)


def test_a_metric_that_no_run_has_names_the_nearest(tmp_path: Path, compare: Compare) -> None:
    with refused("--metric", "'val/acuracy'", "'val/accuracy'"):
        compare(three(tmp_path), "--metric", "val/acuracy")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path, compare: Compare) -> None:
    three(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    for option in ("--html", "--figures"):
        with refused(option, tmp_path / "file" / "below"):
            compare(tmp_path / "runs", option, tmp_path / "file" / "below")


def test_the_same_run_given_three_ways_counts_once(tmp_path: Path, compare: Compare) -> None:
    three(tmp_path)
    said = compare(
        tmp_path, tmp_path / "run-0", f"{tmp_path}/run-*", tmp_path / "run-1" / "run.json", "--format", "json"
    )
    assert [r["seeds"] for r in rows(said.out)] == [3]
    assert not said.notes
