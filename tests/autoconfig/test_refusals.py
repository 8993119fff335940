"""What the front door cannot tell: it asks, in one line that names the flag to set."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.core.errors import UserError
from tests.autoconfig.files import csv_rows, folder, image_list, instructions
from tests.data.text_files import texts, write_jsonl, write_text
from tests.data.vision_files import write_folder


def preferences(tmp: Path) -> str:
    return write_jsonl(tmp / "t.jsonl", [{"prompt": "a", "chosen": "b c", "rejected": f"d {i}"} for i in range(12)])


def several(tmp: Path) -> str:
    rows = [{"text": t, "topic": "ab"[i % 2], "intent": "cde"[i % 3]} for i, t in enumerate(texts(30))]
    return write_jsonl(tmp / "t.jsonl", rows)


def two_texts(tmp: Path) -> str:
    rows = [{"left": t, "right": t[::-1], "label": i % 2} for i, t in enumerate(texts(30))]
    return write_jsonl(tmp / "t.jsonl", rows)


def two_files(tmp: Path) -> str:
    csv_rows(tmp / "a.csv")
    csv_rows(tmp / "b.csv")
    return str(tmp)


def damaged_image(tmp: Path) -> str:
    folder(tmp / "f")
    (tmp / "f" / "dog" / "0.png").write_bytes(b"no image")
    return str(tmp / "f")


def one_folder(tmp: Path) -> str:
    write_folder(tmp / "f", {"dog": 5})
    return str(tmp / "f")


def loose_images(tmp: Path) -> str:
    write_folder(tmp, {"dog": 5})
    return str(tmp / "dog")


def image_missing(tmp: Path) -> str:
    file = image_list(tmp)
    (tmp / "pictures" / "3.png").unlink()
    return file


def no_train(tmp: Path) -> str:
    write_folder(tmp / "f" / "test", {"ant": 3, "bee": 3})
    return str(tmp / "f")


def nothing_in(tmp: Path) -> str:
    (tmp / "empty").mkdir()
    return str(tmp / "empty")


BAD_DATA: dict[str, tuple[str, Callable[[Path], str], str]] = {
    "two labels": ("bert", several, "'topic' and 'intent' could each be the labels: set --label_column"),
    "two texts": ("bert", two_texts, "'left' and 'right' could each be the texts: set --text_column"),
    "no label": (
        *("bert", lambda tmp: write_jsonl(tmp / "t.jsonl", [{"text": t, "id": i} for i, t in enumerate(texts(30))])),
        r"no column that looks like labels \(columns: text, id\): set --label_column",
    ),
    "one class": ("bert", lambda tmp: csv_rows(tmp / "t.csv", kinds=("sad",)), r"'sentiment' has 1 class \('sad'\)"),
    "no text": (
        *("bert", lambda tmp: write_text(tmp / "t.csv", "a,label\n" + "\n".join(f"{i},{i % 2}" for i in range(30)))),
        "no column of texts",
    ),
    "empty file": ("bert", lambda tmp: write_text(tmp / "t.csv", ""), "has no rows"),
    "header alone": ("bert", lambda tmp: write_text(tmp / "t.csv", "text,label\n"), "has no rows"),
    "not UTF-8": ("bert", lambda tmp: not_utf8(tmp), "is not UTF-8"),
    "damaged parquet": ("bert", lambda tmp: write_text(tmp / "t.parquet", "no"), "damaged or no parquet"),
    "another format": ("bert", lambda tmp: write_text(tmp / "t.docx", "no"), "is none of .csv"),
    "nothing there": ("bert", lambda tmp: str(tmp / "nothing.csv"), "no such file or folder"),
    "two files": ("bert", two_files, r"has 2 tables \(a.csv, b.csv\), none called train"),
    "empty folder": ("bert", nothing_in, "has neither a table"),
    "images for text": ("bert", lambda tmp: folder(tmp / "f"), "is a folder of images, and the network .* takes texts"),
    "texts for images": ("vit", lambda tmp: csv_rows(tmp / "t.csv"), "has no column of images"),
    "preferences": ("llama", lambda tmp: preferences(tmp), "learning from preferences is not done here"),
    "instructions for an encoder": ("bert", lambda tmp: instructions(tmp / "t.jsonl"), "holds instructions"),
    "one folder": ("vit", one_folder, r"its folders has 1 class \('dog'\)"),
    "loose images": ("vit", loose_images, "no folder for each class"),
    "damaged image": ("vit", damaged_image, "0.png is no image, or a damaged one"),
    "missing image": ("vit", image_missing, r"line 5: image 'pictures/3.png' is not in"),
    "no train": ("vit", no_train, "has test, and no train"),
    "names, not classes": (
        *(
            "bert",
            lambda tmp: write_jsonl(tmp / "t.jsonl", [{"text": t, "label": f"n{i}"} for i, t in enumerate(texts(30))]),
        ),
        "set --label_column",
    ),
}


def not_utf8(tmp: Path) -> str:
    (tmp / "t.csv").write_bytes("text,label\nschön,1\n".encode("latin-1"))
    return str(tmp / "t.csv")


@pytest.mark.parametrize("what", BAD_DATA)
def test_data_that_cannot_be_told_is_asked_about_in_one_line(what: str, nets: dict[str, str], tmp_path: Path) -> None:
    network, make, said = BAD_DATA[what]
    with pytest.raises(UserError) as error:
        front_door(nets[network], make(tmp_path))
    assert re.search(said, str(error.value)), str(error.value)
    assert str(error.value).startswith("--") and "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["label_column", "text_column", "image_column"])
def test_a_column_that_is_not_there_is_named_with_the_nearest(flag: str, nets: dict[str, str], tmp_path: Path) -> None:
    network, file = ("vit", image_list(tmp_path)) if flag == "image_column" else ("bert", csv_rows(tmp_path / "r.csv"))
    near = {"label_column": "sentiments", "text_column": "reviews", "image_column": "filename"}[flag]
    with pytest.raises(UserError, match=f"--{flag}: .* has no column '{near}'; did you mean"):
        front_door(nets[network], file, **{flag: near})  # type: ignore[arg-type]


def test_an_unknown_task_is_refused(nets: dict[str, str]) -> None:
    with pytest.raises(UserError, match="--task: 'tagging' is none of"):
        front_door(nets["bert"], "x.csv", task="tagging")


def test_too_few_samples_are_said_to_be_too_few(nets: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="8 samples are too few"):
        front_door(nets["bert"], csv_rows(tmp_path / "r.csv", 8))


BAD_NETWORKS = {
    "./nothing": "--network: ./nothing does not exist",
    "builtin:digit": "did you mean 'builtin:digits-0-4'",
    "timm:resnet81": "timm has no model 'resnet81'; did you mean",
    "torchvision:resnet81": "torchvision has no classification model 'resnet81'; did you mean",
    "some-one/no-such-model": "no such folder here, and the hub cannot be reached",
    "resnet18": "no such folder here, and the hub cannot be reached",
    "torchvision:resnet18": "its weights cannot be fetched",
}


@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_a_network_that_cannot_be_had_is_said_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError) as error:
        front_door(name, "anything.csv")
    assert BAD_NETWORKS[name] in str(error.value), str(error.value)


def test_a_folder_and_a_file_that_say_too_little_are_said_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="no weights"):
        front_door(str(tmp_path), "x.csv")
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not say its architecture: give ARCHITECTURE="):
        front_door(str(tmp_path / "w.pth"), "x.csv")
