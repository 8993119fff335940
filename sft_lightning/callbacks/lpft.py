"""LP-FT: linear probing first, then fine-tuning of all layers from the probed head."""

from math import isfinite
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from sft_lightning.core.errors import UserError
from sft_lightning.modules.head_warmup import check_new_alone
from sft_lightning.modules.tuned import TunedModule


class LPFT(Callback):
    """Trains new layers alone on the pretrained features, then, from that head, all layers that `freeze` does not freeze.

    Kumar et al. (2022), Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution: a random head
    sends large gradients into the encoder, a probed one does not.

    The first phase equals `freeze: all-but-head` to the bit: the encoder is in evaluation mode, without dropout, and its
    BatchNorm statistics do not change. In the second, thawed parameters start with fresh moments, and the optimizer keeps
    its moments of the new layers. The learning-rate schedule restarts there: warm-up and decay cover the remaining steps.
    Anchors pull as soon as their parameters move. Fidelity: the paper tunes each phase separately, and stops the first early.

    Args:
        epochs: Number of epochs in which new layers learn alone, at the start.
        steps: The same as a number of optimizer steps; give one of the two.
        lr_factor: Learning rates of the second phase, as a multiple of those that the settings give.
    """

    def __init__(self, epochs: int | None = None, steps: int | None = None, lr_factor: float = 1.0) -> None:
        if (epochs is None) == (steps is None):
            raise UserError(
                "LPFT",
                "the first phase needs a length, " + ("got none" if epochs is None else "got both epochs and steps"),
                "set one of epochs and steps",
            )
        for name, value in (("epochs", epochs), ("steps", steps)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise UserError(f"LPFT.{name}", f"must be a whole number of at least 1, got {value}")
        if not (lr_factor > 0 and isfinite(lr_factor)):
            raise UserError("LPFT.lr_factor", f"must be more than 0, got {lr_factor}")
        self.epochs, self.steps, self.lr_factor = epochs, steps, lr_factor
        self._alone: frozenset[str] = frozenset()

    def note(self) -> str:
        """One line about the first phase, for the console."""
        count, unit = (self.steps, "step") if self.epochs is None else (self.epochs, "epoch")
        return f"new layers learn alone for the first {f'{count} {unit}s' if count != 1 else unit} (LPFT)"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses settings with which one of the phases would be empty."""
        module = checked(pl_module)
        if sum(isinstance(c, LPFT) for c in trainer.callbacks) > 1:  # type: ignore[attr-defined]
            raise UserError("trainer.callbacks", "there are two LPFT", "leave one of them out")
        if module.hparams["head_warmup"]:
            raise UserError("LPFT", "model.head_warmup also trains new layers alone", "leave one of the two out")
        check_new_alone(module.trainable, "LPFT")
        trainer.fit_loop.setup_data()  # so that the length of an epoch is known
        total = trainer.estimated_stepping_batches
        per_epoch = -(-trainer.num_training_batches // trainer.accumulate_grad_batches)
        first = self.steps if self.epochs is None else self.epochs * per_epoch
        if first is not None and first >= total:
            raise UserError(
                "LPFT",
                f"the first phase has {first:g} optimizer steps, but the run has {total:g}",
                "use freeze: all-but-head, or give fewer epochs or steps",
            )
        self._alone = module.trainable.of("new")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Chooses the trained parameters by the current step, so that a resumed run equals an uninterrupted one."""
        module = checked(pl_module)
        trainable, step = module.trainable, trainer.global_step
        if (trainer.current_epoch < self.epochs) if self.epochs is not None else (step < (self.steps or 0)):
            changed = trainable.train(self._alone, step)
        else:
            changed = trainable.train(trainable.allowed, step, self.lr_factor, restart_schedule=True)
        if changed:
            for logger in trainer.loggers:
                logger.log_metrics({"train/trainable": float(trainable.count())}, step=step + 1)


def checked(module: LightningModule) -> TunedModule:
    """The module, if it is one of sft_lightning that trains in steps; UserError otherwise."""
    if not isinstance(module, TunedModule) or module.solves:
        raise UserError(
            "LPFT", f"{type(module).__name__} has no second phase to train", "use PlainSFT or a variant with an anchor"
        )
    return module
