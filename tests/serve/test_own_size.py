"""With `score_size: mask`, the masks that `predict`, `predict MODEL` and `serve` write are those that a test has compared."""

import json
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.metrics import jaccard_score

import sft_lightning.tasks.semantic_segmentation as segmentation
from sft_lightning.cli.main import main
from sft_lightning.serve.answering import Model
from sft_lightning.serve.items import Item
from tests.data.vision_files import write_masks


def scored(files: list[Any], masks: Path) -> float:
    """The mIoU of PNG files, as another program computes it."""
    true = [np.array(Image.open(file)).ravel() for file in sorted(masks.iterdir())]
    said = [np.array(Image.open(file)).ravel() for file in files]
    return float(jaccard_score(np.concatenate(true), np.concatenate(said), average="macro"))


def test_written_masks_score_what_the_test_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, split in enumerate(("train", "val", "test")):
        write_masks(tmp_path / "data" / split, 8, side=23, values=(0, 1, 2), seed=seed)
    data = {"root": str(tmp_path / "data"), "image_size": 16, "score_size": "mask", "batch_size": 4}
    config = {
        "trainer": {"accelerator": "cpu", "max_steps": 6},
        "model": {"class_path": "PlainSFT", "init_args": {"lr": 0.01}},
        "network": {"class_path": "UNet", "init_args": {"widths": [4, 6]}},
        "data": {"class_path": "MaskFolder", "init_args": data},
        "experiment": "own",
        "wandb": "disabled",
        "quiet": True,
        "test_after_fit": True,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    runs, run = tmp_path / "runs", tmp_path / "runs/own/one"
    assert main(["fit", "--config", str(tmp_path / "config.yaml"), "--runs_dir", str(runs), "--run_id", "one"]) == 0
    tested = json.loads((run / "run.json").read_text())["metrics"]["test/miou"]["final"]
    images, masks = (tmp_path / "data/test" / name for name in ("images", "masks"))
    monkeypatch.setattr(segmentation, "AT_ONCE", 1000)  # classes of these images one by one
    for argument in ([], ["--data.init_args.predict_root", str(images)]):
        assert main(["predict", "--run", str(run), *argument]) == 0
        rows = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
        assert scored([run / row["mask"] for row in rows], masks) == pytest.approx(tested, rel=1e-6)
        assert all(sum(row["pixels"]) == 23 * 23 for row in rows)
    items = [Item(file.name, image=file.read_bytes()) for file in sorted(images.iterdir())]
    answers: list[Any] = Model.load(run).answer(items)
    files = [BytesIO(b64decode(answer["new"]["mask"])) for answer in answers]
    assert scored(files, masks) == pytest.approx(tested, rel=1e-6)
