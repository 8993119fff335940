"""Runs whose resume is tested: between them every variant, every task, and all that has a state."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.networks.tiny import tiny_folder
from tests.support import VARIANTS

DIGITS = {
    "class_path": "Digits",
    "init_args": {"classes": [5, 6, 7, 8, 9], "shots_per_class": 9, "val_fraction": 0.25, "batch_size": 16},
}
SOURCE = {"class_path": "Digits", "init_args": {"classes": [0, 1, 2, 3, 4], "val_fraction": 0.25, "batch_size": 256}}
MLP = {
    "class_path": "MLP",
    "init_args": {"in_features": 64, "hidden": [128, 64], "pretrained": "builtin:digits-0-4", "dropout": 0.2},
}
EARLY = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1, "min_delta": 5.0}}
TRAINER = {"max_epochs": 3, "accelerator": "cpu", "log_every_n_steps": 2}


def on_digits(variant: str, trainer: dict[str, Any], data: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """45 samples in steps of 16: two whole ones and a ragged one an epoch."""
    cls, arguments = VARIANTS[variant]
    return {
        "model": {"class_path": cls.__name__, "init_args": {"lr": 1e-2, **arguments, **settings}},
        "network": MLP,
        "data": {**DIGITS, "init_args": {**DIGITS["init_args"], **data}},
        "retention": SOURCE,
        "trainer": {**TRAINER, **trainer},
        "test_after_fit": True,
    }


def question(number: int, text: str, words: list[str]) -> dict[str, Any]:
    """A question whose context has several windows, in the columns that `datasets` has for SQuAD."""
    context, word = f"{' '.join(words[number % 10 :] + words)} {text}, {number}.", words[number % 7]
    answers = {"text": [word], "answer_start": [context.rindex(word)]}
    return {"id": str(number), "question": f"Which {words[number % 3]}?", "context": context, "answers": answers}


def tagged(number: int, text: str, words: list[str]) -> dict[str, Any]:
    held = text.split() or words[:1]
    return {"tokens": held, "tags": [("B-X", "O")[(number + at) % 2] for at in range(len(held))]}


def labelled(number: int, text: str, words: list[str]) -> dict[str, Any]:
    return {"text": f"{text} {number}", "labels": [words[0], words[1]][: number % 3]}


def with_choices(number: int, text: str, words: list[str]) -> dict[str, Any]:
    return {"question": f"{text} {number}", "choices": words[number % 3 :][: 2 + number % 2], "label": number % 2}


WINDOWS = {"max_length": 24, "doc_stride": 6}
OF_ROWS: dict[str, tuple[str, str, str, Callable[[int, str, list[str]], dict[str, Any]], dict[str, Any]]] = {
    "extractive_qa": ("TransformersQA", "qa", "SQuAD", question, WINDOWS),
    "token_classification": ("TransformersTokens", "none", "TaggedTable", tagged, {}),
    "multi_label": ("TransformersText", "none", "MultiLabelTable", labelled, {"label_column": "labels"}),
    "multiple_choice": ("TransformersChoice", "none", "MultipleChoice", with_choices, {}),
}
"""For tasks on rows of a table: the network and its head, the data, its rows, its settings"""


def on_texts(folder: Path, task: str) -> dict[str, Any]:
    """Texts of uneven length, grouped by length."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    texts = [" ".join(words[i % 10 :: 1 + i % 3][: 1 + i % 7]) for i in range(30)]
    if task == "seq2seq":
        pairs = [{"source": text, "target": f"{words[i % 10]} {text}"} for i, text in enumerate(texts)]
        (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        network = {
            "class_path": "TransformersSeq2Seq",
            "init_args": {
                "pretrained": tiny_folder(folder / "t5", "t5", "seq2seq"),
                "max_new_tokens": 5,
                "num_beams": 2,
            },
        }
        data: dict[str, Any] = {
            "class_path": "TextPairs",
            "init_args": {
                "train": str(folder / "pairs.jsonl"),
                "val_fraction": 0.3,
                "batch_size": 8,
                "eval_batch_size": 3,
            },
        }
    elif task in OF_ROWS:
        cls, head, data_class, row_of, settings = OF_ROWS[task]
        rows_ = [row_of(i, text, words) for i, text in enumerate(texts)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_))
        network = {"class_path": cls, "init_args": {"pretrained": tiny_folder(folder / "bert", "bert", head)}}
        init = {"train": str(folder / "rows.jsonl"), "val_fraction": 0.3, "batch_size": 8, "eval_batch_size": 2}
        data = {"class_path": data_class, "init_args": {**init, **settings}}
    elif task == "causal_lm":
        rows = [{"prompt": text, "completion": f"{words[i % 10]} {text}"} for i, text in enumerate(texts)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        network = {
            "class_path": "TransformersLM",
            "init_args": {"pretrained": tiny_folder(folder / "lm", "gpt2", "lm")},
        }
        data = {
            "class_path": "Instructions",
            "init_args": {"train": str(folder / "rows.jsonl"), "val_fraction": 0.3, "batch_size": 8},
        }
    else:
        values = [f"{len(text) / 10}" if task == "regression" else words[i % 3] for i, text in enumerate(texts)]
        lines = ["text,label", *(f"{text},{value}" for text, value in zip(texts, values, strict=True))]
        (folder / "rows.csv").write_text("\n".join(lines) + "\n")
        network = {
            "class_path": "TransformersText",
            "init_args": {"pretrained": tiny_folder(folder / "bert", "bert", "none")},
        }
        data = {
            "class_path": "TextTable",
            "init_args": {
                "train": str(folder / "rows.csv"),
                "task": task,
                "val_fraction": 0.3,
                "batch_size": 8,
            },
        }
    return {
        "model": {
            "class_path": "DistillSFT",
            "init_args": {"lr": 1e-2, "on": "logits" if task in ("causal_lm", "seq2seq") else "features"},
        },
        "network": network,
        "data": data,
        "trainer": {**TRAINER, "max_epochs": 2},
    }


SETTINGS: dict[str, dict[str, Any]] = {
    "ragged steps in micro-batches": {"trainer": {"accumulate_grad_batches": 4}, "data": {}},
    "average, schedule, crops": {
        "trainer": {"accumulate_grad_batches": 2},
        "data": {"augment": ["crop", "flip"]},
        "ema_decay": 0.9,
        "lr_schedule": "cosine",
        "warmup": 0.2,
    },
    "max_steps amid an epoch, validation at every step": {
        "trainer": {"max_epochs": -1, "max_steps": 8, "val_check_interval": 2, "accumulate_grad_batches": 2},
        "data": {},
    },
    "early stopping": {"trainer": {"max_epochs": 6, "callbacks": [EARLY]}, "data": {}},
    "early stopping amid an epoch": {
        "trainer": {"max_epochs": 6, "val_check_interval": 2, "callbacks": [EARLY]},
        "data": {"batch_size": 8},
    },
    "validation every second epoch": {"trainer": {"max_epochs": 4, "check_val_every_n_epoch": 2}, "data": {}},
    "two workers": {"trainer": {"accumulate_grad_batches": 2}, "data": {"num_workers": 2, "augment": ["crop"]}},
}


def write(config: dict[str, Any], path: Path, callback: dict[str, Any] | None = None) -> Path:
    """The configuration as a file, with one more callback."""
    trainer = dict(config["trainer"])
    trainer["callbacks"] = [*trainer.get("callbacks", []), *([callback] if callback else [])]
    path.write_text(yaml.safe_dump({**config, "trainer": trainer, "wandb": "disabled", "quiet": True}))
    return path
