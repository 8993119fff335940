"""Networks see large images in windows: as in one pass where one window holds the image, and averaged where windows overlap."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sft_lightning.cli.main import main
from sft_lightning.core.structures import InputView, TaskInfo
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.mask_folder import MaskFolder
from sft_lightning.data.vision.masks import UNLABELLED
from sft_lightning.export.formats import FORMATS
from sft_lightning.networks import TimmSegmentation, TransformersSegmentation, UNet
from sft_lightning.networks.windows import check_sizes, starts
from tests.data.vision_files import write_masks
from tests.networks.test_contract import segformer
from tests.refused import refused

TASK = TaskInfo("semantic_segmentation", 3, ["a", "b", "c"])


@pytest.fixture(scope="module")
def unet() -> UNet:
    torch.manual_seed(0)
    network = UNet(TASK, widths=[4, 6]).eval()
    network.keep_source_head(nn.Linear(4, 2), ["old0", "old1"], "semantic_segmentation")
    return network


def seen(network: Any, image: torch.Tensor, window: tuple[int, int] | None, select: Any = None) -> Any:
    network.input_view = InputView(window=window)
    with torch.no_grad():
        return network({"image": image}, select)


def test_windows_begin_every_step_and_end_where_the_image_does() -> None:
    assert starts(64, 64, 32) == [0] and starts(40, 64, 32) == [0]
    assert starts(128, 64, 32) == [0, 32, 64] and starts(160, 64, 64) == [0, 64, 96]


def test_one_window_is_one_pass_to_the_bit(unet: UNet) -> None:
    image = torch.randn(2, 3, 64, 64)
    for one, other in zip(seen(unet, image, (64, 32)), seen(unet, image, None), strict=True):
        assert one is other is None or torch.equal(one, other)


def test_outputs_are_means_over_the_windows_that_hold_a_pixel(unet: UNet) -> None:
    image = torch.randn(2, 3, 96, 128)
    found, total, count = seen(unet, image, (64, 32)), 0, torch.zeros(96, 128, 1)
    wanted = torch.zeros(2, 96, 128, 3)
    for top in (0, 32):
        for left in (0, 32, 64):
            part = seen(unet, image[..., top : top + 64, left : left + 64], None)
            wanted[:, top : top + 64, left : left + 64] += part.logits
            count[top : top + 64, left : left + 64] += 1
            total += 1
    torch.testing.assert_close(found.logits, wanted / count)
    assert total == 6 and found.source_logits.shape == (2, 96, 128, 2) and found.features.shape == (2, 96, 128, 4)
    torch.testing.assert_close(found.source_logits, unet.source_head(found.features), msg="heads are linear")
    alone = seen(unet, image, (64, 32), torch.tensor([False, True]))
    torch.testing.assert_close(alone.logits, found.logits[1:])


def test_a_network_that_sees_single_pixels_sees_the_same_in_windows(unet: UNet) -> None:
    pixels = UNet(TASK, widths=[4, 6]).eval()
    pixels.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), Last())
    image = torch.randn(1, 3, 160, 64)
    torch.testing.assert_close(seen(pixels, image, (64, 64)).logits, seen(pixels, image, None).logits)


class Last(nn.Module):
    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.permute(0, 2, 3, 1)


def test_maps_smaller_than_the_image_are_put_together_at_their_own_resolution() -> None:
    torch.manual_seed(0)
    network = TimmSegmentation(TASK, "test_resnet", width=8).eval()
    whole, found = (seen(network, torch.randn(1, 3, 96, 64), window) for window in (None, (64, 32)))
    assert found.logits.shape == whole.logits.shape and found.features.shape == whole.features.shape
    with refused("data.window", "27", "multiple of 32"):
        seen(network, torch.randn(1, 3, 91, 64), (64, 32))


def test_a_batch_of_fillers_alone_has_no_output_whatever_the_network(tmp_path: Path) -> None:
    network = TransformersSegmentation(TASK, **segformer(tmp_path)).eval()
    none = seen(network, torch.randn(2, 3, 96, 64), (64, 32), torch.tensor([False, False]))
    assert none.logits.shape == (0, 24, 16, 3) and none.features.shape[:3] == (0, 24, 16)


class Part(nn.Parameter):
    """As torch's parameter in parts, of which each rank holds one."""

    def to_local(self) -> torch.Tensor:
        return self.data


def test_parameters_in_parts_need_images_of_one_size_as_ranks_would_have_different_windows(unet: UNet) -> None:
    with refused("data.window", "fsdp2", "data.image_size"):
        check_sizes(None, [Part(torch.zeros(1))])
    check_sizes((96, 96), [Part(torch.zeros(1))])
    check_sizes(None, unet.parameters())


# ---- the data ----


def street(root: Path, **settings: Any) -> MaskFolder:
    write_masks(root, 12, side=70)
    data = MaskFolder(**{"root": str(root), "val_fraction": 0.25, "batch_size": 2, "seed": 0, "window": 32, **settings})
    data.setup()
    return data


def test_training_sees_one_window_of_each_image_and_validation_whole_images(tmp_path: Path, unet: UNet) -> None:
    data = street(tmp_path)
    view = data.settle(unet.wanted_input())
    assert view.window == (32, 32) and view.shape == (3, 32, 32) and view.size is None
    train, again = (data.splits["train"].__getitems__([Key(0, epoch), Key(1, epoch)]) for epoch in (0, 0))
    other = data.splits["train"].__getitems__([Key(0, 1), Key(1, 1)])
    assert train["x"]["image"].shape == (2, 3, 32, 32) and train["count"] == 2 * 32 * 32
    assert torch.equal(train["x"]["image"], again["x"]["image"]) and not torch.equal(
        train["x"]["image"], other["x"]["image"]
    )
    val = data.splits["val"].__getitems__([Key(0, 0)])
    assert val["x"]["image"].shape == (1, 3, 96, 96) and val["count"] == 70 * 70, "padding has no label"
    assert "images of their own size, in windows of 32×32" in data.describe()
    row = int(data.splits["val"].rows[0])
    mask = data.splits["val"].samples.mask(row)
    assert torch.equal(val["select"][0, :70, :70], mask != UNLABELLED) and torch.equal(val["y"], mask.flatten().long())


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    with refused("data.window", "multiple of 32", "40"):
        MaskFolder(root=str(tmp_path), window=40)
    with refused("data.window_overlap", "data.window"):
        MaskFolder(root=str(tmp_path), window_overlap=0.5)
    with refused("data.window", "image_size"):
        MaskFolder(root=str(tmp_path), window=64, image_size=64)
    assert MaskFolder(root=str(tmp_path), window=64, window_overlap=0.2).window == (64, 32), "not rounded to none"
    assert MaskFolder(root=str(tmp_path), window=64, window_overlap=0.0).window == (64, 64)
    for overlap in (0.4, 0.5, 0.9):
        with refused("data.window_overlap", "32"):
            MaskFolder(root=str(tmp_path), window=32, window_overlap=overlap)
    assert MaskFolder(root=str(tmp_path), window=32).window == (32, 32)
    assert MaskFolder(root=str(tmp_path), window=64, window_overlap=0.9).window == (64, 32)


def test_images_of_different_sizes_are_measured_one_by_one(tmp_path: Path, unet: UNet) -> None:
    write_masks(tmp_path / "a", 8, side=70)
    for kind in ("images", "masks"):
        Image.open(tmp_path / f"a/{kind}/3.png").crop((0, 0, 40, 66)).save(tmp_path / f"a/{kind}/3.png")
    made = {"root": str(tmp_path / "a"), "val_fraction": 0.5, "seed": 0, "window": 32}
    data = MaskFolder(**made, batch_size=2)
    data.setup()
    data.settle(unet.wanted_input())
    batches = [data.splits[s].__getitems__([Key(i, 0)]) for s in ("train", "val") for i in range(4)]
    assert {tuple(b["x"]["image"].shape[-2:]) for b in batches} == {(32, 32), (96, 96), (96, 64)} or all(
        b["x"]["image"].shape[-1] in (32, 96) for b in batches
    )
    split = data.splits["val"]
    split.rows = np.array([3, 4])
    with refused("data", "3.png", "eval_batch_size 1"):
        split.__getitems__([Key(0, 0), Key(1, 0)])


def test_fit_test_and_predict_work_on_large_images_and_masks_have_their_size(tmp_path: Path) -> None:
    write_masks(tmp_path / "data", 12, side=70)
    common = [
        *("--data", "MaskFolder", "--data.root", str(tmp_path / "data"), "--data.window", "32"),
        *("--data.test_fraction", "0.25", "--data.val_fraction", "0.25", "--data.batch_size", "2"),
        *("--network", "UNet", "--network.widths", "[4,6]", "--model", "PlainSFT", "--wandb", "disabled"),
        *("--runs_dir", str(tmp_path / "runs"), "--trainer.accelerator", "cpu", "--quiet", "true"),
    ]
    fit = [
        "fit",
        *common,
        "--trainer.max_steps",
        "2",
        "--experiment",
        "w",
        "--run_id",
        "one",
        "--test_after_fit",
        "true",
    ]
    assert main(fit) == 0
    run = tmp_path / "runs/w/one"
    out = tmp_path / "said.jsonl"
    images = tmp_path / "new"
    images.mkdir()
    Image.fromarray(np.zeros((50, 90, 3), dtype=np.uint8)).save(images / "a.png")
    assert main(["predict", str(run), "--input", str(images), "--output", str(out)]) == 0
    (mask,) = [p for p in tmp_path.rglob("*a*.png") if p.parent != images]
    assert Image.open(mask).size == (90, 50)


def test_a_library_without_windows_is_refused_by_export(tmp_path: Path) -> None:
    network = TransformersSegmentation(TASK, **segformer(tmp_path))
    assert not FORMATS["transformers"]().why_not(network)
    network.input_view = InputView(mean=(0.5,) * 3, std=(0.2,) * 3, window=(64, 32))
    assert "windows" in FORMATS["transformers"]().why_not(network)
    network.save_pretrained(str(tmp_path / "ours"))
    assert TransformersSegmentation(TASK, str(tmp_path / "ours")).input_view.window == (64, 32), (
        "it is kept with the weights"
    )
