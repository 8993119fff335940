"""Every study under experiments/ablations is read, resolved, and as far as its data are here, run small."""

from pathlib import Path

import pytest

from sft_lightning.ablation.plan import Plan
from sft_lightning.ablation.study import read_study
from sft_lightning.cli.main import main
from sft_lightning.config.resolve import resolve

FOLDER = Path(__file__).resolve().parents[2] / "experiments/ablations"
STUDIES = sorted(FOLDER.glob("*.yaml"))
LONG = ("extend-digits", "trec-minilm")
"""Those with more than 50 points each, of which `make test` resolves one other, digits"""


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=pytest.mark.slow if file.stem in LONG else (), id=file.stem) for file in STUDIES],
)
def test_a_shipped_study_resolves_and_has_the_baselines_tuned(file):
    study = read_study(file)
    configs = Plan(study, resolve).check()
    assert len(configs) == len(study.cells) * sum(len(arm.settings) for arm in study.arms)
    plain = study.arm(study.baseline)
    assert plain.tune, f"{file.name}: the baseline's learning rate is not tuned, but the anchors' strength is"
    models = [a.overlay.get("model", {}) for a in study.arms]
    unsolvable = ("TransformersLM", "TransformersSeq2Seq", "Segmentation")  # outputs that are kept, or of maps
    extends = configs[0]["data"]["class_path"].endswith("Extend")  # old rows of the output layer are kept
    keeps_outputs = extends or configs[0]["network"]["class_path"].endswith(unsolvable)
    frozen = [m for m in models if "freeze" in m.get("init_args", m)]
    probes = frozen if keeps_outputs else [m for m in models if m.get("class_path") == "LinearProbe"]
    assert probes, f"{file.name}: there is no linear probe (or, without a new head, no frozen arm) to compare with"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "coloured-digits"])
def test_a_shipped_study_runs(name, tmp_path):
    short = ["--set", "trainer.max_epochs=1", "--set", "trainer.check_val_every_n_epoch=1", "--wandb", "disabled"]
    where = ["--config", str(FOLDER / f"{name}.yaml"), "--runs_dir", str(tmp_path), "--workers", "2", "--threads", "1"]
    assert main(["ablate", *where, *short, "--seeds", "1", "--quiet"]) == 0
