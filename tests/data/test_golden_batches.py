"""Splits, fingerprints, batches and exports are those of earlier releases: `golden_batches.json` holds their hashes.

Write them again with `python -m tests.data.test_golden_batches` if a change of order or content is intended.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Digits, ImageFolder, Instructions, SFTDataModule, TextTable
from sft_lightning.networks import LSTM, MLP, LeNet, Network, TransformersImage, TransformersLM
from tests.data import vision_files
from tests.data.text_files import texts, write_jsonl, write_text
from tests.networks.tiny import byte_bpe, tiny_folder
from tests.support import settle

GOLDEN = Path(__file__).with_name("golden_batches.json")
VIT = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def mlp(task: TaskInfo, _: Path) -> Network:
    return MLP(task, in_features=64, hidden=[4])


def lenet(task: TaskInfo, _: Path) -> Network:
    return LeNet(task, image_size=16)


def vit(task: TaskInfo, _: Path) -> Network:
    return TransformersImage(task, config={**VIT, "image_size": 16, "patch_size": 8})


def lstm(task: TaskInfo, _: Path) -> Network:
    return LSTM(task, embedding_dim=4, hidden=4)


def gpt(task: TaskInfo, folder: Path) -> Network:
    template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    return TransformersLM(
        task, pretrained=tiny_folder(folder / "model", "gpt2", "lm", tokenizer=byte_bpe(template=template))
    )


def folder(path: Path, **settings: Any) -> ImageFolder:
    vision_files.write_folder(path / "images", {"ant": 12, "bee": 9, "cat": 7}, side=20, suffix=".bmp")
    (path / "images" / "bee" / "3.bmp").write_bytes(b"no image")
    return ImageFolder(
        root=str(path / "images"), on_bad_sample="skip", augment=["crop", "flip", "randaugment"], **settings
    )


def table(path: Path, task: str = "classification", broken: bool = False, **settings: Any) -> TextTable:
    rows: list[Any] = [
        {"text": text, "label": i / 7 if task == "regression" else ("no", "so", "yes")[i % 3]}
        for i, text in enumerate(texts(60))
    ]
    if broken:
        rows[5]["label"], rows[9]["text"] = None, 3
    return TextTable(train=write_jsonl(path / "rows.jsonl", rows), task=task, **settings)  # type: ignore[arg-type]


def chat(path: Path, **settings: Any) -> Instructions:
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]}
        for text in texts(24)
    ]
    return Instructions(train=write_jsonl(path / "chat.jsonl", rows), max_length=40, **settings)


def grey(path: Path) -> TextTable:
    return TextTable(
        train=write_text(
            path / "a.csv", "text,label\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate("abcdefgh" * 4))
        )
    )


Case = tuple[Callable[[Path], SFTDataModule], Callable[[TaskInfo, Path], Network]]
CASES: dict[str, Case] = {
    "digits": (lambda _: Digits(batch_size=16), mlp),
    "some classes, in their own order": (lambda _: Digits(classes=[7, 2, "5"], batch_size=12, seed=3), mlp),
    "shots": (lambda _: Digits(shots_per_class=6, subset_seed=4, batch_size=8, eval_batch_size=30), mlp),
    "a fraction": (lambda _: Digits(train_fraction=0.1, val_fraction=0.2, subset_seed=1), mlp),
    "a fold held out": (lambda _: Digits(shots_per_class=9, folds=3, fold=1, subset_seed=2, batch_size=4), mlp),
    "folds, none held out": (lambda _: Digits(train_fraction=0.3, folds=4, batch_size=32), mlp),
    "resized": (lambda _: Digits(image_size=16, augment=["crop"], crop_padding=2, classes=[0, 1]), vit),
    "damaged files, augmented": (lambda path: folder(path, test_fraction=0.2, batch_size=4), lenet),
    "a table": (lambda path: table(path, test_fraction=0.2, batch_size=6), lstm),
    "a table with rows left out": (lambda path: table(path, broken=True, on_bad_sample="skip", folds=2, fold=0), lstm),
    "values": (lambda path: table(path, "regression", test_fraction=0.1, train_fraction=0.7, folds=3, fold=2), lstm),
    "two columns of a file": (grey, lstm),
    "conversations": (lambda path: chat(path, test_fraction=0.25, batch_size=4), gpt),
}


def of(*parts: Any) -> str:
    """16 hexadecimal digits that stand for values: tensors by their type, shape and bytes."""
    digest = sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)} ".encode())
            digest.update(part.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if part.numel() else b"")
        else:
            digest.update(f"{part!r} ".encode())
    return digest.hexdigest()[:16]


def selected(batch: dict[str, Any]) -> Tensor | None:
    found: Tensor | None = batch["select"] if "select" in batch else batch.get("real")
    return found


def seen(case: str, path: Path) -> dict[str, Any]:
    """What a data module gives: fingerprints, the rows of each split's batches on one rank and on two, an export's words."""
    path.mkdir(parents=True, exist_ok=True)
    make, network_of = CASES[case]
    torch.manual_seed(0)
    data = make(path)
    data.setup("fit")
    assert data.task_info is not None
    network = network_of(data.task_info, path)
    settle(data, network)
    found: dict[str, Any] = {
        "fingerprint": {name: value[:16] for name, value in data.fingerprint().items()},
        "sizes": {name: len(split) for name, split in data.splits.items()},
        "task": data.task_info.to_dict(),
        "described": data.describe().replace(str(path), "…"),
    }
    for ranks in (1, 2):
        for split in data.splits:
            for rank in range(ranks):
                parts: list[Any] = []
                for batch in data.loader(split, rank, ranks):
                    batch = data.receive(batch)
                    x = {n: t for n, t in sorted(batch["x"].items()) if n != "select"}
                    told = list(batch["rows"]), batch["count"], batch["epoch"], batch["compared"], batch["samples"]
                    parts += [*told, batch["index"], *x, *x.values(), selected(batch), batch.get("y")]
                found[f"{split}, rank {rank} of {ranks}"] = of(*parts)
    found["left out"] = json.loads(json.dumps(data.skipped_report()).replace(str(path), "…"))
    network.save_pretrained(str(path / "export"))
    about = json.loads((path / "export" / "config.json").read_text())["sft_lightning"]
    found["export"] = {"config.json": of(json.dumps(about)), "input": about["input"]}
    if (path / "export" / "generation_config.json").exists():
        found["export"]["stops at"] = json.loads((path / "export" / "generation_config.json").read_text())[
            "eos_token_id"
        ]
    return found


@pytest.mark.parametrize("case", CASES)
def test_splits_batches_and_exports_are_those_of_earlier_releases(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    found, golden = seen(case, tmp_path), json.loads(GOLDEN.read_text())[case]
    assert {k for k in found if found[k] != golden[k]} == set(), f"{found} is not {golden}"
    assert found == golden


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as root:
        made = {case: seen(case, Path(root) / str(number)) for number, case in enumerate(CASES)}
    lines = ",\n".join(f"{json.dumps(case)}: {json.dumps(found, ensure_ascii=False)}" for case, found in made.items())
    GOLDEN.write_text(f"{{\n{lines}\n}}\n")
