"""Small networks of every family that the library has, to be trained in parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules import L2SPSFT, PlainSFT, SFTModule
from sft_lightning.networks import (
    LSTM,
    LeNet,
    Timm,
    Torchvision,
    TransformersImage,
    TransformersText,
    build_network,
    spec,
)
from sft_lightning.networks.spec import Spec
from tests.exactness.cases import FewTexts
from tests.networks.tiny import tiny_folder
from tests.support import NEW, FewDigits, fit, weights

VIT = {
    "model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip

IMAGES: dict[str, Spec] = {
    "LeNet": spec(LeNet, channels=1, image_size=16),
    "ViT of transformers": spec(TransformersImage, config=VIT),
    "ResNet of torchvision": spec(Torchvision, name="resnet18"),
    "EfficientNet of torchvision": spec(Torchvision, name="efficientnet_b0"),
    "ViT of timm": spec(Timm, name="test_vit"),
    "ConvNeXt of timm": spec(Timm, name="test_convnext"),
}
TEXTS: dict[str, Callable[[str], Spec]] = {
    "LSTM": lambda _: spec(LSTM, embedding_dim=8, hidden=7, vocabulary_size=60, min_count=1),
    "BERT": lambda folder: spec(TransformersText, pretrained=folder),
    "BERT with gradient checkpointing": lambda folder: spec(
        TransformersText, pretrained=folder, gradient_checkpointing=True
    ),
}
FROZEN = "BERT, the lower half frozen"
TEXTS[FROZEN] = TEXTS["BERT"]
FAMILIES = [*IMAGES, *TEXTS]


def prepare(family: str, root: Path) -> None:
    """Writes the pretrained network, once for all processes."""
    folder = root / family.replace(" ", "-")
    folder.mkdir()
    if family in IMAGES:
        torch.manual_seed(0)
        build_network(IMAGES[family], TaskInfo("classification", 3, ["a", "b", "c"])).save_pretrained(str(folder))
    elif family != "LSTM":
        tiny_folder(folder, "bert", "sequence")


def tuned(root: Path, family: str, strategy: str, precision: str = "64-true") -> dict[str, Tensor]:
    """Three steps with L2-SP, where there is a network to start from; weights, and what validation measured."""
    folder = str(root / family.replace(" ", "-"))
    sizes: dict[str, Any] = {"sizes": (21, 9, 5), "batch_size": 16, "eval_batch_size": 4}
    if family in IMAGES:
        made = IMAGES[family]
        kept = {k: v for k, v in made["init_args"].items() if k != "config"}
        network = {**made, "init_args": {**kept, "pretrained": folder}}
    else:
        network = TEXTS[family](folder)
    network["init_args"]["dropout"] = 0.0
    data = FewDigits(digits=NEW, **sizes) if family in IMAGES else FewTexts(**sizes)
    how: dict[str, Any] = {"lr": 1e-2, "freeze": {"bottom_layers": 2} if family == FROZEN else None}
    module: SFTModule = PlainSFT(network, **how) if family == "LSTM" else L2SPSFT(network, alpha=0.1, **how)
    trainer = fit(module, data, max_steps=3, precision=precision, strategy=strategy, devices=2)
    return {**weights(module), **{k: v.detach() for k, v in trainer.callback_metrics.items()}}
