"""Compares ways of fine-tuning: which one learns the new task and keeps the old knowledge?

The names below are loaded when first used, so that `import sft_lightning` alone stays fast.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "main": "sft_lightning.cli.main",
    "run": "sft_lightning.runs.python",
    "spec": "sft_lightning.networks.spec",
    "UserError": "sft_lightning.core.errors",
    "modules": "",
    "networks": "",
    "data": "",
    "callbacks": "",
    "runs": "",
    "tasks": "",
    "anchors": "",
}
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'sft_lightning' has no attribute '{name}'")
    home = _NAMES[name]
    return getattr(import_module(home), name) if home else import_module(f"sft_lightning.{name}")
