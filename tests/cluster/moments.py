"""A fit that is preempted at moments that are known beforehand."""

import os
import subprocess
import time
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.cluster.allocation import allocation
from sft_lightning.core.signals import SIGNALS


class Preempted(Callback):
    """At a moment of each start of the job, has it preempted by `scancel --signal=USR1`, and waits for the signal.

    Args:
        moments: `HOOK NUMBER` for each start, the first start's first: at the NUMBERth call of the hook in that start. An
            empty text is a start that nothing happens to, and so are those after the last. `… twice` sends two signals
            without waiting, `… often` one after another until the job is gone, `… silent` none: it waits for Slurm's.
    """

    WAITS = 600.0

    def __init__(self, moments: list[str]) -> None:
        start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
        self.hook, self.number, self.how = (*(moments[start] if start < len(moments) else "").split(), "", "", "")[:3]
        self.count = 0

    def at(self, hook: str, trainer: Trainer) -> None:
        if hook == self.hook and trainer.global_rank == 0:
            self.count += 1
            if self.count == int(self.number):
                self.preempt()

    def preempt(self) -> None:
        job = allocation()
        assert job is not None
        order = f"scancel --signal=USR1 {job.job}"
        ways = {
            "": order,
            "twice": f"trap '' USR1; {order}; {order}",  # the signals reach this shell too
            "often": f"trap '' USR1; while sleep 0.2; do {order} || exit; done",
            "silent": "true",
        }
        subprocess.Popen(["sh", "-c", ways[self.how]])
        until = time.monotonic() + self.WAITS
        while SIGNALS.asked is None:
            assert time.monotonic() < until, f"no signal came in {self.WAITS} s"
            time.sleep(0.002)

    def setup(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self.at("setup", trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.at("step", trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.state.fn == "fit":
            self.at("validation", trainer)

    def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
        self.at("save", trainer)

    def on_test_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.at("test", trainer)
