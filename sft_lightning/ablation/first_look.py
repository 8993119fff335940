"""Reads a study's text tables before training, so that an error in a file is reported once, not by every point."""

from importlib import import_module
from typing import Any


def read_tables(configs: list[dict[str, Any]]) -> None:
    """Loads each text data set of the configs once. Raises the UserError that `fit` would raise.

    Args:
        configs: Resolved configs of all arms and settings, from `Plan.check`.
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
