"""Builds trainer, module and data of a finished run for `path`, with a trainer that records nothing."""

from typing import Any

from lightning.pytorch import Trainer

from sft_lightning.after.asked import Asked
from sft_lightning.after.path import Walk
from sft_lightning.cli.fit import SFTCLI
from sft_lightning.config.options import monitored
from sft_lightning.evaluation.retention import RetentionMonitor
from sft_lightning.evaluation.source_data import SourceData
from sft_lightning.runs.equipment import keep_signals
from sft_lightning.runs.session import RunSession


class PathCLI(SFTCLI):
    """The command line of `validate`, without the callbacks and loggers of a run; it leaves the work to its caller.

    Args:
        rest: Options of `validate`.
        session: The session of the finished run.
        asked: What the user asks of the path.
    """

    def __init__(self, rest: list[str], session: RunSession, asked: Asked) -> None:
        self.asked = asked
        super().__init__(["validate", *rest], session)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        source = SourceData.of(self._get(self.config_init, "retention"))
        monitor = RetentionMonitor(source, **monitored(self.settings))
        self.walk = Walk(self.asked, monitor)
        trainer = super(SFTCLI, self).instantiate_trainer(
            callbacks=[self.walk, self.walk.monitor],
            logger=False,
            profiler=None,
            enable_progress_bar=False,
            enable_checkpointing=False,
            use_distributed_sampler=False,
        )
        keep_signals(trainer)
        return trainer

    def _run_subcommand(self, subcommand: str) -> None:
        """Does nothing: the caller measures, point by point."""
