"""Decides on how many samples student and teacher are compared: by the samples that training passes, never by time.

Whoever asks for a number gets it. Without one it is ROWS; but where many places of each sample are compared, as with masks and
boxes, a pass of the teacher costs as much as a third of a training step on the same images, and few images give thousands of
places. There a measurement in a fit takes one sample for each PASSED training samples since the last one, and FEWEST at least.
So the teacher's passes take about 1/(3 · PASSED) of training, in runs that are long enough for more than the fewest.
"""

from math import ceil

from lightning.pytorch import Trainer

from sft_lightning.data.base import SFTDataModule
from sft_lightning.tasks import Task

ROWS = 1024
"""Samples that are compared by default"""
PASSED = 25
"""Training samples for each one that is compared"""
FEWEST = 16
"""Samples with many places that are compared in the shortest runs"""


def rows_in_fit(trainer: Trainer, data: SFTDataModule, task: Task) -> int:
    """Number of samples that a measurement within a fit compares, if none was asked for."""
    if not task.compares_places:
        return ROWS
    return min(ROWS, max(FEWEST, samples_between(trainer, data) // PASSED))


def samples_between(trainer: Trainer, data: SFTDataModule) -> int:
    """Training samples from one validation of a fit to the next, over all ranks. Follows from the settings alone."""
    accumulate, size = trainer.accumulate_grad_batches, len(data.splits["train"])
    in_step, limit = data.batch_size, trainer.limit_train_batches
    batches = ceil(size / in_step) * accumulate
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epoch = min(size, batches * in_step // accumulate)
    epochs, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if isinstance(interval, int):  # in micro-batches
        between = interval * in_step // accumulate
    elif isinstance(interval, float) and interval < 1.0:
        between = int(interval * epoch)
    else:
        between = epoch * (epochs or 1)
    whole = [between]
    if (trainer.max_epochs or -1) > 0:
        whole.append(epoch * int(trainer.max_epochs or 0))
    if trainer.max_steps > 0:
        whole.append(trainer.max_steps * in_step)
    return min(whole)
