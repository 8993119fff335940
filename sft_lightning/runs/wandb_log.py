"""Weights & Biases: our run's id is W&B's, the whole nested config goes up, and nothing needs an account."""

import os
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_only

from sft_lightning.config.options import RunOptions
from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import RunDirectory, sweep_run_id
from sft_lightning.runs.metrics_log import named_by_split

PATIENCE = 30.0  # seconds for W&B's server to answer at the start, where WANDB_INIT_TIMEOUT says nothing


class WandbLog(WandbLogger):
    """WandbLogger without its flattened hyperparameters: the full config stands in W&B's config already.

    W&B's own process may end before ours, for instance by the SIGTERM that Slurm sends to all of a step: one warning,
    and the run goes on without it.
    """

    lost = False

    @contextmanager
    def _unless_lost(self) -> Iterator[None]:
        try:
            yield
        except ConnectionError as error:
            if not self.lost:
                warnings.warn(f"W&B's process is gone ({error}): nothing more is recorded there")
            self.lost = True

    def _has_folder(self) -> bool:
        """Offline the folder is all there is: without it W&B goes on into nothing, and says nothing."""
        if self._offline and self._experiment is not None and not os.path.isdir(self._experiment.dir):
            warnings.warn(f"W&B's folder is gone ({self._experiment.dir}): nothing more is recorded there")
            self.lost = True
        return not self.lost

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The config is given at the start, nested, as in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if not self.lost and self._has_folder():
            with self._unless_lost():
                super().log_metrics(named_by_split(metrics), step)

    def log_panels(self, panels: dict[str, Any], step: int) -> None:
        """Pictures and tables."""
        if not self.lost:
            with self._unless_lost():
                self.experiment.log({**panels, "trainer/global_step": step})

    def describe(self, about: dict[str, Any]) -> None:
        """Adds what is known once data and network are built: fingerprints, task, git state, teacher."""
        if not self.lost:
            with self._unless_lost():
                self.experiment.config.update(redaction.without(about), allow_val_change=True)

    def summarise(self, record: dict[str, Any]) -> None:
        """Puts into the summary each metric's last value, and as `selected/…` its value at best.ckpt.

        The test of a finished run is recorded apart, under the same id: its summary says what the fit's said, so that
        whichever of the two W&B keeps is whole.
        """
        said: dict[str, float] = {}
        for name, entry in record["metrics"].items():
            for key, which in ((name, "final"), (f"selected/{name}", "selected")):
                if which in entry:
                    said[key] = float(entry[which])
        if not self.lost and self._has_folder():
            with self._unless_lost():
                self.experiment.summary.update(said)

    def close(self, code: int) -> None:
        """Ends the W&B run with an exit code; flushes."""
        if self._experiment is not None:
            with self._unless_lost():
                self._experiment.finish(exit_code=code)
            self._experiment = None
        if self.lost:
            import wandb

            with suppress(ConnectionError):
                wandb.teardown()
            wandb.run = None  # finish could not say so, and the next run of this process would write to it


def make_wandb(settings: RunOptions, run: RunDirectory, config: dict[str, Any], online: bool, rank: int) -> WandbLog:
    """A logger for this run; it begins at once, so that what is wrong is said before training."""
    import wandb
    from wandb.sdk.lib.service.service_token import WandbServiceConnectionError

    waits = {} if "WANDB_INIT_TIMEOUT" in os.environ else {"init_timeout": PATIENCE}
    try:
        logger = WandbLog(
            project=settings.wandb_project,
            id=run.run_id,
            name=run.run_id,
            save_dir=str(run.path),
            offline=not online,
            mode="online" if online else "offline",  # Lightning leaves "offline" to all later runs of the process
            group=settings.wandb_group or settings.experiment,
            job_type=settings.wandb_job_type,
            tags=redaction.without(settings.wandb_tags),
            config=redaction.without(config),
            settings=wandb.Settings(silent=not online, console="off", **waits),
        )
        logger._wandb_init.pop("anonymous", None)  # W&B warns of it, even where it is None
        if sweep_run_id() is not None:  # the agent has said to which project the run belongs, and W&B takes no other
            logger._wandb_init.pop("project")
            if sweep_run_id() == run.run_id:
                logger._wandb_init.pop("id")
        if rank == 0:
            with redaction.hidden_from_wandb():
                _ = logger.experiment
    except WandbServiceConnectionError as error:
        if os.environ.pop("WANDB_SERVICE", None) is None:
            raise UserError(
                "--wandb", f"W&B's own process cannot be started: {error}", "use --wandb disabled"
            ) from None
        # It is that of an earlier run in this process, or of a parent, and has ended.
        wandb.teardown()
        return make_wandb(settings, run, config, online, rank)
    except (wandb.Error, ValueError) as error:  # no server, no key; a project, tag or URL it refuses
        with suppress(Exception):
            wandb.teardown()  # its process holds the run's id, and an offline run may want it
        said = " ".join(str(error).split()).rstrip(".")
        mode, other = ("online", "offline") if online else ("offline", "disabled")
        raise UserError(f"--wandb {mode}", f"W&B cannot be used: {said}", f"use --wandb {other}") from None
    return logger
