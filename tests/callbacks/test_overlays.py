"""Masks and boxes before and after tuning, drawn over their images: in details.json, on the page, and in W&B."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import sft_lightning
from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.callbacks.error_analysis import Details
from sft_lightning.callbacks.overlays import over, overlays, picture_of, wandb_image
from sft_lightning.callbacks.shown_samples import table_of
from sft_lightning.core.pictured import SIDE, Outlines, Regions
from sft_lightning.core.structures import Output, TaskInfo
from sft_lightning.data import CocoDetection, MaskFolder
from sft_lightning.data.base import SFTDataModule, Splits
from sft_lightning.data.vision.boxes import Box, Boxes
from sft_lightning.data.vision.palette import palette
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import build_network
from sft_lightning.report.error_analysis import samples_of
from sft_lightning.tasks import make_task
from sft_lightning.tasks.region_scores import UNLABELLED
from tests.data.box_files import write_coco
from tests.data.vision_files import write_masks
from tests.exactness.cases import CASES, FewBoxes
from tests.support import quiet_trainer

LABELS = ["cell", "wall", "gap"]


def test_regions_are_the_mask_that_is_predicted_and_the_true_one() -> None:
    task, maps = make_task(TaskInfo("semantic_segmentation", 3, LABELS)), torch.randn(2, 5, 7, 3)
    masks = torch.randint(0, 3, (2, 20, 28))
    masks[0, :4] = UNLABELLED
    select = masks != UNLABELLED
    batch = {
        "x": {"image": torch.zeros(2, 3, 20, 28)},
        "select": select,
        "y": masks[select],
        "count": int(select.sum()),
    }
    said, decoded = task.said(Output(maps, maps), batch), task.decode(Output(maps, maps), batch)
    assert said is not None
    for one, mask, prediction in zip(said, masks, decoded, strict=True):
        assert isinstance(one.found, Regions) and isinstance(one.truth, Regions)
        np.testing.assert_array_equal(one.found.classes, prediction["mask"])
        np.testing.assert_array_equal(one.truth.classes, mask.numpy())
        assert one.score == (prediction["mask"] == mask.numpy())[mask != UNLABELLED].mean()
    wide = torch.zeros(1, 100, 400, 3)
    batch = {"select": torch.ones(1, 100, 400, dtype=torch.bool), "count": 40000}
    (large,) = task.said(Output(wide, wide), batch) or []
    assert isinstance(large.found, Regions) and (large.found.height, large.found.width) == (SIDE // 4, SIDE)


def test_masks_are_drawn_in_their_colours_where_the_image_fills_the_windows(tmp_path: Path) -> None:
    write_masks(tmp_path, 4, side=40, values=(0, 1, 2))
    data = MaskFolder(str(tmp_path), window=64, batch_size=2, seed=0, val_fraction=0.25)
    data.setup()
    samples = data.splits["train"].samples
    samples.set_window(64)  # type: ignore[attr-defined]
    classes = np.full((64, 64), 2)
    classes[:20, :40], classes[20:40, :40] = 0, 1
    image = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    drawn = np.array(over(samples, image, Regions.of(classes, (64, 64))))  # type: ignore[arg-type]
    assert drawn.shape == (40, 40, 3), "the image alone, without what fills the windows up"
    assert (drawn[:20] == 100).all(), "class 0 is left clear"
    np.testing.assert_array_equal(drawn[20:], np.broadcast_to((np.array(palette(2)[3:]) + 100) // 2, (20, 40, 3)))
    shown = overlays(samples, 0, {"before": Regions.of(classes, (64, 64)), "truth": None}, LABELS)
    assert list(shown["pictures"]) == ["before"] and picture_of(shown["pictures"]["before"]).size == (40, 40)
    assert shown["colours"] == [["wall", "#800000"], ["gap", "#008000"]]
    assert overlays(samples, 0, {"before": None}, LABELS) == {}


def test_boxes_are_drawn_where_they_are_and_reduced_with_their_image() -> None:
    found = Outlines(np.array([[0.25, 0.5, 0.75, 1.0]]), np.array([1]), np.array([0.9]))
    drawn = np.array(over(None, torch.zeros(1, 400, 800, dtype=torch.uint8), found))  # type: ignore[arg-type]
    assert drawn.shape == (80, 160, 3)
    green = (drawn == palette(3)[6:]).all(-1)
    assert green[40, 45:115].all() and green[45:75, 40].all() and green[45:75, 120].all() and not green[:35].any()


def test_wandb_gets_masks_and_boxes_of_its_own_kind_that_read_back_as_they_were() -> None:
    classes = np.random.default_rng(0).integers(0, 3, (12, 16))
    classes[0] = UNLABELLED
    image, pixels = Regions.of(classes, (24, 32)), np.zeros((24, 32, 3), dtype=np.uint8)
    made = wandb_image(pixels, image, image, LABELS, "said")
    assert made.image.size == (16, 12) and set(made._masks) == {"prediction", "truth"}
    for mask in made._masks.values():
        np.testing.assert_array_equal(np.array(Image.open(mask._path)), classes)
        assert mask._val["class_labels"] == {0: "cell", 1: "wall", 2: "gap", UNLABELLED: "no label"}
    box = Outlines(np.array([[0.25, 0.5, 0.75, 1.0]]), np.array([1]), np.array([0.9]))
    made = wandb_image(pixels[..., 0], box, Outlines(*box[:2]), LABELS, "said")
    (said,), (true,) = (json.loads(Path(made._boxes[n]._path).read_text())["box_data"] for n in ("prediction", "truth"))
    place = {"minX": 0.25, "maxX": 0.75, "minY": 0.5, "maxY": 1.0}
    assert said == {"position": place, "class_id": 1, "box_caption": "wall 0.90", "scores": {"score": 0.9}}
    assert true == {"position": place, "class_id": 1, "box_caption": "wall"}


def test_pictures_from_elsewhere_are_left_out_of_the_page() -> None:
    uri = "data:image/jpeg;base64,AA"
    entry = {"on": "retention", "row": 1, "score_before": 1.0, "score_after": 0.5}
    pictures = {"truth": "https://example.org/a.jpg", "before": uri, "after": uri + "A" * 70_000, "else": uri}
    colours = [["a", "#00ff00"], ["b", "red;background:url(x)"], "c"]
    (shown,) = samples_of([{"changed": [{**entry, "pictures": pictures, "colours": colours}]}])["samples"]
    assert shown["pictures"] == {"before": uri} and shown["colours"] == [["a", "#00ff00"]]


# ---- a whole run ----


class Told(FewBoxes):
    """Images of FewBoxes whose boxes in the test are those that a network finds."""

    said: list[list[Box]]

    def load(self) -> Splits:
        splits = super().load()
        assert splits.test is not None
        splits.test.truth = Boxes.stored(self.said, [(40, 56)] * len(self.said), list(self.labels or ()))  # type: ignore[attr-defined]
        return splits


@dataclass
class Tuned:
    """A case, the pretrained network's folder, and its own source data."""

    name: str
    folder: str
    source: SFTDataModule


def masks(root: Path) -> Tuned:
    case = CASES["images with masks"]
    assert case.source is not None
    return Tuned("images with masks", case.pretrain(root), case.source(sizes=(8, 8, 12)))


def boxes(root: Path) -> Tuned:
    """A network that finds objects, and source data that has in the test what the network finds."""
    case = CASES["images with boxes"]
    folder = case.pretrain(root)
    state = load_file(root / "model.safetensors")
    state["head.classes.bias"] += 4.2  # a random network finds nothing
    save_file(state, root / "model.safetensors", metadata={"format": "pt"})
    source = Told(labels=("old0", "old1", "old2"), sizes=(8, 8, 6))
    source.said = [[Box(2.0, 2.0, 20.0, 20.0, "old0")]] * 6
    network = build_network(case.network(folder), TaskInfo("object_detection", 3, ["a", "b", "c"])).eval()
    source.setup()
    network.settle(source.settle(network.wanted_input()))
    assert network.source_task is not None
    task, said = make_task(network.source_task), list[list[Box]]()
    for raw in source.test_dataloader():
        batch = source.receive(raw)
        with torch.no_grad():
            output = network(batch["x"], task.select(batch))
        for one in task.said(output._replace(logits=output.source_logits), batch) or []:
            assert isinstance(one.found, Outlines)
            places = (one.found.boxes * [56, 40, 56, 40]).tolist()
            said.append([Box(*at, task.info.labels[c]) for at, c in zip(places, one.found.classes, strict=True)])
    assert any(said), "the network finds nothing"
    told = Told(labels=("old0", "old1", "old2"), sizes=(8, 8, 6))
    told.said = said
    return Tuned("images with boxes", folder, told)


@pytest.mark.parametrize("make", [masks, pytest.param(boxes, marks=pytest.mark.slow)])
def test_changed_samples_have_a_picture_of_the_truth_of_before_and_of_after(make: Any, tmp_path: Path) -> None:
    it, monitor = make(tmp_path / "net"), None
    case = CASES[it.name]
    monitor = RetentionMonitor(it.source)
    path = tmp_path / "details.json"
    module = PlainSFT(case.network(it.folder), lr=0.05)
    trainer = quiet_trainer(max_epochs=2, callbacks=[monitor, Details(path, monitor=monitor)])
    torch.manual_seed(0)
    trainer.fit(module, case.data(sizes=(16, 8, 8)))
    trainer.test(module, case.data(sizes=(16, 8, 8)), verbose=False)
    details = json.loads(path.read_text())
    assert details["compared"] == len(it.source.splits["test"].samples) and details["changed"], "nothing changed"
    counted = details["lost_and_gained"]
    assert counted["n"] == details["compared"] and counted["lost"] > 0
    for entry in details["changed"]:
        assert entry["score_before"] > entry["score_after"] and set(entry["pictures"]) == {"truth", "before", "after"}
        assert "image" not in entry
        before, after, true = (np.array(picture_of(entry["pictures"][n])) for n in ("before", "after", "truth"))
        assert before.shape == after.shape == true.shape and not np.array_equal(before, after)
        if make is boxes:
            assert entry["score_before"] == 1.0 and entry["before"] == entry["label"]
    shown = samples_of([details])["samples"]
    assert all(set(one["pictures"]) == {"truth", "before", "after"} for one in shown)
    assert {label for one in shown for label, _ in one["colours"]} <= {"old0", "old1", "old2"}
    table = table_of(details["changed"])
    assert [n for n in table.columns if n.startswith("picture")] == ["picture true", "picture before", "picture after"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masks", "boxes"])
def test_an_offline_run_of_wandb_holds_shown_samples_with_masks_or_boxes(kind: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"batch_size": 4, "seed": 0}
    if kind == "masks":
        write_masks(tmp_path / "data", 20, side=24, values=(0, 1, 2))
        data: Any = partial(MaskFolder, str(tmp_path / "data"), image_size=24, val_fraction=0.3, **given)
        name = "images with masks"
    else:
        data = partial(CocoDetection, str(write_coco(tmp_path / "data")), image_size=32, val_fraction=0.3, **given)
        name = "images with boxes"
    case = CASES[name]
    network = case.network(case.pretrain(tmp_path / "net"))
    network["init_args"] |= {"pretrained": None, **({"channels": 3} if kind == "masks" else {"score_threshold": 0.0})}
    with sft_lightning.run("shown", runs_dir=str(tmp_path / "runs"), wandb="offline") as run:
        from lightning import Trainer

        Trainer(**run.trainer_kwargs(max_epochs=1, accelerator="cpu")).fit(PlainSFT(network, lr=1e-3), data())
    (media,) = run.path.rglob("media")
    pictures = sorted((media / "images" / "val").glob("samples*.png"))
    assert 0 < len(pictures) <= 16
    there = data()
    there.setup()
    shown = min(16, len(there.splits["val"].rows))
    assert len(pictures) == shown
    if kind == "masks":
        files = list((media / "images" / "mask").rglob("*.png"))
        assert len(files) == 2 * shown, "the true mask and the predicted one"
        truth = {there.splits["val"].samples.mask(int(row)).numpy().tobytes() for row in there.splits["val"].rows}
        assert truth <= {np.array(Image.open(file)).tobytes() for file in files}
    else:
        files = list((media / "metadata" / "boxes2D").rglob("*.json"))
        assert len(files) > shown, "files of the same content, such as no prediction, are one"
        said = [json.loads(file.read_text())["box_data"] for file in files]
        boxes = [box for one in said for box in one if "scores" not in box]
        truth = there.splits["val"].samples.truth
        assert len(boxes) == sum(len(truth.of(int(row))[1]) for row in there.splits["val"].rows)
