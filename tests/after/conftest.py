"""Tiny runs on the digits, made once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sft_lightning.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Name: directory of a finished run."""
    root, here = tmp_path_factory.mktemp("after"), Path.cwd()
    flags = ["--runs_dir", str(root), "--run_id", "one", "--wandb", "disabled", "--quiet", "true"]
    epochs = ["--trainer.max_epochs", "40", "--trainer.check_val_every_n_epoch", "20"]
    os.chdir(ROOT)
    try:
        for name, more in (("plain", epochs), ("probe", [])):
            assert main(["fit", "--config", f"experiments/digits/{name}.yaml", *flags, *more]) == 0
        blind = [
            "--experiment",
            "digits-blind",
            "--trainer.limit_val_batches",
            "0",
            "--trainer.max_epochs",
            "1",
            "--test_after_fit",
            "false",
        ]
        assert main(["fit", "--config", "experiments/digits/plain.yaml", *flags, *blind]) == 0
        yield {name: root / f"digits-{name}" / "one" for name in ("plain", "probe", "blind")}
    finally:
        os.chdir(here)
