"""A trap that shows whether code in a file was run, and runs that are refused in one line."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Command, Result, command  # noqa: F401  a fixture
from tests.networks import tiny
from tests.refused import check_printed

VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
VIT |= {"image_size": 8, "patch_size": 4, "num_channels": 1, "architectures": ["ViTForImageClassification"]}


@dataclass
class Trap:
    """A file that is there only once the planted code was run."""

    path: Path

    @property
    def source(self) -> str:
        """The planted code."""
        return f"import pathlib; pathlib.Path({str(self.path)!r}).touch()"

    def pickled(self) -> "Planted":
        """An object that runs it when it is unpickled."""
        return Planted(self.source)

    @property
    def sprung(self) -> bool:
        return self.path.exists()


class Planted:
    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (self.source,))


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "the-code-was-run")


@pytest.fixture(autouse=True)
def fresh_wandb(monkeypatch: pytest.MonkeyPatch) -> Any:
    """No variables of W&B's, and no process of its own that is left from another test."""
    for variable in [v for v in os.environ if v.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's, which cannot be reached."""
    from huggingface_hub import constants

    folder = tmp_path / "hf/hub"
    folder.mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def in_hub(cache: Path, name: str) -> Path:
    """The folder in the hub's cache where a model's files lie."""
    model, commit = cache / f"models--{name.replace('/', '--')}", "0123456789abcdef0123456789abcdef01234567"
    (model / "refs").mkdir(parents=True)
    (model / "refs/main").write_text(commit)
    (model / "snapshots" / commit).mkdir(parents=True)
    return model / "snapshots" / commit


def config(tmp_path: Path, network: dict[str, Any], data: dict[str, Any] | None = None, **more: Any) -> list[Any]:
    """`--config FILE` of a short run of PlainSFT on digits or on other data."""
    content = {
        "model": {"class_path": "PlainSFT"},
        "network": network,
        "data": data or {"class_path": "Digits", "init_args": {"shots_per_class": 2, "batch_size": 10}},
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
        **more,
    }
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    return ["--config", file]


def network(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": kind, "init_args": arguments}


def texts(tmp_path: Path) -> dict[str, Any]:
    """A table of texts to classify."""
    (tmp_path / "texts.csv").write_text("text,label\n" + "".join(f"a film {i},{'ab'[i % 2]}\n" for i in range(40)))
    return {"class_path": "TextTable", "init_args": {"train": str(tmp_path / "texts.csv"), "batch_size": 10}}


def prompts(tmp_path: Path) -> dict[str, Any]:
    """Prompts with completions."""
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one two", "completion": "three"}\n' * 20)
    return {"class_path": "Instructions", "init_args": {"train": str(tmp_path / "prompts.jsonl"), "batch_size": 10}}


def bert(folder: Path) -> Path:
    """A transformers folder of a tiny BERT with a classifier and its tokenizer."""
    tiny.tiny_folder(folder, "bert", "sequence")
    return folder


def check_refused(done: Result, key: str, *values: object) -> None:
    """Exit code 2, and one line of error with this key and these values."""
    assert done.code == 2, f"exit code {done.code} instead of 2:\n{done.err[-3000:]}"
    check_printed(done.err, key, *values)
