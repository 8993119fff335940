"""Keeps what the pretrained network says on batches that are measured again and again."""

from lightning.pytorch import Trainer

from sft_lightning.core.structures import Batch, Output
from sft_lightning.modules.tuned import TunedModule

ROOM = 256 << 20
"""Bytes of outputs that are kept"""


class TeacherAnswers:
    """The teacher's outputs on batches of one split, each computed once while there is room.

    They can be kept because views of a measured sample never change. A sharded teacher must be called by all ranks or none,
    and the ranks may run out of room at different times, so its outputs are not kept.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, ...], Output] = {}
        self._room = ROOM

    def clear(self) -> None:
        """Forgets all, as the next batches may be other data."""
        self._held.clear()
        self._room = ROOM

    def of(self, trainer: Trainer, module: TunedModule, batch: Batch, number: int) -> Output:
        """The teacher's output on the `number`th batch of a measurement, in the trainer's precision."""
        assert module.teacher is not None
        # a sample that cannot be read this time may be missing
        key = (number, *(batch.get("rows") or batch["index"].tolist()))
        if (kept := self._held.get(key)) is not None:
            return kept
        with trainer.precision_plugin.forward_context():
            found = module.teacher_output(batch)
        if (size := found.bytes) <= self._room and not module.teacher.sharded:
            self._held[key] = found
            self._room -= size
        return found
