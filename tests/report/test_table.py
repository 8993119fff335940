"""What is printed, in each format."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.report.conftest import Compare
from tests.report.written import write_run

HOSTILE = "a|b*<i>&\\x_%$#{~^"


def test_the_terminal_table_has_arms_means_best_and_answer(study: Path, compare: Compare) -> None:
    out = compare(study).out
    for arm in ("probe", "plain", "l2sp", "feature-anchor", "logit-anchor"):
        assert len(re.findall(rf"^ *◆? *{arm} ", out, re.M)) == 2, f"{arm} should have a row in both cells:\n{out}"
    assert re.search(r"◆ plain .*0\.\d{4} ± 0\.\d{4} \*", out), "plain learned the most, and is on the front"
    assert "With shots_per_class 5, " in out, "the study's own answer"


def test_csv_has_one_row_per_arm_and_cell(study: Path, compare: Compare) -> None:
    found = list(csv.DictReader(io.StringIO(compare(study, "--format", "csv").out)))
    assert len(found) == 10
    assert {"shots_per_class", "arm", "setting", "seeds", "test/accuracy", "test/accuracy std", "fit_s"} <= set(
        found[0]
    )
    assert all(0 < float(r["test/accuracy"]) < 1 and int(r["seeds"]) == 3 for r in found)


def test_json_is_one_object_and_nothing_else(study: Path, compare: Compare, tmp_path: Path) -> None:
    said = compare(study, "--format", "json", "--html", tmp_path / "x.html")
    content = json.loads(said.out)
    assert len(content["rows"]) == 10 and len(content["answer"]) == 2 and content["baseline"] == "plain"
    assert "x.html" in said.err, "where the page lies is said beside the data, not in them"


def runs_of(root: Path, counts: list[dict[str, int]], trainer: dict[str, object], sizes: tuple[int, int]) -> list[Path]:
    """Two runs of one arm, as far as they are told apart here."""
    paths = [root / "a", root / "b"]
    for seed, (path, count, size) in enumerate(zip(paths, counts, sizes, strict=True)):
        record = write_run(path, seed=seed)
        (path / "run.json").write_text(json.dumps({**record, "n": count}))
        config = yaml.safe_load((path / "config.yaml").read_text())
        config["trainer"] = trainer
        config["data"] = {"class_path": "Digits", "init_args": {"eval_batch_size": size}}
        (path / "config.yaml").write_text(yaml.safe_dump(config))
    return paths


def test_a_table_says_of_how_many_samples_its_numbers_are(tmp_path: Path, compare: Compare) -> None:
    counts = [{"val": 90, "test": 450, "test/retention": 451, "test/drift": n} for n in (400, 440)]
    runs = runs_of(tmp_path, counts, {}, (8, 8))
    line = "measured on 450 test samples, retention on 451, drift on 400 to 440"
    values = [json.loads((run / "run.json").read_text())["test"] for run in runs]
    worst = max(np.std(np.arange(450) < round(450 * v["test/accuracy"])) / np.sqrt(450) for v in values)
    line += f"; standard error over samples at most {100 * worst:.1f} points in test/accuracy"
    assert line in compare(*runs).out
    assert line in compare(*runs, "--format", "markdown").out
    (row,) = csv.DictReader(io.StringIO(compare(*runs, "--format", "csv").out))
    assert (row["samples test"], row["samples drift"]) == ("450", "400 to 440")


@pytest.mark.parametrize(("limit", "rows"), [(None, 1), (0.5, 1), (3, 2)], ids=["all", "a share", "so many batches"])
def test_the_size_of_evaluation_batches_is_a_setting_where_a_limit_counts_batches(
    tmp_path: Path, compare: Compare, limit: object, rows: int
) -> None:
    runs = runs_of(tmp_path, [{}, {}], {"limit_val_batches": limit}, (8, 64))
    assert len(list(csv.DictReader(io.StringIO(compare(*runs, "--format", "csv").out)))) == rows


def test_names_are_escaped_in_latex_and_markdown(tmp_path: Path, compare: Compare) -> None:
    write_run(tmp_path / "a", experiment=HOSTILE)
    write_run(tmp_path / "b", experiment="calm", seed=1)
    latex = compare(tmp_path, "--format", "latex").out
    assert (
        r"a\textbar{}b*\textless{}i\textgreater{}\&\textbackslash{}x\_\%\$\#\{\textasciitilde{}\textasciicircum{}"
        in latex
    )
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 1
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", r)) for r in rows}) == 1, f"each row should have as many columns:\n{latex}"
    markdown = compare(tmp_path, "--format", "markdown").out
    assert r"a\|b\*&lt;i&gt;&amp;\\x\_%$#{\~^" in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, markdown


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path: Path, compare: Compare) -> None:
    write_run(tmp_path / "a", experiment="\x1b[31mred\x07")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "run.json").write_text("{")
    said = compare(tmp_path)
    assert "\x1b" not in said.out + said.err and "red" in said.out


def test_metrics_that_are_asked_for_are_the_columns(study: Path, compare: Compare) -> None:
    out = compare(
        study, "--metric", "val/loss", "--metric", "drift/kl,retention/forgetting", "--format", "markdown"
    ).out
    assert "test/loss | test/drift/kl | test/retention/forgetting" in out.replace("\\_", "_")


@pytest.mark.parametrize(("width", "hidden"), [(70, "fit, seeds"), (200, None)])
def test_a_narrow_terminal_loses_whole_columns_the_least_first_and_says_which(
    width: int, hidden: str | None, study: Path, compare: Compare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sft_lightning.report.table.LEAST", 60)
    out = compare(study).out
    rows = [line for line in out.splitlines() if " ± " in line and not line.startswith("mean")]
    assert rows and max(map(len, rows)) <= width
    assert all(re.search(r"\d\.\d{4} ± \d\.\d{4}", row) for row in rows), f"a number was broken:\n{out}"
    assert re.search(r"logit-anchor .* ± ", out), "a name was broken"
    said = [line for line in out.splitlines() if "columns have no room for" in line]
    assert said == [] if hidden is None else hidden in said[0]
