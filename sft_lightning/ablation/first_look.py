"""Reads a study's tables of texts before anything is trained: a fault in a file is said once, not by every point."""

from importlib import import_module
from typing import Any


def read_tables(configs: list[dict[str, Any]]) -> None:
    """Loads the text data of resolved configs, each once. Raises the UserError that `fit` would end with.

    Args:
        configs: One for each arm and setting, as `Plan.check` gives them.
    """
    from sft_lightning.data.text.base import TextData

    seen = set()
    for config in configs:
        block = config.get("data") or {}
        module, _, name = str(block.get("class_path", "")).rpartition(".")
        cls = getattr(import_module(module), name, None) if module.startswith("sft_lightning.") else None
        if not (isinstance(cls, type) and issubclass(cls, TextData)):
            continue
        data = cls(**(block.get("init_args") or {}))
        if (key := data.loads_from()) not in seen:
            seen.add(key)
            data.load()
