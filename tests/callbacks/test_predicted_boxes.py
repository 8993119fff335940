"""`predict` on a folder or a file: boxes in pixels of the files as JSONL and COCO JSON, and drawn over the images."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from sft_lightning.callbacks import WritePredictions
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import CocoDetection
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import TimmDetection, spec
from tests.data.box_files import write_coco, write_images
from tests.support import quiet_trainer

SMALL = {"name": "test_resnet", "width": 64, "convolutions": 1, "score_threshold": 0.0}


def predicted(images: Path, out: Path, **settings: object) -> list[dict[str, object]]:
    given = {"image_size": 64, "batch_size": 3, "seed": 0, **settings}
    data = CocoDetection("no boxes", predict_root=str(images), **given)
    info = TaskInfo("object_detection", 2, ["disc", "square"]).to_dict()
    module = PlainSFT(spec(TimmDetection, **SMALL), task=info)
    path = out / "predictions.jsonl"
    quiet_trainer(callbacks=[WritePredictions(path)]).predict(module, data, return_predictions=False)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_boxes_are_in_pixels_of_the_files_in_order_and_listed_as_coco_has_them(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 4)
    Image.new("RGB", (200, 30)).save(tmp_path / "images" / "4.png")
    lines = predicted(tmp_path / "images", tmp_path, overlays=True)
    assert [line["index"] for line in lines] == list(range(5))
    assert [Path(str(line["file"])).name for line in lines] == [f"{n}.png" for n in range(5)]
    wide = lines[4]
    assert (wide["height"], wide["width"]) == (30, 200)
    assert all(0 <= x1 <= x2 <= 200 and 0 <= y1 <= y2 <= 30 for x1, y1, x2, y2 in wide["boxes"])  # type: ignore[attr-defined]
    assert max(box[2] for box in wide["boxes"]) > 64, "pixels of the network's image, not of the file"  # type: ignore[attr-defined]
    found = json.loads((tmp_path / "coco_predictions.json").read_text())
    assert len(found) == sum(len(line["scores"]) for line in lines)  # type: ignore[arg-type]
    x, y, width, height = found[0]["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(lines[0]["boxes"][0], abs=0.02)  # type: ignore[index]
    assert found[0]["category"] == lines[0]["labels"][0] and found[0]["category_id"] in (1, 2)  # type: ignore[index]
    assert Image.open(tmp_path / str(lines[0]["overlay"])).size == (64, 48)
    assert "overlay" not in predicted(tmp_path / "images" / "2.png", tmp_path)[0]
    assert not list((tmp_path / "overlays").iterdir()), "overlays of an earlier prediction stay"


def test_a_file_that_is_no_image_is_counted_or_named(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 3)
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    lines = predicted(tmp_path / "images", tmp_path, on_bad_sample="skip")
    assert [Path(str(line["file"])).name for line in lines] == ["0.png", "2.png"]


def test_predictions_have_the_ids_of_the_file_of_annotations(tmp_path: Path) -> None:
    """Scored by pycocotools against the raw file as they are, they give the scores of the test."""
    root = write_coco(tmp_path / "data", 8, 8)
    (root / "annotations" / "instances_val2017.json").rename(root / "annotations" / "instances_test2017.json")
    (root / "val2017").rename(root / "test2017")
    data = CocoDetection(str(root), val_fraction=0.3, batch_size=3, image_size=64, seed=0)
    data.setup()
    assert data.task_info is not None
    torch.manual_seed(0)
    module = PlainSFT(spec(TimmDetection, **SMALL), task=data.task_info.to_dict())
    (values,) = quiet_trainer().test(module, data, verbose=False)
    callbacks = [WritePredictions(tmp_path / "predictions.jsonl")]
    quiet_trainer(callbacks=callbacks).predict(module, data, return_predictions=False)
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO(str(root / "annotations" / "instances_test2017.json"))
        evaluation = COCOeval(gold, gold.loadRes(str(tmp_path / "coco_predictions.json")), "bbox")
        for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
            step()
    found = {"map": evaluation.stats[0], "map50": evaluation.stats[1], "mar100": evaluation.stats[8]}
    assert found["mar100"] > 0 and {n: values[f"test/{n}"] for n in found} == pytest.approx(found, abs=2e-3)
