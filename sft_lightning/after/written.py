"""Writes an edited network as a run, which compare, gate, export and test treat as any other."""

import json
import shutil
import time
from collections.abc import Mapping
from typing import Any

import yaml

from sft_lightning.core.errors import UserError
from sft_lightning.modules.base import CHECKPOINT_KEY, ENDS_KEY, TRAINABLE_KEY, SFTModule
from sft_lightning.runs.best_model import export_best
from sft_lightning.runs.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from sft_lightning.runs.directory import RunDirectory, create_run, run_path, write_atomic
from sft_lightning.runs.load import load
from sft_lightning.runs.record import Record, strict
from sft_lightning.runs.status import FINISHED

OF_CHECKPOINT = (
    *("epoch", "global_step", "pytorch-lightning_version", "state_dict", "hparams_name", "hyper_parameters"),
    *("datamodule_hparams_name", "datamodule_hyper_parameters", "loops", "callbacks"),
    *(CHECKPOINT_KEY, TRAINABLE_KEY, ENDS_KEY),
)
"""What a checkpoint keeps of the tuned one: all but the state of its optimizer and of its record"""
OF_RECORD = (
    *("schema", "variant", "network", "seed", "task", "parameters", "layers", "pretrained", "teacher_hash", "device"),
    *("data", "retention", "metric_info", "primary", "steps", "epochs", "cwd"),
)
"""What a record keeps of the tuned run's: all but what was measured, and when"""


def place_for(run: RunDirectory, experiment: str, run_id: str | None = None) -> RunDirectory:
    """The directory that a run made of `run` will have: beside its experiment, by default with its id. Nothing is made yet.

    Raises UserError if it exists.
    """
    try:
        path = run_path(run.path.resolve().parent.parent, experiment, run_id or run.run_id)
    except UserError as error:
        raise error.at("--write") from None
    if path.exists():
        raise UserError("--write", f"{path} exists already", "give another name, or remove it")
    return RunDirectory(path)


def write_run(
    module: SFTModule,
    source: RunDirectory,
    target: RunDirectory,
    values: Mapping[str, float],
    counts: Mapping[str, int],
    by: str,
    command: str,
    how: Mapping[str, Any],
) -> RunDirectory:
    """Writes the module's network as a finished run beside the run that it was made of.

    Its config.yaml is the tuned run's under its own experiment, so that test and export find network and data; `fit --config`
    of it repeats that run, without the edit. It has no last.ckpt, as it cannot be trained on.

    Args:
        module: Holds the network.
        source: The tuned run.
        target: From `place_for`.
        values: What was measured on validation.
        counts: Numbers of samples behind it.
        by: The target's metric, if the tuned run does not say which one chose its checkpoint.
        command: The command as typed.
        how: What was done, as plain values for the record's `after`.
    """
    run = load(source.path)
    held = read_checkpoint(source.best if source.best.is_file() else source.last)
    state = module.state_dict()
    held = {name: part for name, part in held.items() if name in OF_CHECKPOINT}
    held["state_dict"] = {name: state[name].detach().cpu().clone() for name in held["state_dict"]}
    step, epoch = int(held["global_step"]), int(held.get("epoch", 0))
    record = Record(target.record, {name: run.record[name] for name in OF_RECORD if name in run.record})
    record.content |= {"metrics": {}, "n": dict(counts), "after": {**how, "of": str(source.path)}}
    for name, entry in run.record["metrics"].items():
        if "before" in entry and not name.startswith("test/"):
            record.content["metrics"][name] = {"before": entry["before"]}
    for name, value in values.items():
        record.metric(name, value, step, None)
    record.select(dict(values), str((run.record.get("selected") or {}).get("by", by)), step, epoch)
    create_run(target.path.parent.parent, target.experiment, target.run_id)
    try:
        record.start(run_id=target.run_id, experiment=target.experiment, stage="path", command=command)
        config = {**run.config, "experiment": target.experiment}
        write_atomic(target.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        row = {"step": step, "time": round(time.time(), 3), "epoch": epoch, **values}
        write_atomic(target.metrics, json.dumps(strict(row), allow_nan=False) + "\n")
        AtomicCheckpointIO().save_checkpoint(held, target.best)
        export_best(module, target.best, target.model)
        record.end(FINISHED)
    except BaseException:
        shutil.rmtree(target.path, ignore_errors=True)
        raise
    return target
