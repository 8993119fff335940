"""`predict` writes masks as PNG with a palette, of each image's own size, in the order of the data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sft_lightning.callbacks import WritePredictions
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import MaskFolder
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import UNet, spec
from tests.data.vision_files import squares
from tests.support import quiet_trainer


def predicted(root: Path, images: Path, **settings: Any) -> list[dict[str, Any]]:
    data = MaskFolder("no masks", predict_root=str(images), image_size=12, batch_size=2, seed=0, **settings)
    module = PlainSFT(spec(UNet, widths=[4, 8]), task=TaskInfo("semantic_segmentation", 3, ["a", "b", "c"]).to_dict())
    trainer = quiet_trainer(callbacks=[WritePredictions(root / "predictions.jsonl")])
    trainer.predict(module, data, return_predictions=False)
    return [json.loads(line) for line in (root / "predictions.jsonl").read_text().splitlines()]


def test_masks_are_of_their_images_size_in_order_and_none_is_left_from_before(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for i, pixels in enumerate(squares(5)[0]):
        Image.fromarray(pixels).resize((20 + i, 10)).save(images / f"{i}.png")
    (images / "2.png").write_bytes(b"no image")
    found = predicted(tmp_path, images, on_bad_sample="skip", overlays=True)
    assert [line["index"] for line in found] == [0, 1, 3, 4]
    assert [line["mask"] for line in found] == [f"masks/00000{i}-{i}.png" for i in (0, 1, 3, 4)]
    for line in found:
        mask, overlay = (Image.open(tmp_path / line[kind]) for kind in ("mask", "overlay"))
        assert mask.size == overlay.size == (20 + line["index"], 10)
        assert mask.mode == "P" and mask.getpalette()[3:6] == [128, 0, 0], "VOC's colour of class 1"
        assert set(np.unique(np.array(mask))) <= {0, 1, 2} and sum(line["pixels"]) == 144
    for i in (1, 2, 3, 4):
        (images / f"{i}.png").unlink()
    again = predicted(tmp_path, images)
    assert [line["mask"] for line in again] == ["masks/000000-0.png"] and "overlay" not in again[0]
    assert [p.name for p in (tmp_path / "masks").iterdir()] == ["000000-0.png"]
    assert not list((tmp_path / "overlays").iterdir())
