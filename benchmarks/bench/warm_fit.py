"""Where the CPU time of a warm fit in a study's worker goes: runs a few fits as the worker does, and prints JSON.

python -m benchmarks.bench.warm_fit FOLDER
"""

import contextlib
import gc
import io
import json
import sys
import time
from pathlib import Path

import torch
import yaml

from benchmarks.bench.arithmetic import spread
from benchmarks.bench.parts import REST, install
from benchmarks.bench.start import CONFIG
from sft_lightning.ablation.plan import written
from sft_lightning.ablation.worker import as_function
from sft_lightning.cli.main import main
from sft_lightning.config.resolve import resolve
from sft_lightning.core import cache

FITS, EPOCHS = 7, 20
MONITOR = "sft_lightning.evaluation.retention.RetentionMonitor"
TIMED = {
    "config": (
        "sft_lightning.cli.fit.SFTCLI.parse_arguments",
        "sft_lightning.cli.fit.SFTCLI.before_instantiate_classes",
    ),
    "building objects": (
        "sft_lightning.cli.fit.SFTCLI.instantiate_classes",
        "lightning.pytorch.cli.LightningCLI.instantiate_classes",
        "lightning.pytorch.trainer.call._call_setup_hook",
    ),
    "steps": ("lightning.pytorch.loops.training_epoch_loop._TrainingEpochLoop.advance",),
    "validation": ("lightning.pytorch.loops.evaluation_loop._EvaluationLoop.run",),
    "retention and drift": tuple(f"{MONITOR}.{n}" for n in ("on_fit_start", "on_train_start", "_compare", "_finish")),
    "records": (
        "sft_lightning.runs.record.Record.write",
        "sft_lightning.runs.opening.OpenRun.start",
        "sft_lightning.runs.opening.OpenRun.write_config",
    ),
    "checkpoints, export": (
        "sft_lightning.callbacks.checkpoints.Checkpoints.on_validation_end",
        "lightning.pytorch.Trainer.save_checkpoint",
        "sft_lightning.runs.session.RunSession.finish",
    ),
}


def fit(place: Path, number: int) -> None:
    """One fit, as a study's worker runs it."""
    config = place / f"{number}.yaml"
    base = yaml.safe_load(CONFIG.read_text())
    settings = {"test_after_fit": False, "quiet": True, "experiment": "warm", "wandb": "disabled"}
    changed = {"trainer": {"max_epochs": EPOCHS}, "model": {"init_args": {"lr": 0.001 * (1 + number)}}}
    config.write_text(written(resolve([base, changed, settings, {"seed_everything": number}])))
    where = ["--runs_dir", str(place), "--experiment", "warm", "--run_id", f"p{number}", "--ckpt_path", "last"]
    cache.next_run()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        began = time.process_time()
        if as_function(main, ["fit", "--config", str(config), *where]):
            raise RuntimeError(f"fit {number} failed")
    spent.append(1e3 * (time.process_time() - began))


spent: list[float] = []


def measure(place: Path) -> dict[str, float]:
    """Milliseconds of CPU time of a warm fit by part, medians, with the whole as `cpu`."""
    torch.set_num_threads(1)
    cache.begin()
    fit(place, 0)
    gc.freeze()
    fit(place, 1)
    clock, parts = install(TIMED), list[dict[str, float]]()
    spent.clear()
    for number in range(2, 2 + FITS):
        clock.spent.clear()
        fit(place, number)
        held = {name: 1e3 * seconds for name, seconds in clock.spent.items()}
        parts.append({**held, REST: spent[-1] - sum(held.values()), "cpu": spent[-1]})
    return {name: spread([p.get(name, 0.0) for p in parts]).median for name in parts[0]}


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
