"""Fixtures of the front door's tests: tiny networks, and a run through the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sft_lightning.cli.main import main
from sft_lightning.runs import load
from tests.autoconfig.files import ANIMALS
from tests.networks.tiny import tiny_folder, unigram


@pytest.fixture(scope="session")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny networks by what they are."""
    import timm
    import transformers as hf
    from torchvision import models

    from sft_lightning.core.structures import TaskInfo
    from sft_lightning.networks import LeNet

    root = tmp_path_factory.mktemp("nets")
    torch.manual_seed(0)
    vit = hf.ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    hf.ViTForImageClassification(vit).save_pretrained(root / "vit")
    torch.save(timm.create_model("test_resnet").state_dict(), root / "resnet.pth")
    torch.save(models.get_model("mobilenet_v3_small").state_dict(), root / "mobile.pth")
    lenet = LeNet(TaskInfo("classification", 3, list(ANIMALS), []), image_size=16)
    lenet.save_pretrained(str(root / "lenet"))
    patient = unigram()
    patient.model_max_length = 512
    return {
        "bert": tiny_folder(root / "bert", "bert", "sequence"),
        "encoder": tiny_folder(root / "encoder", "distilbert", "none"),
        "llama": tiny_folder(root / "llama", "llama", "lm", tokenizer=patient, max_position_embeddings=512),
        "t5": tiny_folder(root / "t5", "t5", "seq2seq"),
        "marian": tiny_folder(root / "marian", "marian", "seq2seq"),
        "vit": str(root / "vit"),
        "resnet": f"test_resnet={root}/resnet.pth",
        "mobile": f"torchvision:mobilenet_v3_small={root}/mobile.pth",
        "lenet": str(root / "lenet"),
    }


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`fit(base)` trains two steps of a config through the command line, and returns the run."""
    monkeypatch.setenv("SFT_RUNS_DIR", str(tmp_path / "runs"))

    def run(config: dict[str, Any], steps: int = 2) -> Any:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        capfd.readouterr()
        code = main(
            [
                "fit",
                "--config",
                str(file),
                "--trainer.max_steps",
                str(steps),
                "--wandb",
                "disabled",
                "--trainer.accelerator",
                "cpu",
            ]
        )
        said = capfd.readouterr()
        assert code == 0, f"fit refuses what was inferred: {said.err}"
        return load(next(line for line in said.out.splitlines() if line.startswith("run  ")).split(maxsplit=1)[1])

    return run
