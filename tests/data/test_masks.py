"""Images with masks: layouts, codings of classes, moves, and what is refused or counted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from sft_lightning.core.structures import InputSpec, Output, TaskInfo
from sft_lightning.data import Cityscapes, MaskFolder, OxfordPet, VOCSegmentation
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.masks import UNLABELLED
from sft_lightning.tasks import make_task
from tests.data.vision_files import squares, write_masks
from tests.refused import refused

SPEC = InputSpec("masks", channels=3, network="a network")


def ready(root: Path, spec: InputSpec = SPEC, **settings: Any) -> MaskFolder:
    data = MaskFolder(str(root), **{"batch_size": 4, "seed": 0, "val_fraction": 0.25, **settings})
    data.setup()
    data.settle(spec)
    return data


def pairs(data: MaskFolder, split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks of a split in the order of rows, without augmentation."""
    samples, rows = data.splits[split].samples, sorted(data.splits[split].rows.tolist())
    x = samples.fetch(rows, [Key(i, 0) for i in range(len(rows))], False)
    masks = torch.full(x["select"].shape, UNLABELLED)
    masks[x["select"]] = x["y"]
    return x["image"], masks


@pytest.mark.parametrize(
    ("splits", "images", "masks", "ending"),
    [
        ((), "images", "masks", ""),
        ((), "image", "label", ""),
        ((), "imgs", "labels_png", "_mask"),
        (("Train", "val"), "images", "annotations", "_seg"),
    ],
)
def test_images_and_masks_are_found_and_lie_on_one_another(
    splits: tuple[str, ...], images: str, masks: str, ending: str, tmp_path: Path
) -> None:
    for seed, split in enumerate(splits or ("",)):
        write_masks(tmp_path / split, 8, images, masks, ending=ending, seed=seed)
    (tmp_path / splits[0] if splits else tmp_path).joinpath(images, ".hidden.png").write_bytes(b"")
    data = ready(tmp_path, labels=["ground", "square"])
    assert data.task_info.labels == ["ground", "square"]
    assert any("0 is ground, 255 is square" in note for note in data.remarks())
    assert any("1 hidden image" in note for note in data.remarks())
    for split in ("train", "val"):
        image, mask = pairs(data, split)
        assert mask.unique().tolist() == [0, 1]
        assert torch.equal(image.float().mean(1) > 120, mask == 1), "the square is lighter than the ground"


def test_split_folders_may_lie_in_those_of_images_and_masks_and_any_rule_is_a_pattern(tmp_path: Path) -> None:
    for kind in ("images", "annotations"):
        for seed, split in enumerate(("training", "validation")):
            write_masks(tmp_path / "x", 4, values=(0, 1, 2), seed=seed)
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / "x" / ("images" if kind == "images" else "masks")).rename(tmp_path / kind / split)
    one = ready(tmp_path)
    other = ready(tmp_path, images="images/{split}/{name}.png", masks="annotations/{split}/{name}.*")
    assert len(one.splits["train"]) == len(one.splits["val"]) == 4 and one.task_info.num_outputs == 3
    assert one.fingerprint() == other.fingerprint()
    with refused("data.masks", "fits no image file", "'labels/{name}.png'"):
        ready(tmp_path, images="images/{split}/{name}.png", masks="labels/{name}.png")
    with refused("data.images", "one {name}"):
        ready(tmp_path, images="images/*.png", masks="annotations/{name}.png")


def coded(number: np.ndarray, kind: str) -> Image.Image:
    """A mask of three classes and unlabelled pixels (3) in one of the usual codings."""
    if kind == "grey":
        return Image.fromarray(np.where(number == 3, 255, number).astype(np.uint8))
    if kind == "16 bits":
        return Image.fromarray(np.where(number == 3, 255, number).astype(np.uint16))
    if kind == "palette":
        image = Image.fromarray(np.where(number == 3, 255, number).astype(np.uint8))
        image.putpalette([9, 8, 7] * 256)
        return image
    if kind == "grey as colour":
        return coded(number, "grey").convert("RGB")
    if kind == "numbers":
        return Image.fromarray(np.array([7, 100, 200, 255], dtype=np.uint8)[number])
    table = np.array([[0, 0, 0], [128, 64, 128], [255, 0, 0], [1, 2, 3]], dtype=np.uint8)
    return Image.fromarray(table[number])


TABLES: dict[str, dict[str, Any]] = {
    "colour": {"mask_values": {"a": "black", "b": "#804080", "c": [255, 0, 0]}, "unknown_values": "ignore"},
    "numbers": {"mask_values": {"a": 7, "b": 100, "c": 200}},
}


@pytest.mark.parametrize("kind", ["grey", "16 bits", "palette", "grey as colour", "colour", "numbers"])
def test_classes_are_the_same_in_any_coding(kind: str, tmp_path: Path) -> None:
    images, numbers = squares(6, classes=3)
    numbers[:, 0, 0], numbers[:, :, 5] = 0, 3
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i, (image, number) in enumerate(zip(images, numbers, strict=True)):
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.jpg")
        coded(number, kind).save(tmp_path / "masks" / f"{i}.png")
    data = ready(tmp_path, **TABLES.get(kind, {}))
    rows = sorted(data.splits["train"].rows.tolist())
    assert torch.equal(pairs(data)[1], torch.from_numpy(np.where(numbers == 3, UNLABELLED, numbers)[rows]).long())
    assert data.task_info.labels == (["a", "b", "c"] if kind in TABLES else ["0", "1", "2"])


def test_training_moves_image_and_mask_together_by_seed_epoch_and_row_alone(tmp_path: Path) -> None:
    write_masks(tmp_path, 12)
    data = ready(tmp_path, augment=["crop", "flip", "flip_vertical"], crop_padding=3)
    samples = data.splits["train"].samples

    def moved(rows: list[int], epoch: int) -> dict[str, Any]:
        return samples.fetch(rows, [Key(0, epoch)] * len(rows), True)

    views = [moved(list(range(12)), epoch) for epoch in range(4)]
    for view in views:
        masks = torch.full(view["select"].shape, UNLABELLED)
        masks[view["select"]] = view["y"]
        lighter = view["image"].float().mean(1) > 120
        assert torch.equal(lighter, masks == 1), "a mask does not lie on its image"
        assert not view["image"].movedim(1, -1)[~view["select"]].any(), "what has no label is black"
    assert len({view["image"].numpy().tobytes() for view in views}) == 4
    assert not all(view["select"].all() for view in views)
    again = moved([5, 3], 2)
    assert torch.equal(again["image"], views[2]["image"][[5, 3]])


def test_whole_images_are_resized_and_masks_to_the_nearest(tmp_path: Path) -> None:
    write_masks(tmp_path, 8)
    for file in (tmp_path / "images").iterdir():
        for path in (file, tmp_path / "masks" / file.name):
            image = Image.open(path)
            wide = image.resize((24, 12), Image.Resampling.NEAREST)
            wide.save(path)
    image, mask = pairs(ready(tmp_path, image_size=12))
    assert image.shape[-2:] == mask.shape[-2:] == (12, 12) and mask.unique().tolist() == [0, 1]
    assert ((image.float().mean(1) > 120) == (mask == 1)).float().mean() > 0.95


def damage(root: Path, what: str) -> str:
    """Spoils a pair; returns what the message must hold."""
    mask = root / "masks" / "3.png"
    if what == "another size":
        Image.open(mask).resize((5, 5), Image.Resampling.NEAREST).save(mask)
        return "5×5"
    if what == "unknown value":
        Image.fromarray(np.full((12, 12), 9, dtype=np.uint8)).save(root / "masks" / "7.png")
        return "9"
    if what == "no mask":
        mask.unlink()
        return "no mask"
    if what == "no image":
        (root / "images" / "3.png").unlink()
        return "mask of no image"
    mask.write_bytes(b"no image")
    return "damaged"


@pytest.mark.parametrize("what", ["another size", "no mask", "no image", "damaged"])
def test_what_does_not_fit_is_an_error_or_is_left_out_and_counted(what: str, tmp_path: Path) -> None:
    write_masks(tmp_path, 9)
    problem = damage(tmp_path, what)
    with refused("data", "3.png", problem):
        data = ready(tmp_path, val_fraction=0.2)
        for split in data.splits.values():
            _ = [split[i] for i in range(len(split))]
    data = ready(tmp_path, val_fraction=0.2, on_bad_sample="skip")
    for split in data.splits.values():
        for i in range(len(split)):
            data.receive(split[i])
    if what == "no image":
        assert any("1 mask without image" in note for note in data.remarks())
    else:
        ((name, why),) = [(n, w) for found in data.skipped.values() for n, w in found.items()]
        assert name.endswith("3.png") and problem in why


def test_values_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    write_masks(tmp_path, 4, values=(0, 128, 200))
    with refused("data", "0, 128, 200", "mask_values"):
        ready(tmp_path)
    with refused("data.labels", "2 classes", "128, 200", "unknown_values"):
        ready(tmp_path, labels=["a", "b"])
    with refused("data.mask_values", "same value"):
        ready(tmp_path, mask_values={"a": 1, "b": 1})
    with refused("data.mask_values", "'blau'", "colour"):
        ready(tmp_path, mask_values={"a": "#000000", "b": "blau"})
    with refused("data.classes", "masks"):
        ready(tmp_path, classes=["0"])
    with refused("data", "images beside one of masks", "{name}"):
        ready(tmp_path / "images")
    with refused("network", "does not segment"):
        ready(tmp_path, InputSpec("image", network="Timm"), mask_values={"a": 0, "b": 128, "c": 200})


def test_the_layouts_of_known_data_sets_have_their_classes_and_unlabelled_pixels(tmp_path: Path) -> None:
    from tests.data import test_contract as known

    patch = pytest.MonkeyPatch()
    streets = Cityscapes(**known.streets(tmp_path / "streets", patch), batch_size=4)
    streets.setup()
    assert streets.task_info.labels[:1] == ["road"] and len(streets.task_info.labels) == 19
    assert streets.splits.keys() == {"train", "val"} and len(streets.splits["val"]) == 12
    assert pairs(streets)[1].unique().tolist() == [0, 13, UNLABELLED], "ids that are not evaluated have no label"
    voc = VOCSegmentation(**known.voc(tmp_path / "voc", patch), batch_size=4)
    voc.setup()
    assert voc.task_info.labels[15] == "person" and len(voc.splits["val"]) == 4
    assert pairs(voc)[1].unique().tolist() == [0, 15, UNLABELLED]
    pet = known.pets(tmp_path / "pet", patch)
    for border, classes, values in (("class", 3, [0, 1, 2]), ("unlabelled", 2, [0, 1, UNLABELLED])):
        data = OxfordPet(**pet, border=border, batch_size=4)
        data.setup()
        assert data.task_info.num_outputs == classes and pairs(data, "test")[1].unique().tolist() == values
    with refused("data.train_set", "trian.txt", "'train'"):
        VOCSegmentation(str(tmp_path / "voc"), train_set="trian").setup()
    with refused("data.root", "JPEGImages"):
        VOCSegmentation(str(tmp_path)).setup()
    with refused("data.labels", "no effect"):
        Cityscapes(str(tmp_path), labels=["a", "b"])


def test_balanced_weights_give_each_class_the_same_share_of_the_training_pixels(tmp_path: Path) -> None:
    write_masks(tmp_path, 12)
    data = ready(tmp_path, class_weights="balanced", focal_gamma=2.0)
    mask = pairs(data)[1]
    shares = [float((mask == number).float().mean()) * w for number, w in enumerate(data.task_info.weights)]
    assert shares == pytest.approx([0.5, 0.5]) and data.task_info.focal == 2.0
    assert "weights" not in ready(tmp_path).task_info.to_dict()
    with refused("data.class_weights", "2 numbers"):
        ready(tmp_path, class_weights=[1.0])


def test_a_labelled_subset_has_each_class_in_so_many_images(tmp_path: Path) -> None:
    write_masks(tmp_path, 16, values=(0, 1, 2))
    data = ready(tmp_path, shots_per_class=2)
    mask = pairs(data)[1]
    assert len(mask) < 12 and all(int((mask == number).flatten(1).any(1).sum()) >= 2 for number in range(3))


def test_images_of_several_sizes_need_one_for_the_network(tmp_path: Path) -> None:
    write_masks(tmp_path, 8)
    for name in ("images", "masks"):
        file = tmp_path / name / "3.png"
        Image.open(file).resize((20, 20), Image.Resampling.NEAREST).save(file)
    data = ready(tmp_path)
    with refused("data", "20×20", "image_size"):
        _ = [split[i] for split in data.splits.values() for i in range(len(split))]
        pairs(data)


def test_metrics_can_be_of_the_masks_own_size(tmp_path: Path) -> None:
    """Equal to scikit-learn's on maps enlarged by hand, with ragged batches and a filler; the loss stays the network's."""
    write_masks(tmp_path, 12, side=23, values=(0, 1, 2))
    settings = {"root": str(tmp_path), "image_size": 16, "val_fraction": 0.5, "seed": 0}
    own, usual = (MaskFolder(**settings, score_size=size) for size in ("mask", "network"))
    for data in (own, usual):
        data.setup()
        data.settle(InputSpec("masks", channels=3))
    assert "metrics at the masks' own size" in own.describe()
    torch.manual_seed(0)
    maps = torch.randn(3, 4, 4, 3)
    keys = [Key(0, 0), Key(1, 0), Key(2, 0), Key(0, 0, real=False)]
    batch, same = (data.splits["val"].__getitems__(keys) for data in (own, usual))
    assert "beside" not in same and torch.equal(batch["y"], same["y"])
    assert "beside" not in own.splits["train"].__getitems__(keys[:1])
    task = make_task(TaskInfo("semantic_segmentation", 3, ["a", "b", "c"]))
    output, meter = Output(maps, maps), task.make_metrics()["regions"]
    task.update(meter, output, batch)
    large = torch.nn.functional.interpolate(maps.permute(0, 3, 1, 2), (16, 16), mode="bilinear")
    said = torch.nn.functional.interpolate(large, (23, 23), mode="bilinear").argmax(1)
    val = own.splits["val"]
    true = torch.stack([val.samples.mask(int(row)) for row in val.rows[:3]])
    wanted = jaccard_score(true.flatten(), said.flatten(), average="macro")
    assert float(meter.compute()["miou"]) == pytest.approx(wanted)
    assert task.loss(output, batch).total == task.loss(output, same).total
    masks = np.stack([row["mask"] for row in task.decode(output, batch)])
    assert np.array_equal(masks, said.numpy()), "predicted masks are what metrics compare"
    assert task.decode(output, same)[0]["mask"].shape == (16, 16)
    with refused("data.score_size", "own size", "data.image_size"):
        MaskFolder(**{**settings, "image_size": None}, score_size="mask").prepare(InputSpec("masks", channels=3))
