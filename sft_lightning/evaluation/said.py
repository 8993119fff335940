"""Collects what two networks say of each sample, in a form to read, and finds the samples on which they differ."""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor

from sft_lightning.core.structures import Batch, Output
from sft_lightning.evaluation.predictions import Answers
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.tasks import Task, make_task
from sft_lightning.tasks.base import Said

Spoken = dict[int, Said]
"""What is said, by the sample's row number"""


class SaidSamples:
    """Collects what a task's outputs say, batch by batch.

    Args:
        task: The task that reads the outputs.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.found = task, Spoken()

    def take(self, batch: Batch, output: Output) -> None:
        """Adds a batch's samples; none if its outputs say nothing that can be read."""
        said = self.task.said(output, batch)
        index = batch["index"][batch["real"]] if "real" in batch else batch["index"]
        self.found |= {} if said is None else dict(zip(index.tolist(), said, strict=True))

    def of_all_ranks(self) -> Spoken:
        """The samples of all ranks, which must all call this."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self.found
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self.found)
        return {row: said for part in parts for row, said in part.items()}


def note_said(
    said: dict[str, Answers | SaidSamples], module: TunedModule, batch: Batch, teacher: Output, student: Output
) -> None:
    """Notes what the pretrained and the tuned network say of the target's samples, if they speak of the same things.

    These are the source head's answers, or the network's own if its outputs are the pretrained ones.
    """
    network, task = module.network, module.task
    assert network is not None and task is not None and module.teacher is not None
    pairs: tuple[tuple[Output, Tensor | None], ...]
    if network.shares_outputs:
        pairs = (module.teacher.network.answered(teacher, batch), teacher.logits), (student, student.logits)
    elif network.source_task is not None:
        source = make_task(network.source_task)
        if source.has_classes and not task.one_item_per_sample:
            return
        task, batch = source, {name: held for name, held in batch.items() if name != "y"}
        pairs = (teacher, teacher.source_logits), (student, student.source_logits)
    else:
        return
    for name, (output, logits) in zip(("head before", "head after"), pairs, strict=True):
        assert logits is not None
        found = said.setdefault(name, Answers() if task.has_classes else SaidSamples(task))
        if isinstance(found, Answers):
            found.add(batch, logits, known=False)
        else:
            found.take(batch, output._replace(logits=logits))


def differing(before: Mapping[int, Said], after: Mapping[int, Said]) -> tuple[list[int], int]:
    """(rows on which something else is said, number of samples that both have), the largest losses first.

    Where the right answer is known, only samples count on which more was right before.
    """
    both = sorted(before.keys() & after.keys())
    lost = {row: loss for row in both if (loss := _loss(before[row], after[row])) > 0}
    return sorted(lost, key=lambda row: (-lost[row], row)), len(both)


def _loss(before: Said, after: Said) -> float:
    """How much less is right after; where that is unknown, 1 if something else is said."""
    if before.score is None or after.score is None:
        return float(before.said != after.said)
    return before.score - after.score
