"""Makes tests/compat/before: runs and a study as the code of another commit leaves them.

Run once, with that commit's code: `PYTHONPATH=WORKTREE python tests/compat/make.py OUT` in a worktree of it. Only text
files are kept, without the place and the machine they were made on.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

DIGITS = {"val_fraction": 0.25, "batch_size": 20}
ON_DIGITS: dict[str, Any] = {
    "seed_everything": 0,
    "network": {
        "class_path": "MLP",
        "init_args": {"in_features": 64, "hidden": [128, 64], "pretrained": "builtin:digits-0-4"},
    },
    "data": {"class_path": "Digits", "init_args": {**DIGITS, "classes": [5, 6, 7, 8, 9], "shots_per_class": 20}},
    "retention": {"class_path": "Digits", "init_args": {**DIGITS, "classes": [0, 1, 2, 3, 4]}},
    "trainer": {"max_epochs": 4, "check_val_every_n_epoch": 2, "accelerator": "cpu", "log_every_n_steps": 5},
    "test_after_fit": True,
}
ON_COLOURS: dict[str, Any] = {
    **ON_DIGITS,
    "network": {
        "class_path": "MLP",
        "init_args": {"in_features": 192, "hidden": [96, 48], "pretrained": "builtin:digits-shape"},
    },
    "data": {"class_path": "ColouredDigits", "init_args": {**DIGITS, "colour": "label", "shots_per_class": 20}},
    "retention": {"class_path": "ColouredDigits", "init_args": {**DIGITS, "colour": "random"}},
}
SMALL = {"max_epochs": 1, "accelerator": "cpu", "log_every_n_steps": 1}


def variant(name: str, **arguments: Any) -> dict[str, Any]:
    return {"model": {"class_path": name, "init_args": arguments}}


def classes(path: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": path, "init_args": arguments}


EXPERIMENTS: dict[str, dict[str, Any]] = {
    "digits-plain": {**ON_DIGITS, **variant("PlainSFT", lr=0.001)},
    "digits-distill": {**ON_DIGITS, **variant("DistillSFT", lr=0.001, anchor_weight=0.1)},
    "digits-features": {
        **ON_DIGITS,
        **variant("sft_lightning.modules.distill.DistillSFT", anchor_weight=0.1, on="features", distance="cosine"),
    },
    "digits-lwf": {
        **ON_DIGITS,
        **variant("DistillSFT", anchor_weight=0.25, distance="kl", train_source_head=True, head_warmup=1),
    },
    "digits-l2sp": {**ON_DIGITS, **variant("L2SPSFT", lr=0.003, alpha=0.01, beta=0.001)},
    "digits-decoupled": {
        **ON_DIGITS,
        **variant("sft_lightning.modules.l2sp.L2SPSFT", how="decoupled", decoupled_weight=0.3, ema_decay=0.9),
    },
    "digits-probe": {**ON_DIGITS, **variant("LinearProbe")},
    "digits-scratch": {
        **ON_DIGITS,
        **variant("PlainSFT", optimizer="SGD", lr=0.05, optimizer_args={"momentum": 0.9}, lr_schedule="cosine"),
        "network": classes("sft_lightning.networks.small.MLP", in_features=64, hidden=[16]),
        "retention": None,
        "select_by": "val/loss",
    },
    "coloured-distill": {**ON_COLOURS, **variant("DistillSFT", lr=0.001, anchor_weight=0.1)},
    "text-distill": {
        "seed_everything": 1,
        **variant("DistillSFT", anchor_weight=0.5, head_lr_factor=10, lr_schedule="linear", warmup=0.1),
        "network": classes("TransformersText", pretrained="bert", max_length=32),
        "data": classes("TextTable", train="train.jsonl", test="test.jsonl", batch_size=8),
        "trainer": SMALL,
        "test_after_fit": True,
    },
    "values-plain": {
        "seed_everything": 1,
        **variant("PlainSFT"),
        "network": classes("LSTM", hidden=8, max_length=16),
        "data": classes("TextTable", train="values.jsonl", task="regression", label_column="score", batch_size=8),
        "trainer": SMALL,
    },
    "lm-distill": {
        "seed_everything": 1,
        **variant("DistillSFT", on="logits", distance="kl", temperature=1.0, freeze={"bottom_layers": 1}),
        "network": classes("TransformersLM", pretrained="llama", max_length=256),
        "data": classes("Instructions", train="rows.json", batch_size=8),
        "trainer": {**SMALL, "accumulate_grad_batches": 2},
    },
}
STUDY: dict[str, Any] = {
    "study": "small-study",
    "base": {**ON_DIGITS, **variant("PlainSFT", lr=0.003), "test_after_fit": False, "wandb": "disabled"},
    "set": {"trainer.max_epochs": 6, "trainer.check_val_every_n_epoch": 3},
    "arms": {
        "plain": {"tune": {"model.lr": [0.003, 0.01]}},
        "distill": {"set": {"model": {"class_path": "DistillSFT", "init_args": {"on": "features"}}}},
    },
    "axes": {"data.shots_per_class": [4]},
    "seeds": 2,
}
KEPT = ("config.yaml", "run.json", "metrics.jsonl", "details.json", "points.csv", "study.json")


def write_inputs(folder: Path) -> None:
    """Data files and random networks that the experiments on texts name, in the current directory."""
    from tests.data.text_files import texts, write_jsonl
    from tests.exactness.tokenizers import fixed_words
    from tests.networks.tiny import tiny_folder

    labelled = [{"text": t, "label": ("sad", "glad")[i % 2], "score": i / 10} for i, t in enumerate(texts(42))]
    write_jsonl(folder / "train.jsonl", labelled)
    write_jsonl(folder / "test.jsonl", labelled[:9])
    write_jsonl(folder / "values.jsonl", labelled)
    answers = [{"instruction": t, "input": "", "output": f"{i} words"} for i, t in enumerate(texts(30))]
    (folder / "rows.json").write_text(json.dumps(answers))
    tiny_folder(folder / "bert", "bert", "sequence", tokenizer=fixed_words())
    tiny_folder(folder / "llama", "llama", "lm", tokenizer=bytes_alone(), max_position_embeddings=512)


def bytes_alone() -> Any:
    """A tokenizer whose tokens are bytes: training one breaks ties in another way in each process."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def without_place(content: Any) -> Any:
    """The record without where it was made: paths and the operating system's name."""
    if isinstance(content, dict):
        about = {"cwd": ".", "platform": "Linux", "cpus": 1}
        return {k: about.get(k, without_place(v)) for k, v in content.items()}
    if isinstance(content, list):
        return [without_place(v) for v in content]
    if isinstance(content, str) and content.startswith("/"):
        return Path(content).name
    return content


def keep(made: Path, out: Path) -> None:
    """Copies the text files of a run or a study that `compare` and `fit --config` read."""
    for file in sorted(made.rglob("*")):
        if file.name not in KEPT or "model" in file.relative_to(made).parts:
            continue
        target = out / file.relative_to(made)
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".json":
            target.write_text(json.dumps(without_place(json.loads(file.read_text())), indent=1) + "\n")
        else:
            shutil.copy(file, target)


def main(out: Path) -> None:
    from contextlib import redirect_stdout
    from io import StringIO

    import torch

    from sft_lightning import callbacks, data, modules, networks
    from sft_lightning import main as command

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        write_inputs(Path())
        for name, content in EXPERIMENTS.items():
            Path(f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
            where = ["--config", f"{name}.yaml", "--run_id", "before", "--runs_dir", "runs", "--wandb", "disabled"]
            assert command(["fit", *where, "--quiet", "true"]) == 0, name
        Path("small-study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
        where = ["--config", "small-study.yaml", "--runs_dir", "runs", "--workers", "1", "--threads", "1"]
        assert command(["ablate", *where]) == 0
        for found in Path("runs").iterdir():
            keep(found, out / found.name)
        os.chdir(out)
        tables: dict[str, Any] = {}
        for group in sorted({p.name.partition("-")[0] for p in out.iterdir() if p.is_dir()}):
            paths = sorted(p.name for p in out.iterdir() if p.is_dir() and p.name.startswith(f"{group}-"))
            tables[group] = {"paths": paths}
            for form in ("table", "json"):
                with redirect_stdout(StringIO()) as shown:
                    assert command(["compare", *paths, "--format", form]) == 0
                text = shown.getvalue()
                tables[group][form] = json.loads(text) if form == "json" else text.splitlines()
        (out / "compared.json").write_text(json.dumps(tables, indent=1, ensure_ascii=False) + "\n")
        (out / "processor.txt").write_text(torch.backends.cpu.get_cpu_capability() + "\n")
        public = {m.__name__: sorted(m.__all__) for m in (modules, networks, data, callbacks)}
        (out / "names.json").write_text(json.dumps(public, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
