"""Reads a finished run back as a network with its data, ready to be exported."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sft_lightning.core.errors import UserError
from sft_lightning.data.base import DATA_MODULES, SFTDataModule
from sft_lightning.export.own_folder import load_export
from sft_lightning.networks.base import Network
from sft_lightning.networks.transforms import without_transforms
from sft_lightning.runs.checkpoint_io import read_checkpoint
from sft_lightning.runs.load import Run, load
from sft_lightning.runs.same_data import left_behind
from sft_lightning.runs.status import is_finished
from sft_lightning.tasks import Task, make_task

CARRIED = ("max_new_tokens", "num_beams", "dtype", "trust_remote_code")
"""Arguments of networks that change answers, and that a run's model folder does not hold"""


@dataclass
class Tuned:
    """A finished run's network, with adapters merged, and the data it was tuned on."""

    run: Run
    config: dict[str, Any]
    network: Network
    data: SFTDataModule
    task: Task

    @property
    def kept(self) -> bool:
        """Whether the run measured retention, and its source head is there."""
        measured = any(name.startswith("retention/") for name in self.run.record["metrics"])
        return measured and self.network.source_head is not None


def open_run(path: str | Path) -> Tuned:
    """Loads a finished run. Raises UserError if it is unfinished, has lost its weights or its data, or is damaged."""
    run = load(path)
    if not is_finished(run.status):
        raise UserError(
            run.path, f"is not finished, its status is {run.status}", f"finish it by fit --resume {run.path}"
        )
    config = run.config
    if not (run.files.model / "config.json").is_file():
        raise UserError(
            run.path,
            "has no model/ any more: keep_weights or runs clean removed its weights, or it was a trial run",
            "repeat it by fit --config of its config.yaml, or export the study's chosen run",
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for the user's own modules
    given = without_transforms(config.get("network") or {}).get("init_args") or {}
    network = load_export(run.files.model, **{name: given[name] for name in CARRIED if name in given})
    check_checkpoint(run, network)
    with hinted(run):
        data = open_data(config)
        network.settle(data.settle(network.wanted_input()))
    return Tuned(run, config, network, data, make_task(network.task))


def open_data(config: dict[str, Any], which: str = "data") -> SFTDataModule:
    """Loads a run's data, as validation does: its `data`, or its `retention`."""
    block = config.get(which) or {}
    if "class_path" not in block:
        raise UserError(which, "config.yaml does not say which data", "export a run that the command fit made")
    data = DATA_MODULES.load(str(block["class_path"]), SFTDataModule)(**(block.get("init_args") or {}))
    if data.seed is None:
        data.seed = int(config.get("seed_everything") or 0)
    data.prepare_data()
    data.setup("validate")
    if "val" not in data.splits:
        raise UserError("data", "has no validation split to compare answers on", "set data.val_fraction, and fit again")
    return data


@contextmanager
def hinted(run: Run) -> Iterator[None]:
    """Adds to an error where the run was made, if its files were named relative to another folder."""
    try:
        yield
    except UserError as error:
        hint = left_behind(run.record, run.files.config)
        raise (error.with_fix(hint) if hint else error) from None


def check_checkpoint(run: Run, network: Network) -> None:
    """Raises UserError if the network differs from best.ckpt, which `test` and `predict` measure.

    Tensors beside which adapters stand have other names in a checkpoint, and are not compared. Nor is a source head that is
    the old rows of a joint head there.
    """
    files = run.files
    checkpoint = files.best if files.best.is_file() else files.last
    if not checkpoint.is_file():
        return
    held = read_checkpoint(checkpoint)["state_dict"]
    joint = any(name.startswith(("network.head.old.", "network.head.classes.old.")) for name in held)
    for name, mine in network.state_dict().items():
        theirs = held.get(f"network.{name}")
        if theirs is None or not isinstance(mine, torch.Tensor) or (joint and name.startswith("source_head.")):
            continue
        if theirs.shape != mine.shape or not torch.equal(theirs.to(mine.dtype), mine.cpu()):
            raise UserError(
                files.model, f"does not hold the weights of {checkpoint.name}: {name} differs", "finish the run again"
            )
