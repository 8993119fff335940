"""Tiny fake text data in the real formats on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from tests.networks.tiny import SENTENCES


def write_jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_text(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def write_parquet(path: Path, columns: dict[str, list[Any]], classes: dict[str, list[str]] | None = None) -> str:
    """As the hub's parquet: class names in the schema's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = {n: {"names": names, "_type": "ClassLabel"} for n, names in (classes or {}).items()}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)
    return str(path)


def texts(count: int) -> list[str]:
    """Of different lengths, all different."""
    return [f"{SENTENCES[i % len(SENTENCES)]} {'more ' * (i % 7)}{i}" for i in range(count)]


GLUE_COLUMNS = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "stsb": ("sentence1", "sentence2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
}


def write_glue(root: Path, subset: str, train: int = 40, held_out: int = 21) -> str:
    """A clone of `nyu-mll/glue`, one task of it; test labels are -1, as there."""
    classes = 3 if subset == "mnli" else 2
    splits = {"train": train, "validation": held_out, "test": 5}
    if subset == "mnli":
        splits = {
            "train": train,
            "validation_matched": held_out,
            "validation_mismatched": held_out + 2,
            "test_matched": 5,
        }
    for split, size in splits.items():
        columns: dict[str, list[Any]] = {
            c: texts(size)[::step] for c, step in zip(GLUE_COLUMNS[subset], (1, -1), strict=False)
        }
        labels: list[Any] = (
            [i * 7 % classes for i in range(size)] if subset != "stsb" else [i * 1.7 % 5 for i in range(size)]
        )
        columns["label"] = labels if not split.startswith("test") else [-1] * size
        columns["idx"] = list(range(size))
        write_parquet(root / subset / f"{split}-00000-of-00001.parquet", columns)
    return str(root)
