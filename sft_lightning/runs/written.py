"""Writes a run from Python as config.yaml: constructor arguments as plain values. Objects are listed as not written."""

from collections.abc import Mapping
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Any

from sft_lightning.config.options import NOT_SAVED, NOT_WRITTEN, RunOptions
from sft_lightning.config.resolve import resolve
from sft_lightning.config.validation import taken_by
from sft_lightning.core.errors import UserError
from sft_lightning.data.base import SFTDataModule
from sft_lightning.modules.base import SFTModule


def config_of(
    module: SFTModule,
    data: SFTDataModule,
    retention: SFTDataModule | None,
    trainer: Mapping[str, Any],
    options: RunOptions,
    seed: int,
) -> dict[str, Any]:
    """Returns the resolved config, as `fit` would write it. If it cannot repeat the run, `not_written` says why.

    Args:
        module: The variant.
        data: The target task's data.
        retention: The source task's data.
        trainer: Arguments of Trainer that the user gave.
        options: The run's options.
        seed: Seed of everything random.
    """
    lacks: dict[str, str] = {}
    arguments = dict(module.hparams)
    network = arguments.pop("network")
    if module.task is not None or arguments.get("task") is None:  # the task came from the data
        arguments.pop("task", None)
    config: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": {name: plain(value, f"trainer.{name}", lacks) for name, value in trainer.items()},
        "model": made("model", type(module), arguments, lacks),
        "network": plain(network, "network", lacks),
        "data": made("data", type(data), data.arguments, lacks),
        **{name: value for name, value in asdict(options).items() if name not in NOT_SAVED},
    }
    if retention is not None:
        config["retention"] = made("retention", type(retention), retention.arguments, lacks)
    if not lacks:
        try:
            return resolve([config])
        except UserError as error:
            lacks["config"] = str(error)
    return {NOT_WRITTEN: lacks, **config}


def made(key: str, cls: type, arguments: Mapping[str, Any], lacks: dict[str, str]) -> dict[str, Any]:
    """Returns an object's class_path and init_args."""
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        lacks[f"{key}.class_path"] = f"{cls.__qualname__} is defined in a script: move it to a module"
    taken = taken_by(cls)
    written = {n: plain(v, f"{key}.init_args.{n}", lacks) for n, v in arguments.items() if n in taken}
    return {"class_path": f"{cls.__module__}.{cls.__qualname__}", "init_args": written}


def plain(value: Any, key: str, lacks: dict[str, str]) -> Any:
    """Returns a value as YAML can store it. For any other object returns None and notes the key in `lacks`."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Enum):
        return value.value if isinstance(value, str) else value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(held, f"{key}[{i}]", lacks) for i, held in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: plain(held, f"{key}.{name}", lacks) for name, held in value.items()}
    lacks[key] = f"{type(value).__name__} is an object of Python: give class_path and init_args, for instance by spec()"
    return None
