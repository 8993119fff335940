"""Two tiny runs on the digits, made once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sft_lightning.cli.main import main

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "distill": {"trainer.max_epochs": 60, "trainer.check_val_every_n_epoch": 60},
    "plain": {"trainer.max_epochs": 60, "trainer.check_val_every_n_epoch": 60},
}
"""Settings of each run; both are fitted on the same samples"""
MEASURED = {
    "calibration": True,
    "retention_sets": {
        "itself": "retention",
        "noise": {"corruption": "noise", "severity": 2},
        "more": {"class_path": "Digits", "init_args": {"classes": [0, 1, 2, 3, 4], "val_fraction": 0.4}},
    },
}
"""What both measure beside"""


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Name: directory of a finished run."""
    root, made, here = tmp_path_factory.mktemp("gate"), {}, Path.cwd()
    os.chdir(ROOT)
    beside = root / "measured.yaml"
    beside.write_text(yaml.safe_dump(MEASURED))
    try:
        for name, settings in SETTINGS.items():
            command = [
                "fit",
                "--config",
                f"experiments/digits/{name}.yaml",
                "--config",
                str(beside),
                "--runs_dir",
                str(root),
                "--experiment",
                name,
            ]
            flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
            assert main([*command, "--run_id", "one", *flags]) == 0
            made[name] = root / name / "one"
        yield made
    finally:
        os.chdir(here)
