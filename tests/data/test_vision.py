"""Image data sets: where they come from, the view each network sees, augmentation, and what goes wrong."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sft_lightning.core.structures import Batch, InputSpec
from sft_lightning.data import CIFAR10, CIFAR100, MNIST, Digits, FashionMNIST, HubImages, ImageFolder, SFTDataModule
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.base import ArrayImages, ImageData
from sft_lightning.networks import MLP
from tests.data import vision_files as files
from tests.refused import refused
from tests.support import settle


class Eats(MLP):
    """A network that only says what it wants to see."""

    def __init__(self, data: SFTDataModule, **spec: Any) -> None:
        assert data.task_info is not None
        super().__init__(data.task_info, in_features=1)
        self.wants = InputSpec("image", **spec)

    @property
    def input_spec(self) -> InputSpec:
        return self.wants

    def encode(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        return x["image"].new_zeros(len(x["image"]), 256)  # takes any size: these tests look at the images alone


def ready(data: ImageData, **spec: Any) -> ImageData:
    data.setup()
    settle(data, Eats(data, **spec))
    return data


def batches(data: SFTDataModule, split: str = "train", epoch: int = 0) -> list[Batch]:
    loader = data.loader(split, 0, 1)
    loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
    return [data.device_transform(b) for b in loader]


def everything(data: ImageData, **spec: Any) -> list[Batch]:
    return [batch for split in ready(data, **spec).splits for batch in batches(data, split)]


def by_row(some: list[Batch]) -> dict[int, torch.Tensor]:
    return {int(i): image for b in some for i, image in zip(b["index"], b["x"]["image"], strict=True)}


@pytest.fixture(autouse=True)
def nothing_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets
    import huggingface_hub.constants as hub
    from torchvision.datasets import utils

    def refuse(*args: Any, **kwargs: Any) -> None:
        from urllib.error import URLError

        raise URLError("no network")

    monkeypatch.setattr(utils, "_urlretrieve", refuse)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


# ---- MNIST and CIFAR ----


@pytest.mark.parametrize("cls", [MNIST, FashionMNIST])
def test_mnist_is_read_from_its_idx_files(cls: Any, tmp_path: Path) -> None:
    files.write_mnist(tmp_path, cls.__name__)
    data = ready(cls(root=str(tmp_path), download=False))
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 90, "val": 10, "test": 30}
    assert data.task_info is not None and data.task_info.num_outputs == 10
    images, targets = files.pixels(30, 28, 1, 10, 1)
    batch = batches(data, "test")[0]
    expected = (images[0, ..., 0] / 255 - cls.mean[0]) / cls.std[0]
    assert batch["y"][0] == targets[0]
    assert np.allclose(batch["x"]["image"][0, 0], expected, atol=1e-5)


@pytest.mark.parametrize("cls", [CIFAR10, CIFAR100])
def test_cifar_is_read_from_its_batches_with_colours_in_place(
    cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_cifar(tmp_path, monkeypatch, hundred=cls is CIFAR100)
    data = ready(cls(root=str(tmp_path), download=False, val_fraction=0.5))
    assert data.task_info is not None and data.task_info.labels[7] == "class 7"
    batch = batches(data, "test")[0]
    images, targets = files.pixels(100, 32, 3, 100, 50) if cls is CIFAR100 else files.pixels(20, 32, 3, 10, 50)
    seen = batch["x"]["image"][0].permute(1, 2, 0).numpy() * cls.std + cls.mean
    assert batch["y"][0] == targets[0]
    assert np.allclose(seen, images[0] / 255, atol=1e-5)


def test_mnist_feeds_a_colour_network_of_another_size(tmp_path: Path) -> None:
    files.write_mnist(tmp_path)
    data = ready(MNIST(root=str(tmp_path)), size=(32, 32), channels=3)
    image = batches(data)[0]["x"]["image"]
    assert image.shape[1:] == (3, 32, 32)
    assert torch.equal(image[:, 0], image[:, 2])


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("cls", [MNIST, CIFAR10])
def test_an_absent_data_set_is_one_line_that_says_what_to_put_where(cls: Any, download: bool, tmp_path: Path) -> None:
    with refused("data", cls.__name__, tmp_path / "nowhere", cls.files) as error:
        cls(root=str(tmp_path / "nowhere"), download=download).setup()
    assert ("data.init_args.download" in str(error.value)) is not download, "it advises to do what just failed"


# ---- subsets ----


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("mnist")
    files.write_mnist(root, train=200)
    return str(root)


def test_the_same_samples_are_chosen_whatever_the_seed_and_however_they_are_batched(mnist: str) -> None:
    chosen = []
    for settings in ({"seed": 0}, {"seed": 7, "batch_size": 5}, {"seed": 1, "augment": ["flip"], "num_workers": 2}):
        data = MNIST(root=mnist, shots_per_class=3, **settings)  # type: ignore[arg-type]
        data.setup()
        chosen.append({n: s.rows.tolist() for n, s in data.splits.items()})
    assert chosen[0] == chosen[1] == chosen[2]


def test_subset_seed_changes_the_labelled_subset_and_nothing_else(mnist: str) -> None:
    one, other = (MNIST(root=mnist, shots_per_class=3, subset_seed=s) for s in (0, 1))
    one.setup()
    other.setup()
    assert one.splits["train"].rows.tolist() != other.splits["train"].rows.tolist()
    assert one.splits["val"].rows.tolist() == other.splits["val"].rows.tolist()
    assert np.bincount(one.splits["train"].targets).tolist() == [3] * 10  # type: ignore[arg-type]


def test_fewer_shots_are_drawn_from_training_samples_alone(mnist: str) -> None:
    data = MNIST(root=mnist, shots_per_class=2)
    data.setup()
    assert not set(data.splits["train"].rows) & set(data.splits["val"].rows)
    assert data.splits["test"].samples is not data.splits["val"].samples
    assert data.splits["val"].samples is data.splits["train"].samples


def test_classes_are_numbered_in_the_order_given(mnist: str) -> None:
    data = MNIST(root=mnist, classes=[7, "2 - two"])
    data.setup()
    split = data.splits["train"]
    assert split.samples.targets is not None and split.targets is not None
    assert [{0: 7, 1: 2}[int(t)] for t in split.targets] == split.samples.targets[split.rows].tolist()
    assert data.task_info is not None and data.task_info.labels == ["7 - seven", "2 - two"]


def test_describe_says_sizes_classes_and_majority_share(mnist: str) -> None:
    data = MNIST(root=mnist, classes=[0, 1], shots_per_class=4)
    data.setup()
    assert data.describe() == (
        "MNIST: 8 train, 4 val, 6 test (of 36 to train on); 2 classes (0 - zero, 1 - one), majority share 0.50"
    )


def test_fingerprints_are_those_of_the_content(tmp_path: Path) -> None:
    prints = []
    for name, seed in (("a", 0), ("b", 0), ("c", 5)):
        files.write_folder(tmp_path / name, {"x": 5, "y": 5}, seed=seed)
        data = ImageFolder(root=str(tmp_path / name))
        data.setup()
        prints.append(data.fingerprint())
    assert prints[0] == prints[1], "the folder's name and the files' times are no part of the content"
    assert all(prints[0][n] != prints[2][n] for n in prints[0])


def test_one_changed_byte_or_another_name_changes_the_fingerprint(tmp_path: Path) -> None:
    files.write_folder(tmp_path, {"x": 5, "y": 5})
    before = fingerprint(tmp_path)
    file = tmp_path / "x" / "0.png"
    file.write_bytes(file.read_bytes() + b"!")
    after = fingerprint(tmp_path)
    assert before != after
    file.rename(file.with_name("00.png"))
    assert fingerprint(tmp_path) != after


def fingerprint(root: Path) -> dict[str, str]:
    data = ImageFolder(root=str(root))
    data.setup()
    return data.fingerprint()


# ---- augmentation ----


def test_augmentation_depends_on_seed_epoch_and_row_alone(mnist: str) -> None:
    def seen(epoch: int = 0, **settings: Any) -> dict[int, torch.Tensor]:
        data = ready(MNIST(root=mnist, **{"seed": 3, "augment": ["crop", "flip"], **settings}))
        return by_row(batches(data, epoch=epoch))

    first = seen()
    for again in (seen(), seen(batch_size=7), seen(num_workers=2)):
        assert all(torch.equal(first[row], again[row]) for row in first)
    for other in (seen(epoch=1), seen(seed=4)):
        same = sum(torch.equal(first[row], other[row]) for row in first)
        assert same < 0.1 * len(first), f"{same} of {len(first)} images look as they did"


def test_randaugment_depends_on_seed_epoch_and_row_alone() -> None:
    def seen(epoch: int = 0, **settings: Any) -> dict[int, torch.Tensor]:
        data = ready(Digits(**{"seed": 3, "augment": ["randaugment"], "shots_per_class": 4, **settings}))
        return by_row(batches(data, epoch=epoch))

    first = seen()
    for again in (seen(), seen(batch_size=3), seen(num_workers=2)):
        assert all(torch.equal(first[row], again[row]) for row in first)
    assert not all(torch.equal(first[row], image) for row, image in seen(epoch=1).items())


def test_crops_are_spread_evenly_and_half_of_the_images_are_flipped() -> None:
    image = torch.zeros(1, 9, 9, dtype=torch.uint8)
    image[0, 4, 4], image[0, 4, 5] = 255, 128  # the dimmer pixel is right of the brighter one, or left if flipped
    data = Digits(augment=["crop", "flip"], crop_padding=2, seed=0)
    ready(data)
    samples = ArrayImages(image.repeat(5000, 1, 1, 1), np.zeros(5000, dtype=np.int64))
    rows = list(range(5000))
    x = samples.fetch(rows, [Key(r, 0) for r in rows], True)
    out = data.device_transform({"x": x, "rows": list(rows), "epoch": 0, "train": True})["x"]["image"]
    at = (out == 1).flatten(1).int().argmax(1)
    y, column = at // 9, at % 9
    flipped = out[torch.arange(5000), 0, y, (column - 1) % 9] > 0.4
    assert 0.47 < flipped.float().mean() < 0.53
    shift = torch.where(flipped, 8 - column, column)
    for positions in (y, shift):
        share = torch.bincount(positions, minlength=9) / 5000
        assert share[[0, 1, 7, 8]].sum() == 0, "no shift is larger than crop_padding"
        assert (share[2:7] - 0.2).abs().max() < 0.03
    assert abs(np.corrcoef(y, shift)[0, 1]) < 0.05, "the two directions are independent"


def test_validation_and_test_images_are_never_augmented(mnist: str) -> None:
    plain, augmented = (ready(MNIST(root=mnist, augment=a)) for a in ([], ["crop", "flip", "randaugment"]))
    for split in ("val", "test"):
        one, other = by_row(batches(plain, split)), by_row(batches(augmented, split, epoch=3))
        assert all(torch.equal(one[row], other[row]) for row in one)


def test_an_unknown_augmentation_is_refused() -> None:
    with refused("data.augment", "'mixup'", "crop, flip, randaugment"):
        Digits(augment=["mixup"])  # type: ignore[list-item]


# ---- image folders ----


def test_a_folder_of_class_folders_is_split_by_class_and_always_alike(tmp_path: Path) -> None:
    files.write_folder(tmp_path, {"dog": 10, "ant": 20})
    splits = []
    for seed in (0, 1):
        data = ImageFolder(root=str(tmp_path), seed=seed)
        data.setup()
        splits.append({n: [s.samples.name(r) for r in s.rows] for n, s in data.splits.items()})
    assert splits[0] == splits[1]
    assert {n: len(names) for n, names in splits[0].items()} == {"train": 22, "val": 2, "test": 6}
    every = [name for names in splits[0].values() for name in names]
    assert len(set(every)) == 30, "each file is in one split"
    assert data.task_info is not None and data.task_info.labels == ["ant", "dog"]
    assert np.bincount(data.splits["test"].targets).tolist() == [4, 2]  # type: ignore[arg-type]


def test_train_val_and_test_folders_are_the_splits(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        files.write_folder(tmp_path / split, {"ant": count, "dog": count}, seed=count, suffix=".jpg")
    data = ready(ImageFolder(root=str(tmp_path), image_size=8))
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 12, "val": 4, "test": 6}
    assert batches(data, "test")[0]["y"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batches(data)[0]["x"]["image"].shape == (12, 3, 8, 8)


def test_without_a_val_folder_validation_comes_from_train_and_never_from_test(tmp_path: Path) -> None:
    for split in ("train", "test"):
        files.write_folder(tmp_path / split, {"ant": 10, "dog": 10})
    data = ImageFolder(root=str(tmp_path))
    data.setup()
    assert data.splits["val"].samples is data.splits["train"].samples
    assert len(data.splits["test"]) == 20


def test_grey_transparent_and_turned_files_become_what_the_network_sees(tmp_path: Path) -> None:
    files.write_folder(tmp_path, {"a": 3, "b": 3}, side=10)
    Image.new("L", (8, 8), 77).save(tmp_path / "a" / "grey.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 10)).save(tmp_path / "a" / "clear.png")
    turned = Image.new("RGB", (16, 8))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held upright
    turned.save(tmp_path / "a" / "turned.jpg", exif=exif)
    data = ready(ImageFolder(root=str(tmp_path)), size=(8, 8))
    assert all(b["x"]["image"].shape[1:] == (3, 8, 8) for s in data.splits for b in batches(data, s))
    assert all(
        i.shape[0] == 1
        for i in by_row(batches(ready(ImageFolder(root=str(tmp_path)), size=(8, 8), channels=1))).values()
    )
    for split in data.splits.values():
        for row, path in enumerate(split.samples.paths):
            if path.name == "turned.jpg":
                assert split.samples.read(row).shape == (3, 16, 8)


def test_files_are_decoded_once_and_by_all_workers_alike(tmp_path: Path) -> None:
    files.write_folder(tmp_path, {"a": 8, "b": 8})
    read = {}
    for workers in (0, 2):
        data = ready(ImageFolder(root=str(tmp_path), num_workers=workers, batch_size=4, augment=["flip"]), size=(8, 8))
        read[workers] = by_row(batches(data))
        shutil.move(tmp_path / "a", tmp_path / "gone")
        again = by_row(batches(data))  # from memory, even though other processes had decoded
        shutil.move(tmp_path / "gone", tmp_path / "a")
        assert all(torch.equal(read[workers][r], again[r]) for r in again)
    assert all(torch.equal(read[0][r], read[2][r]) for r in read[0])


def test_predict_takes_unlabelled_images(tmp_path: Path) -> None:
    files.write_folder(tmp_path / "train", {"a": 4, "b": 4})
    files.write_folder(tmp_path / "new", {"inbox": 3})
    data = ImageFolder(root=str(tmp_path / "train"), predict_root=str(tmp_path / "new"))
    data.setup("predict")
    assert list(data.splits) == ["predict"]
    data.settle(InputSpec("image", size=(8, 8)))
    batch = batches(data, "predict")[0]
    assert "y" not in batch and batch["x"]["image"].shape == (3, 3, 8, 8)
    assert data.splits["predict"].samples.name(0).endswith("inbox/0.png")


def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path: Path) -> None:
    def refuses(root: Path, *values: object, key: str = "data") -> None:
        with refused(key, root, *values):
            everything(ImageFolder(root=str(root)), size=(8, 8))

    refuses(tmp_path / "absent", key="data.root")
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty")
    files.write_folder(tmp_path / "hollow", {"a": 3, "b": 0})
    refuses(tmp_path / "hollow", "hollow/b")
    files.write_folder(tmp_path / "damaged", {"a": 4, "b": 4})
    (tmp_path / "damaged" / "b" / "2.png").write_text("not an image")
    refuses(tmp_path / "damaged", "damaged/b/2.png", "data.on_bad_sample skip")
    whole = (tmp_path / "damaged" / "b" / "1.png").read_bytes()
    (tmp_path / "damaged" / "b" / "2.png").write_bytes(whole[: len(whole) // 2])
    refuses(tmp_path / "damaged", "damaged/b/2.png", "data.on_bad_sample skip")
    files.write_folder(tmp_path / "more" / "train", {"ant": 4})
    files.write_folder(tmp_path / "more" / "val", {"ants": 4})
    refuses(tmp_path / "more", "'ants'", "'ant'")


def test_images_of_many_sizes_need_a_size(tmp_path: Path) -> None:
    files.write_folder(tmp_path, {"a": 4, "b": 4})
    Image.new("RGB", (5, 9)).save(tmp_path / "a" / "tall.png")
    with refused("data", "tall.png", "9×5", "data.init_args.image_size"):
        everything(ImageFolder(root=str(tmp_path)))


# ---- parquet ----


def test_parquet_files_are_split_as_their_names_say(tmp_path: Path) -> None:
    for name, count, seed in (("train-00000-of-00002", 12, 0), ("train-00001-of-00002", 9, 1), ("test", 6, 2)):
        files.table(count, seed).to_parquet(tmp_path / f"{name}.parquet")
    data = ready(HubImages(path=str(tmp_path), val_fraction=0.2))
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 17, "val": 4, "test": 6}
    assert data.task_info is not None and data.task_info.labels == ["ant", "bee", "cat"]
    images, targets = files.pixels(6, 8, 3, 3, 2)
    batch = batches(data, "test")[0]
    assert batch["y"].tolist() == targets.tolist()
    seen = batch["x"]["image"].permute(0, 2, 3, 1).numpy() * data.std + data.mean
    assert np.allclose(seen, images / 255, atol=1e-5)
    by_glob = HubImages(path=str(tmp_path / "*.parquet"), val_fraction=0.2)
    by_glob.setup()
    assert by_glob.fingerprint() == data.fingerprint()


@pytest.mark.parametrize(("labels", "names"), [(["z", "x", "y"], ["x", "y", "z"]), ([30, 10, 20], ["10", "20", "30"])])
def test_labels_without_names_are_sorted(labels: list[Any], names: list[str], tmp_path: Path) -> None:
    for split, seed in (("one", 0), ("two", 1)):
        files.table(9, seed, labels=labels).to_parquet(tmp_path / f"{split}.parquet")
    data = HubImages(
        data_files={"train": str(tmp_path / "one.parquet"), "test": str(tmp_path / "two.parquet")}, val_fraction=0.4
    )
    data.setup()
    assert data.task_info is not None and data.task_info.labels == names
    _, targets = files.pixels(9, 8, 3, 3, 1)
    assert [names[t] for t in data.splits["test"].targets] == [str(labels[t]) for t in targets]  # type: ignore[union-attr]


def test_what_is_wrong_with_a_table_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    files.table(9, 0).to_parquet(path)

    def refuses(key: str, *values: object, **settings: Any) -> None:
        with refused(key, *values):
            HubImages(**settings).setup()

    refuses("data", "column 'imagee'", "mean 'image'", path=str(path), image_column="imagee")
    refuses("data", "column 'lable'", "mean 'label'", path=str(path), label_column="lable")
    refuses("data", "split 'trian'", "mean 'train'", path=str(path), train_split="trian")
    refuses("data", "split 'testing'", path=str(path), test_split="testing")
    refuses("data.image_column", "'label'", "int64", path=str(path), image_column="label")
    refuses("data.path", tmp_path / "none.parquet", path=str(tmp_path / "none.parquet"))
    refuses("data.data_files", "train: ", "none.parquet", data_files={"train": str(tmp_path / "none.parquet")})
    (tmp_path / "void").mkdir()
    refuses("data.path", tmp_path / "void", path=str(tmp_path / "void"))
    refuses("data", "someone/images", "hub", path="someone/images")
    refuses("data", "path", "data_files")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 or not")
    refuses("data", tmp_path / "bad.parquet", path=str(tmp_path / "bad.parquet"))


# ---- meeting networks ----


def test_the_networks_normalisation_comes_before_the_datas() -> None:
    data, other = Digits(), Digits()
    ready(data, mean=(0.5,), std=(0.25,))
    ready(other)
    one, two = by_row(batches(data, "test")), by_row(batches(other, "test"))
    assert all(torch.allclose(one[r], (two[r] - 0.5) / 0.25, atol=1e-6) for r in one)


def test_the_datas_image_size_comes_before_the_networks() -> None:
    assert batches(ready(Digits(image_size=12), size=(20, 20)), "val")[0]["x"]["image"].shape[-2:] == (12, 12)
    assert batches(ready(Digits(), size=(20, 20)), "val")[0]["x"]["image"].shape[-2:] == (20, 20)


def test_resizing_a_batch_at_once_is_resizing_its_images_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = by_row(batches(ready(Digits(), size=(20, 20), channels=3), "test"))
    monkeypatch.setattr(ArrayImages, "KEEP_BYTES", 0)
    at_once = by_row(batches(ready(Digits(), size=(20, 20), channels=3), "test"))
    assert all(torch.equal(kept[r], at_once[r]) for r in kept)


def test_colour_images_do_not_fit_a_grey_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_cifar(tmp_path, monkeypatch)
    with refused("network", 1, 3):
        ready(CIFAR10(root=str(tmp_path), download=False), size=(20, 20), channels=1)
