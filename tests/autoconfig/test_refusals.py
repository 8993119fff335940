"""What the front door cannot tell: it asks, in one line that names the flag to set."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from sft_lightning.autoconfig.default_study import front_door
from tests.autoconfig.files import csv_rows, folder, image_list, instructions
from tests.data.text_files import texts, write_jsonl, write_text
from tests.data.vision_files import write_folder
from tests.refused import refused


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


def numbers_alone(tmp: Path) -> str:
    return write_text(tmp / "t.csv", "a,label\n" + "\n".join(f"{i},{i % 2}" for i in range(30)))


def labelled(tmp: Path, column: str, values: Iterable[object]) -> str:
    rows = [{"text": t, column: v} for t, v in zip(texts(30), values, strict=False)]
    return write_jsonl(tmp / "t.jsonl", rows)


BAD_DATA: dict[str, tuple[str, Callable[[Path], str], list[str]]] = {
    "two labels": ("bert", several, ["t.jsonl: ", "'topic'", "'intent'", "--label_column"]),
    "two texts": ("bert", two_texts, ["t.jsonl: ", "'left'", "'right'", "--text_column"]),
    "no label": ("bert", lambda tmp: labelled(tmp, "id", range(30)), ["t.jsonl", "text, id", "--label_column"]),
    "one class": (
        "bert",
        lambda tmp: csv_rows(tmp / "t.csv", kinds=("sad",)),
        ["t.csv: ", "'sentiment'", "1", "'sad'"],
    ),
    "no text": ("bert", numbers_alone, ["t.csv", "a, label", "--text_column"]),
    "empty file": ("bert", lambda tmp: write_text(tmp / "t.csv", ""), ["t.csv"]),
    "header alone": ("bert", lambda tmp: write_text(tmp / "t.csv", "text,label\n"), ["t.csv"]),
    "not UTF-8": ("bert", lambda tmp: not_utf8(tmp), ["t.csv", "UTF-8"]),
    "damaged parquet": ("bert", lambda tmp: write_text(tmp / "t.parquet", "no"), ["t.parquet"]),
    "another format": ("bert", lambda tmp: write_text(tmp / "t.docx", "no"), ["t.docx", ".csv"]),
    "nothing there": ("bert", lambda tmp: str(tmp / "nothing.csv"), ["nothing.csv"]),
    "two files": ("bert", two_files, ["2", "a.csv, b.csv", "train"]),
    "empty folder": ("bert", nothing_in, ["empty", "train.csv"]),
    "images for text": ("bert", lambda tmp: folder(tmp / "f"), ["TransformersText", "texts with labels"]),
    "texts for images": ("vit", lambda tmp: csv_rows(tmp / "t.csv"), ["t.csv", "images", "--image_column"]),
    "preferences": ("llama", preferences, ["t.jsonl", "chosen", "rejected", "completion"]),
    "instructions for an encoder": ("bert", lambda tmp: instructions(tmp / "t.jsonl"), ["t.jsonl", "TransformersText"]),
    "one folder": ("vit", one_folder, ["/f: ", "1", "'dog'"]),
    "loose images": ("vit", loose_images, ["/dog"]),
    "damaged image": ("vit", damaged_image, ["dog/0.png"]),
    "missing image": ("vit", image_missing, ["line 5", "'pictures/3.png'"]),
    "no train": ("vit", no_train, ["/f", "test", "train"]),
    "names, not classes": (
        *("bert", lambda tmp: labelled(tmp, "label", [f"n{i}" for i in range(30)])),
        ["t.jsonl", "text, label", "--label_column"],
    ),
}


def not_utf8(tmp: Path) -> str:
    (tmp / "t.csv").write_bytes("text,label\nschön,1\n".encode("latin-1"))
    return str(tmp / "t.csv")


@pytest.mark.parametrize("what", BAD_DATA)
def test_data_that_cannot_be_told_is_asked_about_in_one_line(what: str, nets: dict[str, str], tmp_path: Path) -> None:
    network, make, values = BAD_DATA[what]
    with refused("--data", *values) as error:
        front_door(nets[network], make(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["label_column", "text_column", "image_column"])
def test_a_column_that_is_not_there_is_named_with_the_nearest(flag: str, nets: dict[str, str], tmp_path: Path) -> None:
    network, file = ("vit", image_list(tmp_path)) if flag == "image_column" else ("bert", csv_rows(tmp_path / "r.csv"))
    near, right = {
        "label_column": ("sentiments", "sentiment"),
        "text_column": ("reviews", "review"),
        "image_column": ("filename", "file_name"),
    }[flag]
    with refused(f"--{flag}", file, f"'{near}'", f"'{right}'"):
        front_door(nets[network], file, **{flag: near})  # type: ignore[arg-type]


def test_an_unknown_task_is_refused(nets: dict[str, str]) -> None:
    with refused("--task", "'tagging'", "classification"):
        front_door(nets["bert"], "x.csv", task="tagging")


def test_too_few_samples_are_said_to_be_too_few(nets: dict[str, str], tmp_path: Path) -> None:
    with refused("--data", "8", "10"):
        front_door(nets["bert"], csv_rows(tmp_path / "r.csv", 8))


BAD_NETWORKS = {
    "./nothing": ["./nothing"],
    "builtin:digit": ["'builtin:digit'", "'builtin:digits-0-4'"],
    "timm:resnet81": ["timm", "'resnet81'", "'resnet18'"],
    "torchvision:resnet81": ["torchvision", "'resnet81'", "'resnet18'"],
    "some-one/no-such-model": ["some-one/no-such-model", "hub"],
    "resnet18": ["resnet18", "hub"],
    "torchvision:resnet18": ["torchvision:resnet18", "https://download.pytorch.org"],
}


@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_a_network_that_cannot_be_had_is_said_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with refused("--network", *BAD_NETWORKS[name]):
        front_door(name, "anything.csv")


def test_a_folder_and_a_file_that_say_too_little_are_said_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with refused("--network", tmp_path, "model.safetensors"):
        front_door(str(tmp_path), "x.csv")
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pth")
    with refused("--network", tmp_path / "w.pth", f"ARCHITECTURE={tmp_path / 'w.pth'}"):
        front_door(str(tmp_path / "w.pth"), "x.csv")


def test_a_tokenizer_without_words_is_refused(nets: dict[str, str], tmp_path: Path) -> None:
    net = tmp_path / "net"
    shutil.copytree(nets["bert"], net)
    content = json.loads((net / "tokenizer.json").read_text())
    content["model"]["vocab"] = {token["content"]: i for i, token in enumerate(content["added_tokens"])}
    (net / "tokenizer.json").write_text(json.dumps(content))
    with refused("--network", net, "network.init_args.tokenizer"):
        front_door(str(net), csv_rows(tmp_path / "r.csv"))
