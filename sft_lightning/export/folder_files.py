"""Files that several formats write: the source head, where it belongs, the adapter alone, the tokenizer's length."""

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.source_head_file import ABOUT, write_source_head

ADAPTER = "adapter"


def add_source_head(tuned: Tuned, folder: Path, layer: str | None) -> None:
    """Writes the source head in files of its own, with the name of the layer in whose place it works."""
    network = tuned.network
    assert isinstance(network.source_head, nn.Linear) and network.source_task is not None
    write_source_head(network.source_head, network.source_task, network.source_labels, str(folder))
    name_layer(folder, layer)


def name_layer(folder: Path, layer: str | None) -> None:
    """Adds the output layer's name to source_head.json, if the library's model has it in one place."""
    if layer is None:
        return
    content: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    content["layer"] = layer
    (folder / ABOUT).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def add_adapter(tuned: Tuned, folder: Path) -> None:
    """Copies the adapter alone, as the run's model folder has it."""
    held = tuned.run.files.model / ADAPTER
    if held.is_dir():
        shutil.copytree(held, folder / ADAPTER)


def limit_length(folder: Path, most: int | None) -> None:
    """Sets the tokenizer's length to that at which the run truncated samples."""
    path = folder / "tokenizer_config.json"
    if most is None or not path.is_file():
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model_max_length"] = most
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
