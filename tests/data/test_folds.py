"""Cross-validation: the labelled training set cut into parts, each of which is held out once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft_lightning.data import Digits, ImageFolder, Instructions, SFTDataModule, TextTable
from tests.data.text_files import texts, write_jsonl
from tests.data.vision_files import write_folder
from tests.refused import refused

Maker = Callable[..., SFTDataModule]
FOLDS = 4


def images(tmp: Path) -> Maker:
    return lambda **settings: Digits(**{"classes": [5, 7, 9], "shots_per_class": 10, "val_fraction": 0.25, **settings})


def image_folder_with_its_own_val(tmp: Path) -> Maker:
    for split, count in (("train", 9), ("val", 5), ("test", 4)):
        write_folder(tmp / "images" / split, {"ant": count, "bee": count + 3}, seed=count)
    return lambda **settings: ImageFolder(root=str(tmp / "images"), **settings)


def text(tmp: Path) -> Maker:
    file = write_jsonl(tmp / "text.jsonl", [{"text": t, "label": "aab"[i % 3]} for i, t in enumerate(texts(60))])
    return lambda **settings: TextTable(train=file, test=file, **{"train_fraction": 0.6, **settings})


def text_with_its_own_val(tmp: Path) -> Maker:
    files: dict[str, Any] = {
        split: write_jsonl(tmp / f"{split}.jsonl", [{"text": t, "label": "ab"[i % 2]} for i, t in enumerate(texts(n))])
        for split, n in (("train", 30), ("val", 12), ("test", 14))
    }
    return lambda **settings: TextTable(**files, **settings)


def values(tmp: Path) -> Maker:
    file = write_jsonl(tmp / "values.jsonl", [{"text": t, "label": i / 7} for i, t in enumerate(texts(50))])
    return lambda **settings: TextTable(train=file, test=file, task="regression", **settings)


def language_model(tmp: Path) -> Maker:
    file = write_jsonl(tmp / "lm.jsonl", [{"prompt": t, "completion": str(i)} for i, t in enumerate(texts(50))])
    return lambda **settings: Instructions(train=file, test=file, **settings)


KINDS = [images, image_folder_with_its_own_val, text, text_with_its_own_val, values, language_model]


@pytest.fixture(params=KINDS, ids=[k.__name__.replace("_", " ") for k in KINDS])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    maker: Maker = request.param(tmp_path)
    return maker


def ready(make: Maker, **settings: Any) -> SFTDataModule:
    data = make(**settings)
    data.setup()
    return data


def rows(data: SFTDataModule, split: str) -> list[int]:
    found: list[int] = data.splits[split].rows.tolist()
    return found


def held_out(make: Maker, **settings: Any) -> list[list[int]]:
    return [rows(ready(make, folds=FOLDS, fold=i, **settings), "val") for i in range(FOLDS)]


# ---- what a fold is ----


def test_each_labelled_row_is_validated_once_and_trained_on_otherwise(make: Maker) -> None:
    labelled = rows(ready(make), "train")
    parts = []
    for fold in range(FOLDS):
        data = ready(make, folds=FOLDS, fold=fold)
        train, val = rows(data, "train"), rows(data, "val")
        assert sorted(train + val) == labelled, f"fold {fold}: train and val together are not the labelled set"
        assert train == sorted(train) and val == sorted(val)
        parts += val
    assert sorted(parts) == labelled, "a labelled row is validated on never, or more than once"


def test_parts_are_as_large_as_each_other_and_hold_each_class_alike(make: Maker) -> None:
    parts = [ready(make, folds=FOLDS, fold=i).splits["val"] for i in range(FOLDS)]
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1, f"sizes of the parts: {sizes}"
    whole = ready(make)
    assert whole.task_info is not None
    if whole.task_info.name == "classification":
        counts = np.stack([np.bincount(p.targets, minlength=whole.task_info.num_outputs) for p in parts])  # type: ignore[arg-type]
        assert (counts.max(0) - counts.min(0) <= 1).all(), f"samples of each class in each part: {counts.tolist()}"
        assert counts.min() >= 1, "a part is without some class"


def test_a_held_out_fold_keeps_clear_of_the_ordinary_validation_rows_and_of_test(make: Maker) -> None:
    ordinary = ready(make)
    own = ordinary.splits["val"].samples is not ordinary.splits["train"].samples
    for fold in range(FOLDS):
        data = ready(make, folds=FOLDS, fold=fold)
        assert data.splits["val"].samples is data.splits["train"].samples, "val is not made of training samples"
        looked_at = {*rows(data, "train"), *rows(data, "val")}
        assert own or not looked_at & {*rows(ordinary, "val")}, "ordinary validation rows are trained or validated on"
        assert data.fingerprint()["test"] == ordinary.fingerprint()["test"], "folds have touched the test split"
        assert set(data.splits) == {"train", "val", "test"}


def test_without_a_fold_to_hold_out_all_is_as_without_folds(make: Maker) -> None:
    assert ready(make, folds=FOLDS).fingerprint() == ready(make).fingerprint()


def test_the_held_out_fold_is_seen_as_validation_samples_are() -> None:
    data = ready(images(Path()), folds=3, fold=1, augment=["crop", "flip"])
    assert data.splits["train"].train and not data.splits["val"].train
    assert data.splits["val"].name == "val"
    assert data.describe() == (
        "Digits: 20 train, 10 val, 135 test (of 304 to train on); val is fold 1 of 0 to 2; 3 classes (5, 7, 9), "
        "majority share 0.40"
    )


# ---- what decides which ----


def test_folds_depend_on_subset_seed_and_on_nothing_else(make: Maker) -> None:
    first = held_out(make)
    for settings in ({"seed": 7}, {"batch_size": 5, "eval_batch_size": 3}, {"num_workers": 2}):
        assert held_out(make, **settings) == first, f"{settings} changes the folds"
    assert held_out(make, subset_seed=1) != first, "another subset_seed gives the same folds"


def test_folds_cut_the_labelled_subset_of_the_same_subset_seed() -> None:
    make = images(Path())
    for seed in (0, 1):
        labelled = rows(ready(make, subset_seed=seed), "train")
        assert sorted(row for part in held_out(make, subset_seed=seed) for row in part) == labelled


def test_folds_do_not_depend_on_the_order_in_which_classes_are_named() -> None:
    make = images(Path())
    assert held_out(make, classes=[9, 5, 7], shots_per_class=None) == held_out(make, shots_per_class=None)


@pytest.mark.parametrize("split", ["train", "val"])
def test_two_processes_share_the_fold_of_one(split: str) -> None:
    data = ready(images(Path()), folds=FOLDS, fold=2, batch_size=4)

    def seen(rank: int, world_size: int) -> list[int]:
        loader = data.loader(split, rank, world_size)
        return [int(row) for b in loader for row in b["index"][b.get("real", slice(None))]]

    assert sorted(seen(0, 2) + seen(1, 2)) == sorted(seen(0, 1)) == rows(data, split)


# ---- what is refused, in one line ----


def refuses(make: Maker, key: str, *values: object, **settings: Any) -> str:
    with refused(key, *values) as error:
        ready(make, **settings)
    return str(error.value)


def test_impossible_folds_are_refused_in_one_line(tmp_path: Path) -> None:
    make = images(tmp_path)
    refuses(make, "data.folds", "at least 2", "got 1", folds=1)
    refuses(make, "data.fold", "0 to 2", "data.folds 3", "got 3", folds=3, fold=3)
    refuses(make, "data.fold", "0 to 2", "data.folds 3", "got -1", folds=3, fold=-1)
    refuses(make, "data.fold", 0, "data.init_args.folds", fold=0)


@pytest.mark.parametrize("fold", [None, 0])
def test_more_folds_than_there_are_samples_of_a_class_are_refused(fold: int | None, tmp_path: Path) -> None:
    make = images(tmp_path)
    three = ("4 parts", "class '5'", "data.init_args.folds to 3")
    refuses(make, "data.folds", *three, shots_per_class=3, folds=4, fold=fold)
    one = refuses(make, "data.folds", "2 parts", "class '5'", shots_per_class=1, folds=2, fold=fold)
    assert "data.init_args.folds" not in one, "no number of folds is small enough"
    for few in (values, language_model):
        four = ("got 5", "data.init_args.folds to 4")
        refuses(few(tmp_path), "data.folds", *four, train_fraction=0.1, folds=5, fold=fold)


# ---- what folds leave as it was ----

BEFORE_THERE_WERE_FOLDS: list[tuple[dict[str, Any], tuple[str, str, str]]] = [
    ({}, ("4b8b59e4abbb0070", "470d407171a8bb69", "188d275c69517ef9")),
    (
        {"subset_seed": 3, "val_fraction": 0.25, "shots_per_class": 40},
        ("610abfdc50c142f4", "d90a541646ba8e20", "188d275c69517ef9"),
    ),
    ({"subset_seed": 3, "train_fraction": 0.3}, ("1990b76e3fc5ade2", "470d407171a8bb69", "188d275c69517ef9")),
    (
        {"classes": [7, 5, "1"], "subset_seed": 3, "val_fraction": 0.25, "shots_per_class": 2},
        ("1a48404d4379317a", "64a65285202bcde8", "7e264bd1b8e67d54"),
    ),
]
"""Settings of Digits, and the fingerprints of train, val and test that runs recorded before folds were added."""


@pytest.mark.parametrize(("settings", "prints"), BEFORE_THERE_WERE_FOLDS)
def test_runs_recorded_before_there_were_folds_have_the_same_data(
    settings: dict[str, Any], prints: tuple[str, str, str]
) -> None:
    found = ready(Digits, **settings).fingerprint()
    wanted = dict(zip(("train", "val", "test"), prints, strict=True))
    assert found == wanted, "other rows are trained, validated or tested on than in runs of earlier versions"
