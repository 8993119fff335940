"""Runs that `fit` really made, read by `compare`; and what `compare` costs to start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.conftest import Compare

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain and distilled digits, two seeds each, two epochs."""
    from sft_lightning.cli.main import main

    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for name in ("plain", "distill"):
            for seed in ("0", "1"):
                options = ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1", "--quiet", "true"]
                seeds = ["--seed_everything", seed, "--data.subset_seed", seed, "--run_id", f"{name}-{seed}"]
                places = ["--config", f"experiments/digits/{name}.yaml", "--runs_dir", str(folder)]
                assert main(["fit", *places, "--wandb", "disabled", *options, *seeds]) == 0
    return folder


def test_fitted_runs_are_grouped_and_their_values_are_those_of_their_records(fitted: Path, compare: Compare) -> None:
    said = compare(fitted, "--format", "json", "--html", fitted / "page.html")
    rows = {r["arm"]: r for r in json.loads(said.out)["rows"]}
    assert {a: r["seeds"] for a, r in rows.items()} == {"digits-plain": 2, "digits-distill": 2}
    for arm, row in rows.items():
        records = [json.loads(p.read_text())["test"] for p in fitted.glob(f"{arm}/*/run.json")]
        for metric, name in (("test/accuracy", "test/accuracy"), ("test/retention/accuracy", "retention/accuracy")):
            assert row[metric] == pytest.approx(sum(r[name] for r in records) / 2)
    assert '"plane"' in (fitted / "page.html").read_text()


def test_compare_starts_without_torch() -> None:
    program = (
        "import sys\nfrom sft_lightning.cli import compare\nfrom sft_lightning.report import export, page\n"
        "print([m for m in ('torch', 'lightning', 'transformers', 'pandas') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert ended.stdout.strip() == "[]", f"compare should answer at once; it loads {ended.stdout}{ended.stderr}"
