"""Measures a network by the source task's metrics on the source task's data."""

import time
from collections.abc import Callable

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Batch, Output
from sft_lightning.data.drawn import limit_of
from sft_lightning.evaluation import Answers, evaluate
from sft_lightning.evaluation.beside import Beside, Sizes, calibration_of
from sft_lightning.evaluation.relearn import Relearned, refuse, relearned_head
from sft_lightning.evaluation.said import SaidSamples
from sft_lightning.evaluation.samples import Passed
from sft_lightning.evaluation.source_data import SourceData, at_retention
from sft_lightning.modules.tuned import TunedModule
from sft_lightning.tasks import Task

ACCURACY = "accuracy"
"""The metric whose standard error and chance level are known"""


class SourceMeter:
    """Measures the tuned network and the pretrained one on the source task's samples.

    Args:
        source: The source task's data.
        relearn_rows: Number of its training samples on which a fresh head is solved; None for none.
        calibration: Whether the calibration of the source head is measured.
        name: Name of the set if it is one of several; its metrics are then `retention/<name>/…`.
    """

    def __init__(
        self, source: SourceData, relearn_rows: int | None = None, calibration: bool = False, name: str = ""
    ) -> None:
        if relearn_rows is not None and relearn_rows < 2:
            raise UserError("relearn_rows", f"must be at least 2, got {relearn_rows}")
        self.source, self.relearn_rows, self.calibration = source, relearn_rows, calibration
        self.prefix = f"retention/{name}/" if name else "retention/"
        self.seconds = 0.0
        """Time spent so far"""
        self.passed = Passed()
        """Samples of the last measurement"""
        self.relearned = 0
        """Samples on which the last fresh head was solved, the same on each rank"""
        self.chance: float | None = None
        """Accuracy of the most frequent class on the last samples; None if the source task's metric is another"""
        self._loaders: dict[str, DataLoader[Batch]] = {}
        self._before: dict[str, dict[str, float]] = {}  # of the pretrained network, by split

    @property
    def task(self) -> Task | None:
        """The source task; None until its data is loaded."""
        return self.source.task

    def load(self, trainer: Trainer, module: TunedModule) -> None:
        """Loads the source data, and checks that it fits the source head."""
        assert module.network is not None
        self.source.load(trainer, module.network, None if module.teacher is None else module.teacher.network)
        if self.relearn_rows is not None and self.source.task is not None:
            refuse(self.source.task, module.network)

    def forget(self) -> None:
        """Makes loaders again, and measures the pretrained network again, as the next trainer may have other limits."""
        self._loaders.clear()
        self._before.clear()

    @property
    def first(self) -> str:
        """The primary metric's name."""
        assert self.task is not None
        return f"{self.prefix}{self.task.primary.name}"

    def measure(
        self, trainer: Trainer, module: TunedModule, split: str, of_teacher: bool, answers: Answers | SaidSamples | None
    ) -> dict[str, float]:
        """The source task's metrics and 'loss' of the tuned network, or of the pretrained one, with the set's prefix."""
        source, task = self.source, self.task
        assert task is not None and module.network is not None and module.teacher is not None
        network = module.teacher.network if of_teacher else module.network
        began, others = time.perf_counter(), list[Beside]()
        if self.relearn_rows is not None:
            head = relearned_head(trainer, module, network, source, self.relearn_rows)
            others.append(Relearned(task, head, module.device))
            self.relearned = head.samples
        if self.calibration and (meters := calibration_of(task, module.device)) is not None:
            others.append(meters)
        sizes = Sizes(task.width) if task.has_classes and task.primary.name == ACCURACY else None

        def score(batch: Batch) -> Output:
            output = source.output(network, network.answered(network(batch["x"], task.select(batch)), batch))
            for other in others:
                other.add(output, batch)
            if sizes is not None:
                sizes.add(batch["y"])
            return output

        if split not in self._loaders:
            ranks = trainer.global_rank, trainer.world_size
            self._loaders[split] = source.loader(split, *ranks, limit=limit_of(trainer, split))
        self.passed = Passed()
        with at_retention(source.place):
            loader = self.passed.through(self._loaders[split])
            values = evaluate(trainer, module, loader, source.receive, task, score, answers)
        for other in others:
            values |= other.values()
        if sizes is not None:
            self.chance, values[f"{ACCURACY}_se"] = sizes.values(values[ACCURACY])
        self.seconds += time.perf_counter() - began
        return {f"{self.prefix}{k}": v for k, v in values.items()}

    def kept(
        self,
        trainer: Trainer,
        module: TunedModule,
        split: str,
        start: dict[str, float],
        answers: Callable[[str], Answers | SaidSamples | None] = lambda name: None,
    ) -> dict[str, float]:
        """What the tuned network kept on a split, with what it forgot.

        In a test, and in a validation outside of a fit, the pretrained network is measured too, as these may be other samples
        than those of the fit that measured it at the `start`. Empty if the data lacks the split.
        """
        if self.task is None or split not in self.source.data.splits:
            return {}
        if split == "test" or trainer.state.fn == "validate":
            said = answers("source before")
            if split not in self._before or said is not None:
                self._before[split] = self.measure(trainer, module, split, True, said)
            start = self._before[split]
        now = self.measure(trainer, module, split, False, answers("source after"))
        return self.with_forgetting(now, start) if self.first in start else now

    def with_forgetting(self, now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
        """Adds `forgetting`, how much worse the primary metric is than before, in its unit, and for an accuracy
        `lost_above_chance`, this as a share of what was above chance; absent if nothing was.
        """
        assert self.task is not None
        primary = self.task.primary
        first = before[self.first]
        lost = first - now[self.first]
        found = {**now, f"{self.prefix}forgetting": primary.sign * lost + 0.0}  # 0, not -0
        if self.chance is not None and primary.name == ACCURACY and first > self.chance:
            found[f"{self.prefix}lost_above_chance"] = lost / (first - self.chance)
        return found
