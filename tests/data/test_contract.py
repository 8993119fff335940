"""What holds for every data set: a new one is tried by being registered, and needs one entry in EXAMPLES."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.data import DATA_MODULES, SFTDataModule
from sft_lightning.tasks import TASKS
from tests.data.audio_files import write_metadata, write_transcripts
from tests.data.box_files import write_boxed_table, write_coco, write_voc, write_yolo
from tests.data.text_files import texts, write_glue, write_jsonl, write_text
from tests.data.vision_files import (
    table,
    write_cifar,
    write_folder,
    write_listed,
    write_masked_table,
    write_masks,
    write_mnist,
)

OWN = {name: cls for name, cls in DATA_MODULES.items() if cls.__module__.startswith("sft_lightning.")}


def rows(root: Path, classes: int) -> dict[str, Any]:
    """A folder with train.jsonl and test.jsonl, each class in turn."""
    for split in ("train", "test"):
        labelled = [{"text": f"{split} {t}", "label": i % classes} for i, t in enumerate(texts(60))]
        write_jsonl(root / f"{split}.jsonl", labelled)
    return {"root": str(root)}


def own_table(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    rows(root, 3)
    return {"train": str(root / "train.jsonl"), "test": str(root / "test.jsonl")}


def answers(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    said = [{"instruction": t, "output": f"{i} words"} for i, t in enumerate(texts(40))]
    return {"train": write_jsonl(root / "train.jsonl", said), "test": write_jsonl(root / "test.jsonl", said[:9])}


def pages(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {split: write_text(root / f"{split}.txt", "\n\n".join(texts(40))) for split in ("train", "test")}


def pairs(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    files = {}
    for split, count in (("train", 40), ("test", 9)):
        for side in ("en", "de"):
            write_text(root / f"{split}.{side}", "\n".join(f"{side} {t}" for t in texts(count)))
        files[split] = [str(root / f"{split}.en"), str(root / f"{split}.de")]
    return files


def parquet(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    for split, count in (("train", 60), ("test", 24)):
        table(count, seed=len(split)).to_parquet(root / f"{split}.parquet")
    return {"data_files": {split: str(root / f"{split}.parquet") for split in ("train", "test")}}


def folder(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_folder(root, {"dog": 20, "elk": 20})
    return {"root": str(root)}


def listed(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return write_listed(root, {"label": lambda i: f"{i / 7 + 0.05}"}) | {"task": "regression"}


def marked(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return write_listed(root, {"labels": lambda i: ";".join("abc"[: i % 4])})


def mnist(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_mnist(root)
    return {"root": str(root), "download": False}


def fashion(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_mnist(root, "FashionMNIST")
    return {"root": str(root), "download": False}


def cifar(hundred: bool) -> Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]:
    def write(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
        write_cifar(root, patch, hundred=hundred)
        return {"root": str(root), "download": False, "val_fraction": 0.5}

    return write


def glue(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"root": write_glue(root, "rte"), "subset": "rte"}


def tagged(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    sentences = [f"word{i} O\nPeter{i} B-PER\nPan I-PER\nflies O" for i in range(40)]
    files = {"train": "\n\n".join(sentences) + "\n", "test": "\n\n".join(sentences[:9]) + "\n"}
    return {split: write_text(root / f"{split}.conll", text) for split, text in files.items()}


def universal(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    row = "{}\t{}\t_\t{}" + "\t_" * 6
    sentences = ["\n".join([row.format(1, f"word{i}", "NOUN"), row.format(2, "flies", "VERB")]) for i in range(40)]
    files = {"train": "\n\n".join(sentences) + "\n", "test": "\n\n".join(sentences[:9]) + "\n"}
    return {split: write_text(root / f"{split}.conllu", text) for split, text in files.items()}


def lists(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    said = [{"tokens": [f"word{i}", "Peter", "Pan"], "tags": ["O", "B-PER", "I-PER"]} for i in range(40)]
    return {"train": write_jsonl(root / "train.jsonl", said), "test": write_jsonl(root / "test.jsonl", said[:9])}


def sets(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    for split, count in (("train", 40), ("test", 9)):
        said = [{"text": f"{split} {t}", "labels": ["a", "b", "c"][: i % 4]} for i, t in enumerate(texts(count))]
        write_jsonl(root / f"{split}.jsonl", said)
    return {split: str(root / f"{split}.jsonl") for split in ("train", "test")}


def choices(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    for split, count in (("train", 40), ("test", 9)):
        said = [
            {"question": f"{split} {t}", "choices": [f"a{i}", f"b{i}", f"c{i}"][: 2 + i % 2], "label": i % 2}
            for i, t in enumerate(texts(count))
        ]
        write_jsonl(root / f"{split}.jsonl", said)
    return {split: str(root / f"{split}.jsonl") for split in ("train", "test")}


def masks(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_masks(root, 12)
    return {"root": str(root)}


def voc(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_masks(root / "VOC2012", 24, "JPEGImages", "SegmentationClass", values=(0, 15, 255))
    (root / "VOC2012/ImageSets/Segmentation").mkdir(parents=True)
    for name, numbers in (("train", range(20)), ("val", range(20, 24))):
        lines = "".join(f"{i}\n" for i in numbers)
        write_text(root / f"VOC2012/ImageSets/Segmentation/{name}.txt", lines)
    return {"root": str(root)}


def streets(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    for seed, split in enumerate(("train", "val", "test")):
        write_masks(root / "flat" / split, 12, values=(4, 7, 26), seed=seed)
        for kind, folder, ending in (("images", "leftImg8bit", ""), ("masks", "gtFine", "_labelIds")):
            for file in sorted((root / "flat" / split / kind).iterdir()):
                place = root / folder / split / "ulm" / f"ulm_{file.stem}_{folder}{ending}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                file.rename(place)
    return {"root": str(root)}


def pets(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_masks(root, 24, "images", "annotations/trimaps", values=(2, 1, 3))
    for file in sorted((root / "images").iterdir()):
        file.rename(file.with_suffix(".jpg"))
    for name, numbers in (("trainval", range(20)), ("test", range(20, 24))):
        write_text(root / f"annotations/{name}.txt", "".join(f"{i} 1 1 1\n" for i in numbers))
    return {"root": str(root)}


def written(write: Callable[[Path], Path]) -> Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]:
    return lambda root, patch: {"root": str(write(root))}


def boxed_table(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"data_files": write_boxed_table(root)}


def masked_table(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"data_files": write_masked_table(root)}


def asked(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    rows = [(f"Peter{i} lives in town {i}.", f"town {i}", 15 + len(str(i)) - 1) for i in range(40)]
    said = [
        {"question": "Where does he live?", "context": text, "answers": {"text": [a], "answer_start": [at + 1]}}
        for text, a, at in rows
    ]
    return {"train": write_jsonl(root / "train.jsonl", said), "test": write_jsonl(root / "test.jsonl", said[:9])}


def sounds(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_metadata(root)
    return {"root": str(root)}


def listed_sounds(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    write_metadata(root)
    return {split: str(root / split / "metadata.csv") for split in ("train", "test")}


def speech(root: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"train": write_transcripts(root / "train", 40), "test": write_transcripts(root / "test", 9)}


EXAMPLES: dict[str, Callable[[Path, pytest.MonkeyPatch], dict[str, Any]]] = {
    "AGNews": lambda root, patch: rows(root, 4),
    "IMDB": lambda root, patch: rows(root, 2),
    "TREC": lambda root, patch: rows(root, 6),
    "GLUE": glue,
    "TextTable": own_table,
    "Instructions": answers,
    "PlainText": pages,
    "CoNLL": tagged,
    "CoNLLU": universal,
    "TaggedTable": lists,
    "MultiLabelTable": sets,
    "MultipleChoice": choices,
    "SQuAD": asked,
    "TextPairs": pairs,
    "Digits": lambda root, patch: {},
    "ColouredDigits": lambda root, patch: {"colour": "random"},
    "MNIST": mnist,
    "FashionMNIST": fashion,
    "CIFAR10": cifar(False),
    "CIFAR100": cifar(True),
    "ImageFolder": folder,
    "HubImages": parquet,
    "ImageTable": listed,
    "MultiLabelImages": marked,
    "CocoLabels": written(write_coco),
    "MaskFolder": masks,
    "VOCSegmentation": voc,
    "Cityscapes": streets,
    "OxfordPet": pets,
    "HubSegmentation": masked_table,
    "CocoDetection": written(write_coco),
    "VOCDetection": written(write_voc),
    "YOLOFolder": written(write_yolo),
    "HubDetection": boxed_table,
    "AudioFolder": sounds,
    "AudioTable": listed_sounds,
    "Speech": speech,
    "Extend": lambda root, patch: {
        "new": {"class_path": "Digits", "init_args": {"classes": [5, 6, 7]}},
        "old": {"class_path": "Digits", "init_args": {"classes": [0, 1, 2]}},
        "rehearse": "all",
    },
}
"""Writes a small data set in its own format into a folder, and returns the arguments that name it."""
every = pytest.mark.parametrize("name", OWN)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SFTDataModule]:
    """`made(name, **settings)`: the data module, set up; the data set is written once."""
    written: dict[str, dict[str, Any]] = {}

    def make(name: str, **settings: Any) -> SFTDataModule:
        if name not in written:
            written[name] = EXAMPLES[name](tmp_path, monkeypatch)
        data = OWN[name](**{"val_fraction": 0.25, "batch_size": 8, "seed": 0, **written[name], **settings})
        data.setup()
        return data

    return make


@every
def test_a_data_set_has_an_example(name: str) -> None:
    assert name in EXAMPLES, f"add {name} to EXAMPLES in tests/data/test_contract.py"


@every
def test_it_says_its_task_and_its_splits_are_apart(name: str, made: Any) -> None:
    data = made(name)
    assert data.task_info.name in TASKS
    assert not data.task_info.labels or len(data.task_info.labels) == data.task_info.num_outputs
    assert {"train", "val"} <= data.splits.keys()
    assert all(len(split) for split in data.splits.values())
    train, val = data.splits["train"], data.splits["val"]
    if train.samples is val.samples:
        assert not set(train.rows.tolist()) & set(val.rows.tolist()), "a sample is in training and in validation"


@every
def test_the_same_settings_give_the_same_samples(name: str, made: Any) -> None:
    one, other = made(name), made(name)
    assert one.fingerprint() == other.fingerprint()
    assert all(one.splits[s].rows.tolist() == other.splits[s].rows.tolist() for s in one.splits)


@every
def test_a_labelled_subset_is_part_of_the_training_samples_and_has_its_own_seed(name: str, made: Any) -> None:
    whole = made(name)
    if len(whole.splits["train"]) <= len(whole.task_info.labels):
        pytest.skip("the example has one sample a class: there is no smaller subset")
    half, other = made(name, train_fraction=0.5), made(name, train_fraction=0.5, subset_seed=1)
    rows_of = [set(d.splits["train"].rows.tolist()) for d in (whole, half, other)]
    assert rows_of[1] < rows_of[0] and rows_of[2] < rows_of[0]
    assert rows_of[1] != rows_of[2], "another subset_seed draws the same samples"
    for split in set(whole.splits) - {"train"}:
        assert whole.splits[split].rows.tolist() == other.splits[split].rows.tolist(), f"the subset changes {split}"


@every
def test_it_describes_itself_in_one_line_with_its_sizes(name: str, made: Any) -> None:
    data = made(name)
    said = data.describe()
    assert "\n" not in said.strip()
    assert name in said
    assert f"{len(data.splits['train']):,} train" in said
