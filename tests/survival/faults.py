"""Faults that a fit meets at a given step, as callbacks."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.core.errors import UserError


class Fault(Callback):
    """Does `what` on rank `rank` (all for -1) once optimizer step `step` is done; `where` names a folder or file it needs."""

    def __init__(self, what: str, step: int = 3, rank: int = 0, where: str = "") -> None:
        self.what, self.step, self.rank, self.where = what, step, rank, where

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if self.step == 0 and trainer.global_step == 0 and self.rank in (trainer.global_rank, -1):
            getattr(self, self.what)(trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn == "fit" and self.rank in (trainer.global_rank, -1) and trainer.global_step == self.step:
            getattr(self, self.what)(trainer)

    def fail(self, trainer: Trainer) -> None:
        raise RuntimeError("this is a bug of one rank")

    def refuse(self, trainer: Trainer) -> None:
        raise UserError("data", "socket.png cannot be read", "replace or remove it")

    def pause(self, trainer: Trainer) -> None:
        """For `where` seconds: longer than ranks wait for one that has failed."""
        time.sleep(float(self.where))

    def kill(self, trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def poison(self, trainer: Trainer) -> None:
        next(trainer.lightning_module.network.encoder.parameters()).data[0] = float("inf")

    def sleep(self, trainer: Trainer) -> None:
        Path(self.where).touch()
        until = time.monotonic() + 600
        while time.monotonic() < until:
            time.sleep(0.05)

    def remove(self, trainer: Trainer) -> None:
        shutil.rmtree(Path(trainer.default_root_dir) / self.where)

    def forbid(self, trainer: Trainer) -> None:
        """Takes the right to write a folder of the run away; for root, whom rights do not bind, by a read-only mount."""
        folder = Path(trainer.default_root_dir) / self.where
        folder.chmod(0o555)
        if os.getuid() == 0:
            for options in (["--bind", str(folder)], ["-o", "remount,bind,ro"]):
                subprocess.run(["mount", *options, str(folder)], check=True)

    def fill(self, trainer: Trainer) -> None:
        """Leaves no room on the disk that holds `where`."""
        with Path(self.where).open("wb") as file:
            while True:
                try:
                    file.write(b"0" * 65536)
                    file.flush()
                except OSError:
                    return


class SlowTest(Callback):
    """Testing that takes its time; `where` is made once it has begun."""

    def __init__(self, where: str) -> None:
        self.where = where

    def on_test_batch_start(self, trainer: Trainer, *args: Any) -> None:
        Path(self.where).touch()
        time.sleep(0.5)
