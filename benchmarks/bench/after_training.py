"""The end of a run of 400 steps (last save, export, test, records), beside its parts called by hand.

    python -m benchmarks.bench.after_training

prints the CPU seconds of both as JSON. `benchmarks.run end` runs it in a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.bench.arithmetic import noise, spread
from benchmarks.bench.results import ROOT

TITLE = "The end of a run of 400 steps"
CONFIG = ROOT / "experiments/digits/plain.yaml"
ROUNDS, QUICK = 5, 1
HOW = (
    "From the end of training to the end of `fit`: the last save, the export, the test with retention and drift, the records "
    "and what is printed. By hand: torch.save of the same checkpoint, save_pretrained, and the test of best.ckpt. In one warm "
    "process, on one thread; medians of CPU time."
)


def by_command(rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU time of the end of each fit, and of its parts."""
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback

    from sft_lightning.runs import RunDirectory, session

    found: dict[str, list[float]] = {"end": [], "parts": [], "again": []}
    seen: list[Any] = []

    class Ends(Callback):
        """Notes when training ended; it comes before the callbacks that save."""

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            seen[:] = [time.process_time(), trainer, pl_module]

    made = session.RunSession.trainer_arguments
    session.RunSession.trainer_arguments = lambda self, *a, **k: with_first(made(self, *a, **k), Ends())  # type: ignore[method-assign]
    from sft_lightning.cli.main import main

    with tempfile.TemporaryDirectory() as place:
        options = ["--runs_dir", place, "--wandb", "disabled", "--test_after_fit", "true", "--quiet", "true"]
        for number in range(rounds + 1):
            code = main(["fit", "--config", str(CONFIG), *options])
            if code:
                raise RuntimeError(f"fit ended with exit code {code}")
            ended, (began, trainer, module) = time.process_time(), seen
            best = RunDirectory(Path(trainer.default_root_dir)).best
            for name in ("parts", "again"):
                by_hand = time.process_time()
                content = {"state_dict": module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
                torch.save(content, Path(place) / "by_hand.ckpt")
                module.network.save_pretrained(str(Path(place) / "by_hand"))
                trainer.test(
                    module, datamodule=trainer.datamodule, ckpt_path=str(best), weights_only=True, verbose=False
                )
                if number:
                    found[name].append(time.process_time() - by_hand)
            if number:
                found["end"].append(ended - began)
    return found


def with_first(arguments: dict[str, Any], callback: Any) -> dict[str, Any]:
    return {**arguments, "callbacks": [callback, *arguments["callbacks"]]}


def measure(place: Path, quick: bool) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:2]])}
    command = [sys.executable, "-m", "benchmarks.bench.after_training", str(QUICK if quick else ROUNDS)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-500:]}")
    found: dict[str, list[float]] = json.loads(done.stdout.strip().splitlines()[-1])
    of = {name: spread(values).median for name, values in found.items()}
    named = {"end": "the end of a run", "parts": "its parts, called by hand", "again": "the same once more (A/A)"}
    held = noise(found["again"], found["parts"])
    return {
        "title": TITLE,
        "how": f"{HOW} A/A control: CPU {held.ratio:.3f} ({held.verdict}). The end ÷ its parts: {of['end'] / of['parts']:.2f}.",
        "rows": [{"what": named[name], "cpu": seconds} for name, seconds in of.items()],
        "turns": found,
        "noise": {"cpu": held.to_dict()},
        "end_over_parts": of["end"] / of["parts"],
    }


if __name__ == "__main__":
    print(json.dumps(by_command(int((sys.argv[1:] or ["1"])[0]))))
