"""What a network sees in evaluation is what its own library shows it, on images of many sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import Tensor
from torchvision import models

from sft_lightning.data import ImageFolder
from sft_lightning.data.sampler import Key
from sft_lightning.networks import LeNet, Network, Timm, Torchvision, TransformersImage
from tests.networks.vision import TASK
from tests.refused import refused
from tests.support import settle

VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
SHAPES = ((40, 70), (70, 40), (64, 64), (31, 33), (120, 50), (90, 200))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures with some noise, of several sizes."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in TASK.labels:
        (folder / name).mkdir()
        for i, (height, width) in enumerate(SHAPES):
            y, x = np.mgrid[0:height, 0:width]
            waves = [127 + 90 * np.sin(x / (5 + k) + i) * np.cos(y / (4 + 2 * k)) for k in range(3)]
            pixels = np.stack(waves, -1) + rng.normal(0, 10, (height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def seen(network: Network, root: Path, **settings: Any) -> list[tuple[Tensor, Path]]:
    """Each validation and test image as the network gets it, and its file."""
    data = ImageFolder(root=str(root), val_fraction=0.3, **settings)
    data.setup("fit")
    settle(data, network)
    shown = []
    for split in (data.splits["val"], data.splits["test"]):
        batch = data.device_transform(split.__getitems__([Key(i, 0) for i in range(len(split))]))
        paths = [split.samples.paths[row] for row in batch["rows"]]  # type: ignore[attr-defined]
        shown += list(zip(batch["x"]["image"], paths, strict=True))
    return shown


def farthest(network: Network, root: Path, theirs: Any, **settings: Any) -> float:
    """Largest difference from a library's own view, in levels of 255."""
    std = torch.tensor(network.input_spec.std or (1.0,) * 3).view(3, 1, 1)
    worst = 0.0
    for mine, path in seen(network, root, **settings):
        with Image.open(path) as image:
            other = theirs(image.convert("RGB"))
        assert mine.shape == other.shape
        worst = max(worst, float(((mine - other) * std * 255).abs().max()))
    return worst


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "a square": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "another filter": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3}),
    "size before crop": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 2},
    ),
    "crop share": ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}, "crop_pct": 0.8}),
    "blue first, not normalised": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
    ),
    "divided twice": ("EfficientNetImageProcessor", {"size": {"height": 32, "width": 32}}),
    "divided once": ("EfficientNetImageProcessor", {"size": {"height": 32, "width": 32}, "include_top": False}),
    "an offset": (
        "EfficientNetImageProcessor",
        {"size": {"height": 32, "width": 32}, "rescale_offset": True, "rescale_factor": 1 / 127.5},
    ),
    "another scale": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "rescale_factor": 1 / 127.5}),
    "no scale": (
        "ViTImageProcessor",
        {"size": {"height": 32, "width": 32}, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    ),
    "not normalised": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "do_normalize": False}),
}


@pytest.mark.parametrize("what", list(PROCESSORS))
def test_what_the_image_processor_does_is_followed_and_exported(what: str, root: Path, tmp_path: Path) -> None:
    kind, settings = PROCESSORS[what]
    config = transformers.ViTConfig(**VIT, image_size=32, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    getattr(transformers, kind)(**settings).save_pretrained(tmp_path / "model")
    for folder in ("model", "export"):
        own = transformers.AutoImageProcessor.from_pretrained(tmp_path / folder)
        network = TransformersImage(TASK, pretrained=str(tmp_path / folder))
        assert not network.report.notes
        assert (
            farthest(network, root, lambda image, own=own: own(image, return_tensors="pt")["pixel_values"][0]) < 0.01
        ), f"{what}: the {folder} folder's network does not see what its processor shows"
        if folder == "model":
            network.save_pretrained(str(tmp_path / "export"))


def test_a_processor_that_cannot_be_followed_is_said(root: Path, tmp_path: Path) -> None:
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, image_size=32)).save_pretrained(tmp_path)
    for values in (
        {"image_processor_type": "NoSuchProcessor", "size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3},
        {"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 32, "longest_edge": 64}},
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
        network = TransformersImage(TASK, pretrained=str(tmp_path))
        assert network.input_spec.size == (32, 32)
        assert any(f"{values['image_processor_type']} is not used" in note for note in network.report.lines())


def test_a_size_that_is_set_wins_and_is_said_and_the_order_of_channels_stays(root: Path, tmp_path: Path) -> None:
    transformers.ViTForImageClassification(transformers.ViTConfig(**VIT, image_size=32)).save_pretrained(tmp_path)
    kind, settings = PROCESSORS["blue first, not normalised"]
    getattr(transformers, kind)(**settings).save_pretrained(tmp_path)
    network = TransformersImage(TASK, pretrained=str(tmp_path))
    image, path = seen(network, root, image_size=24)[0]
    assert "images are 24×24, set by the data.image_size" in " ".join(network.report.lines())
    with Image.open(path) as picture:
        order = np.array(picture.convert("RGB")).mean((0, 1))[::-1] / 255
    assert image.shape == (3, 24, 24) and np.abs(image.mean((1, 2)).numpy() - order).max() < 0.1


@pytest.mark.parametrize(
    "cfg",
    [
        {"crop_pct": 0.875, "interpolation": "bicubic"},
        {"crop_pct": 0.95, "interpolation": "bilinear"},
        {"crop_pct": 0.9, "interpolation": "lanczos", "crop_mode": "squash"},
        {"crop_pct": 1.0, "interpolation": "bicubic", "crop_mode": "center"},
    ],
)
def test_timms_own_view_is_followed_to_the_bit_and_travels_with_exports(
    cfg: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    full = {"input_size": [3, 48, 48], "mean": [0.5] * 3, "std": [0.25] * 3, **cfg}
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": full}))
    theirs = create_transform(**resolve_data_config(pretrained_cfg=full), is_training=False)
    network = Timm(TASK, "test_resnet", pretrained=str(tmp_path))
    assert farthest(network, root, theirs) < 1e-3
    network.save_pretrained(str(tmp_path / "export"))
    assert farthest(Timm(TASK, "test_resnet", pretrained=str(tmp_path / "export")), root, theirs) < 1e-3


def test_timms_padded_view_is_said_not_to_be_followed(tmp_path: Path) -> None:
    full = {"input_size": [3, 48, 48], "crop_mode": "border"}
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": full}))
    notes = Timm(TASK, "test_resnet", pretrained=str(tmp_path)).report.notes
    assert len(notes) == 1 and "crop_mode border" in notes[0]


@pytest.mark.parametrize(
    "weights", [models.MobileNet_V3_Small_Weights.IMAGENET1K_V1, models.ResNet18_Weights.IMAGENET1K_V1]
)
def test_torchvisions_own_view_is_followed_to_the_bit(
    weights: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "mobilenet_v3_small" if "MobileNet" in str(type(weights)) else "resnet18"
    state = models.get_model(name, weights=None).state_dict()
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **kwargs: state)
    assert farthest(Torchvision(TASK, name, pretrained="IMAGENET1K_V1"), root, weights.transforms()) < 1e-3


# ---- sizes ----


@pytest.mark.parametrize(
    ("make", "settings", "key", "values"),
    [
        (
            lambda: LeNet(TASK),
            {"image_size": 16},
            "network.image_size",
            ["16×16", "set network.init_args.image_size 16"],
        ),
        (
            lambda: Torchvision(TASK, "alexnet"),
            {"image_size": 32},
            "network",
            ["Torchvision alexnet", "32×32", "set data.init_args.image_size 64"],
        ),
        (
            lambda: Timm(TASK, "test_vit", image_size=30),
            {},
            "network",
            ["Timm test_vit", "30×30", "set network.init_args.image_size"],
        ),
        (
            lambda: TransformersImage(TASK, config={"model_type": "vit", **VIT, "image_size": 32}),
            {"image_size": 5},
            "network",
            ["TransformersImage", "5×5", "set data.init_args.image_size 28"],
        ),
    ],
)
def test_a_size_that_a_network_cannot_take_is_one_line_before_training(
    make: Any, settings: dict[str, Any], key: str, values: list[str], root: Path
) -> None:
    network = make().train()
    data = ImageFolder(root=str(root), **settings)
    data.setup("fit")
    with refused(key, *values):
        settle(data, network)
    assert network.training and all(module.training for module in network.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_another_precision_takes_its_size(dtype: torch.dtype, root: Path) -> None:
    seen(LeNet(TASK, image_size=16).to(dtype), root)


# ---- names in state dicts ----


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "module._orig_mod.model."]
)
def test_what_stands_before_all_names_is_taken_off_and_said(prefix: str, tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    torch.save({"state_dict": {prefix + n: v for n, v in state.items()}, "epoch": 3}, tmp_path / "a.pth")
    network = Timm(TASK, "test_resnet", pretrained=str(tmp_path / "a.pth"))
    assert not network.report.missing and not network.report.unexpected and network.source_head is not None
    assert network.report.notes == [f"'{prefix}' taken off all of the file's {len(state)} names"]
    assert torch.equal(network.encoder.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_other_tensors_beside_the_networks_own_are_unexpected_and_two_networks_are_refused(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    mine = {f"model.{n}": v for n, v in state.items()}
    torch.save({**mine, "criterion.weight": torch.ones(3)}, tmp_path / "loss.pth")
    network = Timm(TASK, "test_resnet", pretrained=str(tmp_path / "loss.pth"))
    assert network.report.unexpected == ["criterion.weight"] and not network.report.missing
    torch.save({**mine, **{f"ema.{n}": v for n, v in state.items()}}, tmp_path / "two.pth")
    with refused("network.pretrained", tmp_path / "two.pth", "'model.'", "'ema.'"):
        Timm(TASK, "test_resnet", pretrained=str(tmp_path / "two.pth"))


def test_which_of_a_files_state_dicts_is_taken_is_said(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=5).state_dict()
    ema = {n: v + 1 for n, v in state.items()}

    def notes(content: Any) -> str:
        torch.save(content, tmp_path / "a.pth")
        network = Timm(TASK, "test_resnet", pretrained=str(tmp_path / "a.pth"))
        assert torch.equal(network.encoder.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
        return " ".join(network.report.lines())

    assert "under 'net' are taken" in notes({"net": state, "acc": 91.0, "epoch": 3})
    assert "under 'state_dict' are taken; state_dict_ema beside it is not" in notes(
        {"state_dict_ema": ema, "state_dict": state}
    )
    assert "under 'model' are taken; model_ema beside it is not" in notes({"model": state, "model_ema": ema})
    assert "under 'checkpoint.model' are taken" in notes({"checkpoint": {"model": state, "args": {"lr": 0.1}}})
    torch.save({"optimizer": {"lr": 0.1}, "epoch": 3}, tmp_path / "none.pth")
    with refused("network.pretrained", tmp_path / "none.pth", "optimizer (1 name)", "epoch (int)"):
        Timm(TASK, "test_resnet", pretrained=str(tmp_path / "none.pth"))
    torch.save({"student": state, "teacher": ema}, tmp_path / "several.pth")
    with refused("network.pretrained", tmp_path / "several.pth", "student, teacher"):
        Timm(TASK, "test_resnet", pretrained=str(tmp_path / "several.pth"))


def test_names_alone_that_differ_are_told_to_go_by_order(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=3).state_dict()
    torch.save({f"all.t{i}": v for i, v in enumerate(state.values())}, tmp_path / "a.pth")
    with refused("network.pretrained", tmp_path / "a.pth", "'all.'", "set network.init_args.match order") as error:
        Timm(TASK, "test_resnet", pretrained=str(tmp_path / "a.pth"))
    assert "\n" not in str(error.value)
