"""SIGTERM and Ctrl-C: finish the step, save, leave."""

import signal
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


class Interrupted(BaseException):
    """The run was asked to stop and has saved; `signum` says by which signal."""

    def __init__(self, signum: int, rank: int = 0) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.rank = signum, rank

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM, 130 after Ctrl-C.

        0 for ranks after the first: Lightning kills rank zero, which may be closing the run yet, where one ends with another.
        """
        return 128 + self.signum if self.rank == 0 else 0


class GracefulStop(Checkpoint):  # Lightning calls these after all others, so that it saves what they have done
    """Saves `last.ckpt` at the end of the step in which SIGTERM or Ctrl-C came; a second Ctrl-C stops at once."""

    def __init__(self, last: str) -> None:
        self.last = last
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.asked is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signum

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[signum] = signal.signal(signum, self._handle)
            except ValueError:  # not the main thread: its owner handles signals
                return

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # amid a step, what its micro-batches have added up would be lost
        if trainer.is_last_batch and trainer.num_training_batches > trainer.accumulate_grad_batches:
            return  # from a checkpoint made at an epoch's last batch Lightning does not go on exactly: one step more
        self._leave_if_asked(trainer)

    def _leave_if_asked(self, trainer: Trainer) -> None:
        asked = self.asked or 0
        if trainer.world_size > 1:  # the signal may have reached one rank only, and all must save together
            flag = torch.tensor(float(asked), device=trainer.strategy.root_device)
            asked = int(trainer.strategy.reduce(flag, reduce_op="max"))
        if asked:
            trainer.save_checkpoint(self.last)
            raise Interrupted(asked, trainer.global_rank)

    def _restore(self) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()
