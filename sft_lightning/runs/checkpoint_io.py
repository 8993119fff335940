"""Reads checkpoints without running code in them, and writes them whole or not at all."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO

from sft_lightning.core.errors import UserError


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Returns a checkpoint's content, memory-mapped. Raises UserError for a damaged file or pickled code, which never runs."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError("ckpt_path", f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                "ckpt_path",
                f"{path} holds pickled code or objects other than tensors ({found[1]}), which are never loaded",
            ) from None
        raise UserError("ckpt_path", f"{path} is not a checkpoint, or is damaged") from None
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes can raise anything
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError("ckpt_path", f"{path} is not a checkpoint, or is damaged: {why}") from None
    if not isinstance(held, dict) or "state_dict" not in held:
        raise UserError(
            "ckpt_path", f"{path} is not a checkpoint", "to start from weights set network.init_args.pretrained"
        )
    for name, kind in KINDS.items():
        if name in held and not isinstance(held[name], kind):
            raise UserError("ckpt_path", f"{path} is damaged: its {name} has the wrong type")
    if not all(isinstance(v, torch.Tensor) for v in held["state_dict"].values()):
        raise UserError("ckpt_path", f"{path} is damaged: its state_dict holds more than tensors")
    about = held.get("sft_lightning")
    if about is not None and not {"variant", "network", "anchor", "teacher", "task"} <= set(about):
        raise UserError("ckpt_path", f"{path} is damaged: it lacks the description of its module")
    return held


KINDS = {"state_dict": dict, "hyper_parameters": dict, "sft_lightning": dict, "global_step": int, "epoch": int}


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name beside the target, syncs, then renames: a checkpoint is never torn."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes a rename survive a loss of power, if the system can sync folders."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
