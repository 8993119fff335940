"""A signal that comes at a given moment: the n-th of the hooks below in a fit."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.core.signals import SIGNALS


class SignalAt(Callback):
    """Notes SIGTERM, as its handler does, at the hook number `at`."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def _tick(self, trainer: Trainer) -> None:
        if trainer.state.fn == "fit":
            if self.count == self.at:
                SIGNALS.asked = 15
            self.count += 1

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._tick(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        self._tick(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._tick(trainer)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self._tick(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self._tick(trainer)
