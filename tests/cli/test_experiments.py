"""Every shipped YAML: it parses, its optimizer is what its file says, and it runs, made small, on data of its format."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import MelCNN, TimmDetection
from tests.cli.conftest import ROOT, Command
from tests.data.audio_files import write_metadata
from tests.data.box_files import write_voc
from tests.data.text_files import texts, write_glue, write_jsonl, write_text
from tests.data.vision_files import table, write_cifar, write_folder, write_listed, write_masks
from tests.networks.tiny import tiny_folder

OTHERS = ("ablations", "sweeps")  # folders of files that are no experiments: `ablate` and `wandb sweep` read them
FILES = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "experiments").rglob("*.yaml") if p.parent.name not in OTHERS)


def body(file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    return content


@pytest.mark.parametrize("file", FILES)
def test_parses_with_print_config_and_trains_with_the_optimizer_its_file_names(file: str, command: Command) -> None:
    shown = command("fit", "--config", file, "--print_config")
    assert shown.code == 0, shown.err
    resolved = yaml.safe_load(shown.out)["model"]["init_args"]
    written = body(file)["model"].get("init_args", {})
    defaults = {"optimizer": "AdamW", "lr": 1e-3, "weight_decay": 0.0, "optimizer_args": None}
    if body(file)["model"]["class_path"] == "LinearProbe":
        assert not defaults.keys() & resolved.keys(), "it is solved, and has no optimizer"
        return
    for name, default in defaults.items():
        assert resolved[name] == written.get(name, default), f"{name} resolved to {resolved[name]}"


@pytest.mark.parametrize("file", FILES)
def test_has_a_header_with_command_cost_and_result_and_at_most_twenty_lines(file: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    header = [line for line in lines if line.startswith("#")]
    rest = [line for line in lines if line.strip() and not line.startswith("#")]
    assert len(rest) <= 20, f"{len(rest)} lines beside the header"
    text = "\n".join(header)
    for word in ("Command:", "Cost:", "Result:"):
        assert word in text, f"the header lacks '{word}'"
    assert file in text, "the command does not name the file"


def state_dict(tmp: Path, name: str) -> str:
    import timm

    path = tmp / f"{name}.pth"
    torch.save(timm.create_model(name, num_classes=10).state_dict(), path)
    return str(path)


def digits(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    probing = {"callbacks": [{"class_path": "LPFT", "init_args": {"epochs": None, "steps": 1}}]}
    return {"trainer": probing} if "lpft" in file else {}


def extend(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    if "bccd" in file:
        whole = bccd_held_back("extend/bccd.yaml", tmp, monkeypatch, command)
        small = {"class_path": "VOCDetection", "init_args": whole["data"]["init_args"]}
        parts = {
            name: {**small, "init_args": {**small["init_args"], "labels": [label]}}
            for name, label in (("new", "WBC"), ("old", "RBC"))
        }
        return {"network": whole["network"], "data": {"init_args": parts}}
    if "wnut17" not in file:
        return {}
    kinds = ["person", "location", "group", "corporation", "creative-work", "product"]
    files = {}
    for split, count in (("train", 48), ("val", 12), ("test", 12)):
        rows = [
            [f"{w}\t{'O' if at % 3 else f'B-{kinds[i % 6]}'}" for at, w in enumerate(t.split())]
            for i, t in enumerate(texts(count))
        ]
        files[split] = write_text(tmp / f"{split}.conll", "\n\n".join(map("\n".join, rows)))
    if "pretrain" in file:
        return {**bert(file, tmp), "data": {"init_args": files}}
    tags = dict(enumerate(["O", *(f"B-{kind}" for kind in sorted(kinds[:3]))]))
    tagger = tiny_folder(tmp / "tagger", "bert", "tokens", labels=4, id2label=tags)
    parts = {
        name: {"class_path": "CoNLL", "init_args": {**body(file)["data"]["init_args"][name]["init_args"], **files}}
        for name in ("new", "old")
    }
    small = {**parts, "rehearse": 1, "shots_per_class": 2}
    return {
        "model": {"init_args": {"freeze": None}},
        "network": {"init_args": {"pretrained": tagger, "max_length": 64}},
        "data": {"init_args": small},
    }


def coloured_digits(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    return {}


def cifar(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    if "lite0" in file:
        for split, count in (("train", 45), ("test", 24)):
            table(count, seed=len(split)).to_parquet(tmp / f"{split}.parquet")
        small = {"shots_per_class": 2, "image_size": 32}
        paths = {s: str(tmp / f"{s}.parquet") for s in ("train", "test")}
        return {
            "network": {"init_args": {"pretrained": state_dict(tmp, "tf_efficientnet_lite0")}},
            "data": {"init_args": {"path": None, "image_column": "image", "data_files": paths, **small}},
        }
    write_cifar(tmp / "data", monkeypatch)
    root = {"root": str(tmp / "data"), "download": False}
    if "pretrain" in file:
        return {"data": {"init_args": root}}
    write_cifar(tmp / "data", monkeypatch, hundred=True)
    small = {"data": {"init_args": {**root, "shots_per_class": None, "val_fraction": 0.5}}}
    if "scratch" in file:
        return small
    source = command(
        "fit", "--config", "experiments/cifar/pretrain.yaml", "--wandb", "disabled", "--trainer.max_epochs", 1,
        "--data.root", root["root"], "--data.download", "false",
    )  # fmt: skip
    assert source.code == 0, source.err
    return {
        **small,
        "network": {"init_args": {"pretrained": str(source.run.path)}},
        "retention": {"init_args": root},
    }


def bert(file: str, tmp: Path) -> dict[str, Any]:
    if "lstm" in file:
        return {}
    return {"network": {"init_args": {"pretrained": tiny_folder(tmp / "bert", "bert", "none"), "max_length": 32}}}


def trec(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    for split, count in (("train", 60), ("test", 12)):
        write_jsonl(tmp / f"trec/{split}.jsonl", [{"text": t, "label": i % 6} for i, t in enumerate(texts(count))])
    return {**bert(file, tmp), "data": {"init_args": {"root": str(tmp / "trec")}}}


def sst2(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    files = {
        key: write_jsonl(tmp / f"{key}.jsonl", [{"text": t, "label": i % 2} for i, t in enumerate(texts(count))])
        for key, count in (("train", 40), ("val", 10), ("test", 10))
    }
    return {**bert(file, tmp), "data": {"init_args": files}}


def glue(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    write_glue(tmp / "glue", "rte")
    return {**bert(file, tmp), "data": {"init_args": {"root": str(tmp / "glue")}}}


def membrane(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    write_masks(tmp / "membrane", 16, side=32)
    return {
        "network": {"init_args": {"pretrained": state_dict(tmp, "tf_efficientnet_lite0")}},
        "data": {"init_args": {"root": str(tmp / "membrane"), "image_size": 64}},
    }


def imagefolder(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    write_folder(tmp / "images", {"dog": 20, "elk": 20})
    net = {"name": "test_resnet", "pretrained": state_dict(tmp, "test_resnet")}
    data = {"root": str(tmp / "images"), "num_workers": 0, "image_size": 64, "batch_size": 8}
    return {"network": {"init_args": net}, "data": {"init_args": data}}


def instruct(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    rows = [{"instruction": t, "input": "", "output": f"{i} words"} for i, t in enumerate(texts(120))]
    folder = tiny_folder(tmp / "llama", "llama", "lm", max_position_embeddings=512)
    general = write_text(tmp / "general.txt", "\n\n".join(texts(40)))
    return {
        **({"retention": {"init_args": {"train": general}}} if "lora" in file else {}),
        "model": {"init_args": {} if "lora" in file else {"freeze": {"bottom_layers": 2}}},
        "network": {"init_args": {"pretrained": folder, "max_length": 256}},
        "data": {"init_args": {"train": write_text(tmp / "rows.json", json.dumps(rows)), "train_fraction": 0.3}},
    }


def wnut17(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    files = {}
    for split, count in (("train", 40), ("val", 10), ("test", 10)):
        sentences = [
            "\n".join(f"{w}\t{'B-x' if i % 3 else 'O'}" for i, w in enumerate(t.split())) for t in texts(count)
        ]
        files[split] = write_text(tmp / f"{split}.conll", "\n\n".join(sentences))
    return {**bert(file, tmp), "data": {"init_args": files}}


def wnut17_sets(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    files = {}
    for split, count in (("train", 40), ("val", 10), ("test", 10)):
        rows = [{"text": t, "labels": ["a", "b", "c"][: i % 4]} for i, t in enumerate(texts(count))]
        files[split] = write_jsonl(tmp / f"{split}.jsonl", rows)
    return {**bert(file, tmp), "data": {"init_args": files}}


def multi30k(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    files = {}
    for split, count in (("train", 40), ("val", 10), ("test", 10)):
        files[split] = [
            write_text(tmp / f"{split}.{side}", "\n".join(f"{side} {t}" for t in texts(count))) for side in ("en", "de")
        ]
    small = {"data": {"init_args": {**files, "generate_samples": 3}}}
    if "pretrain" in file:
        return {**small, "network": {"init_args": {"vocabulary_size": 300}}}
    source = {"pretrained": tiny_folder(tmp / "t5", "t5", "seq2seq"), "max_new_tokens": 4}
    return {**small, "network": {"init_args": source}, "retention": small["data"]}


def xquad(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    rows = []
    for text in texts(60):
        first = text.split()[0]
        rows.append(
            {"question": f"where is {first}?", "context": text, "answers": {"text": [first], "answer_start": [0]}}
        )
    small = {"train": write_jsonl(tmp / "questions.jsonl", rows), "max_length": 32, "doc_stride": 8}
    return {**bert(file, tmp), "data": {"init_args": small}}


def fsdd(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    write_metadata(tmp / "sounds", classes=10, sizes=(60, 30))
    sounds: dict[str, Any] = {"root": str(tmp / "sounds"), "val_fraction": 0.34, "batch_size": 10}
    if "speakers" in file:
        sounds["only"] = {"speaker": ["a", "b"]}
    if "pretrain" in file:
        return {"data": {"init_args": sounds}}
    made = body("experiments/fsdd/pretrain.yaml")["network"]["init_args"]
    labels = [str(number) for number in range(10 if "speakers" in file else 5)]
    network = MelCNN(TaskInfo("classification", len(labels), labels), **made)
    network.save_pretrained(str(tmp / "source"))
    return {
        "network": {"init_args": {"pretrained": str(tmp / "source")}},
        "data": {"init_args": {**sounds, "shots_per_class": 1}},
        "retention": {"init_args": sounds},
    }


def bccd(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    root = str(write_voc(tmp / "bccd", names=("WBC", "RBC"), test=4))
    return {
        "network": {"init_args": {"pretrained": state_dict(tmp, "tf_efficientnet_lite0")}},
        "data": {"init_args": {"root": root, "image_size": 64}},
    }


def bccd_cells(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    columns = {"labels": lambda i: ";".join(("RBC", "WBC", "Platelets")[: i % 4]), "red_cells": lambda i: f"{i / 10}"}
    files = write_listed(tmp / "cells", columns)
    return {
        "network": {"init_args": {"pretrained": state_dict(tmp, "tf_efficientnet_lite0")}},
        "data": {"init_args": {**files, "val": None, "image_size": 64}},
    }


def bccd_held_back(file: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> dict[str, Any]:
    small: dict[str, Any] = {"root": str(write_voc(tmp / "bccd", names=("WBC", "RBC"), test=4)), "image_size": 64}
    if "pretrain" in file:
        return {**bccd(file, tmp, monkeypatch, command), "data": {"init_args": {**small, "labels": ["RBC"]}}}
    made = {"name": "tf_efficientnet_lite0", "width": 64, "convolutions": 2}
    TimmDetection(TaskInfo("object_detection", 1, ["RBC"]), **made).save_pretrained(str(tmp / "source"))
    return {
        "network": {"init_args": {"pretrained": str(tmp / "source")}},
        "data": {"init_args": small},
        "retention": {"init_args": {**small, "labels": ["RBC"]}},
    }


TEXTS = (trec, sst2, glue, instruct, wnut17, wnut17_sets, multi30k, xquad)
MADE_SMALL = {
    f.__name__: f
    for f in (
        digits,
        extend,
        coloured_digits,
        cifar,
        imagefolder,
        membrane,
        bccd,
        bccd_cells,
        bccd_held_back,
        fsdd,
        *TEXTS,
    )
}


@pytest.mark.one_in(5)
@pytest.mark.parametrize("file", FILES)
def test_runs_made_small(file: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = MADE_SMALL[Path(file).parent.name](file, tmp_path, monkeypatch, command)
    trainer = {
        **overlay.pop("trainer", {}),
        "max_epochs": 2,
        "max_steps": 3,
        "limit_val_batches": 2,
        "check_val_every_n_epoch": 1,
        "accelerator": "cpu",
    }
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump({**overlay, "trainer": trainer}))
    done = command("fit", "--config", file, "--config", small, "--wandb", "disabled")
    assert done.code == 0, done.err
    assert done.run.status == "finished"
    assert any(name.startswith("val/") for name in done.run.metrics)
    assert (done.run.files.model / "config.json").is_file()
