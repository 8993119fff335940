"""Which loose runs are one setting, which are repetitions, and which are paired."""

import json
from pathlib import Path

import yaml

from sft_lightning.report import loose_statistics, read
from sft_lightning.report.build import compare as build
from sft_lightning.report.model import Comparison
from sft_lightning.report.summary import Row, rows
from tests.report.written import write_run


def built(path: Path) -> tuple[Comparison, list[Row]]:
    comparison = build(read.collect([str(path)]))
    found = rows(comparison)
    loose_statistics.add(comparison, found)
    return comparison, found


def change(run: Path, drawn: str | None = None, **trainer: object) -> None:
    """Gives a written run a fingerprint of its labelled samples, or settings of the trainer."""
    record = json.loads((run / "run.json").read_text())
    if drawn is not None:
        record["data"]["fingerprint"]["train"] = drawn
    (run / "run.json").write_text(json.dumps(record))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["trainer"] |= trainer
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def test_one_batch_and_all_of_them_are_two_settings(tmp_path: Path) -> None:
    for i, limit in enumerate((1, 1.0, 1, 1.0)):
        write_run(tmp_path / f"{i}", seed=i // 2)
        change(tmp_path / f"{i}", limit_val_batches=limit)
    assert [(r.setting, r.n) for r in built(tmp_path)[1]] == [("limit_val_batches 1", 2), ("limit_val_batches 1.0", 2)]


def test_settings_that_differ_beyond_six_digits_are_two(tmp_path: Path) -> None:
    for i, lr in enumerate((0.12345671, 0.12345672)):
        write_run(tmp_path / f"{i}", settings={"lr": lr})
    assert [r.setting for r in built(tmp_path)[1]] == ["lr 0.12345671", "lr 0.12345672"]


def test_runs_of_one_seed_on_other_labelled_samples_are_repetitions(tmp_path: Path) -> None:
    for i in range(4):
        write_run(tmp_path / f"{i}", seed=0, data={"subset_seed": i})
        change(tmp_path / f"{i}", f"subset {i}")
    assert [r.n for r in built(tmp_path)[1]] == [4], "four labelled subsets counted as one seed"


def test_runs_are_paired_by_seed_and_labelled_samples(tmp_path: Path) -> None:
    for variant, shift in (("PlainSFT", 0), ("L2SPSFT", 1)):
        for i in range(5):
            write_run(tmp_path / f"{variant}-{i}", variant=variant, seed=0, data={"subset_seed": i + shift})
            change(tmp_path / f"{variant}-{i}", f"subset {i + shift}")
    comparison, _ = built(tmp_path)
    (difference,) = comparison.cells[0].statistics["differences"]["target"]
    assert (difference["n"], difference["dropped"]) == (4, 2), "a pair is two runs on the same labelled samples"


def test_runs_on_other_labelled_samples_are_not_paired_though_their_seeds_are_the_same(tmp_path: Path) -> None:
    for variant in ("PlainSFT", "L2SPSFT"):
        for seed in range(4):
            write_run(tmp_path / f"{variant}-{seed}", variant=variant, seed=seed)
            change(tmp_path / f"{variant}-{seed}", f"{variant} {seed}")
    comparison, _ = built(tmp_path)
    assert comparison.cells[0].statistics is None
    assert any("trained on other labelled samples" in note for note in comparison.notes)


def test_a_probe_among_loose_runs_is_a_reference(tmp_path: Path) -> None:
    for variant in ("PlainSFT", "LinearProbe", "L2SPSFT"):
        for seed in range(3):
            write_run(tmp_path / f"{variant}-{seed}", variant=variant, seed=seed)
            change(tmp_path / f"{variant}-{seed}", f"subset {seed}")
    comparison, _ = built(tmp_path)
    assert comparison.cells[0].statistics["references"] == ["LinearProbe"]
    assert "for reference, LinearProbe keeps all by construction" in comparison.cells[0].answer
