"""`runs list`, `runs show` and `runs clean`, on runs that were made before."""

import json
import os
import shutil
from pathlib import Path

import pytest

from sft_lightning.cli.main import main
from sft_lightning.core.metric_info import OF_TEXTS
from sft_lightning.tasks.texts import TEXT_METRICS
from tests.refused import check_printed

BEFORE = Path(__file__).parents[1] / "compat" / "before"


@pytest.fixture
def garden(tmp_path: Path) -> Path:
    """Three finished runs, a failed one, and a study."""
    for name in ("digits-plain", "digits-distill", "digits-lwf", "small-study"):
        shutil.copytree(BEFORE / name, tmp_path / name)
    shutil.copytree(BEFORE / "digits-plain" / "before", tmp_path / "digits-plain" / "broken")
    change(tmp_path / "digits-plain" / "broken", status="failed")
    return tmp_path


def change(run: Path, **values: object) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, **values}))


def rows(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines() if "before" in line or "broken" in line]


def test_list_filters_and_sorts(garden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = "val/accuracy"
    assert (
        main(["runs", "list", str(garden), "--metric", metric, "--sort", metric, "--where", "experiment=digits-*"]) == 0
    )
    out = capsys.readouterr().out
    assert "4 runs in" in out
    values = {
        name: json.loads((garden / name / "before" / "run.json").read_text())["metrics"][metric]["best"]
        for name in ("digits-plain", "digits-distill", "digits-lwf")
    }
    best = sorted(values, key=lambda name: -values[name])
    listed = [row.partition("/")[0] for row in rows(out) if row.endswith("before")]
    assert listed == best
    assert main(["runs", "list", str(garden), "--where", "status=failed"]) == 0
    assert rows(capsys.readouterr().out) == ["digits-plain/broken"]
    assert main(["runs", "list", str(garden)]) == 0
    assert "10 runs in" in capsys.readouterr().out, "the study's six points are not listed"


def test_show_says_metrics_with_their_n(garden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", str(garden / "digits-distill" / "before")]) == 0
    out = capsys.readouterr().out
    for told in (
        "DistillSFT on MLP, seed 0",
        "builtin:digits-0-4",
        "val/accuracy",
        "0.6131",
        "168",
        "retention/accuracy",
    ):
        assert told in out


def test_show_counts_the_samples_whose_texts_were_scored_and_those_of_the_test_apart(
    garden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = garden / "digits-distill" / "before"
    values = {"val/perplexity": 3.0, "val/wer": 0.25, "retention/wer": 0.5, "retention/agreement": 0.75}
    change(
        run,
        metrics={name: {"best": value, "final": value} for name, value in [*values.items(), ("test/wer", 0.3)]},
        test={"test/wer": 0.3},
        n={
            "val": 40,
            "generated": 7,
            "retention": 30,
            "retention_generated": 5,
            "drift": 12,
            "test": 60,
            "test/generated": 50,
        },
    )
    assert main(["runs", "show", str(run)]) == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines() if "│" in line
    ]
    assert {row[0]: (row[4], row[5], row[6]) for row in rows} == {
        "val/perplexity": ("40", "–", "–"),
        "val/wer": ("7", "0.3000", "50"),
        "retention/wer": ("5", "–", "–"),
        "retention/agreement": ("12", "–", "–"),
    }


def test_scores_of_texts_are_those_of_the_tasks() -> None:
    assert set(OF_TEXTS) == set(TEXT_METRICS)


def test_clean_shows_what_would_go_and_removes_it_only_when_told(
    garden: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distill, plain = (garden / name / "before" / "checkpoints" for name in ("digits-distill", "digits-plain"))
    for folder in (distill, plain):
        folder.mkdir(exist_ok=True)
        (folder / "best.ckpt").write_bytes(b"best")
    (distill / "last.ckpt").write_bytes(b"last" * 100)
    (plain / "last.ckpt").unlink(missing_ok=True)
    os.link(plain / "best.ckpt", plain / "last.ckpt")
    assert main(["runs", "clean", str(garden)]) == 0
    out = capsys.readouterr().out
    assert "digits-distill/before/checkpoints/last.ckpt  not chosen" in out
    assert "digits-plain/broken  failed" in out
    assert "nothing was removed" in out and "--yes" in out
    assert (distill / "last.ckpt").is_file() and (garden / "digits-plain" / "broken").is_dir()
    assert main(["runs", "clean", str(garden), "--yes", "--where", "status=finished"]) == 0
    assert "removed 1 item, 400 bytes" in capsys.readouterr().out
    assert not (distill / "last.ckpt").exists() and (distill / "best.ckpt").is_file()
    assert (plain / "last.ckpt").is_file(), "last.ckpt is the chosen checkpoint here"
    assert (garden / "digits-plain" / "broken").is_dir(), "the filter was not followed"
    assert main(["runs", "clean", str(garden), "--yes"]) == 0
    assert not (garden / "digits-plain" / "broken").exists()
    assert main(["fit", "--resume", str(garden / "digits-distill" / "before")]) == 2
    assert "runs clean" in capsys.readouterr().err


def test_interrupted_runs_and_points_of_studies_stay(garden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(garden / "digits-plain" / "broken", status="interrupted")
    change(garden / "small-study" / "0253875f9918", status="failed")
    assert main(["runs", "clean", str(garden), "--yes"]) == 0
    assert "1 failed point of studies stay" in capsys.readouterr().out
    assert (garden / "digits-plain" / "broken").is_dir() and (garden / "small-study" / "0253875f9918").is_dir()


def test_wrong_input_is_one_line(tmp_path: Path, garden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, key, told in (
        (["list", str(empty)], empty, "SFT_RUNS_DIR"),
        (["list", str(tmp_path / "none")], tmp_path / "none", "SFT_RUNS_DIR"),
        (["list", str(garden), "--sort", "val/acuracy"], "--sort", "val/accuracy"),
        (["list", str(garden), "--where", "varian=x"], "--where", "'variant'"),
        (["list", str(garden), "--yes"], "--yes", "list"),
        (["show"], "runs show", "directory"),
        (["show", str(empty)], empty, "run.json"),
        (["clean", str(garden), "--metric", "val/loss"], "--metric", "clean"),
    ):
        assert main(["runs", *arguments]) == 2
        check_printed(capsys.readouterr().err, key, told)


def test_a_cleaned_run_can_still_be_tested_with_the_same_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", "--runs_dir", str(tmp_path)]
    assert main([*start, "--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2", "--run_id", "one"]) == 0
    (run,) = tmp_path.glob("*/one")
    before = json.loads((run / "run.json").read_text())["test"]
    (run / "checkpoints" / "epoch-1.ckpt").write_bytes(b"another one")
    if (run / "checkpoints" / "last.ckpt").samefile(run / "checkpoints" / "best.ckpt"):
        (run / "checkpoints" / "last.ckpt").unlink()  # as where another checkpoint is the best, and the last is removed
    assert main(["runs", "clean", str(tmp_path), "--yes"]) == 0
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["best.ckpt"]
    assert main(["test", "--run", str(run)]) == 0
    assert json.loads((run / "run.json").read_text())["test"] == before


def test_clean_removes_nothing_outside_of_the_folder(
    garden: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path_factory.mktemp("out side")
    shutil.move(garden / "digits-plain", outside / "digits-plain")
    (garden / "linked").symlink_to(outside / "digits-plain")
    kept = outside / "checkpoints"
    shutil.rmtree(garden / "digits-lwf" / "before" / "checkpoints", ignore_errors=True)
    kept.mkdir()
    for name in ("best", "last"):
        (kept / f"{name}.ckpt").write_text(name)
    (garden / "digits-lwf" / "before" / "checkpoints").symlink_to(kept)
    assert main(["runs", "clean", str(garden), "--yes"]) == 0
    out = capsys.readouterr().out
    assert "2 runs outside of" in out and "nothing may go" in out
    assert (outside / "digits-plain" / "broken" / "run.json").is_file()
    assert sorted(file.name for file in kept.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_clean_counts_a_run_once_to_which_a_link_leads_and_keeps_one_with_an_export(
    garden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (garden / "again").symlink_to(garden / "digits-plain")
    broken = garden / "digits-plain" / "broken"
    shutil.copytree(broken, garden / "digits-plain" / "exported")
    (garden / "digits-plain" / "exported" / "export" / "timm").mkdir(parents=True)
    (garden / "digits-plain" / "exported" / "export" / "timm" / "parity.json").write_text("{}")
    assert main(["runs", "clean", str(garden), "--yes"]) == 0
    assert "removed 1 item" in capsys.readouterr().out
    assert not broken.exists() and (garden / "digits-plain" / "exported").exists()


def test_a_damaged_record_is_listed_without_what_is_damaged_and_is_not_shown(
    garden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = garden / "digits-plain" / "before"
    change(run, times=[1], n=[2], primary=["a"], test=[1], metric_info=[3], data=4, retention="5", pretrained=[6])
    assert main(["runs", "list", str(garden), "--sort", "val/accuracy"]) == 0
    assert "digits-plain/before" in capsys.readouterr().out
    assert main(["runs", "show", str(run)]) == 2
    check_printed(capsys.readouterr().err, run / "run.json", "must be an object")
