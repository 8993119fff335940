"""Records runs in Weights & Biases, under the run's id and with the whole nested config. Offline needs no account."""

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

PATIENCE = 30.0  # seconds that W&B's server has to answer at the start
OWN: dict[str, Any] = {
    "init_timeout": PATIENCE,
    "x_save_requirements": False,  # reads the metadata of every installed package; run.json has the versions that count
}
"""Settings of W&B, unless the environment has them: WANDB_INIT_TIMEOUT and so on"""


class WandbLog(WandbLogger):
    """WandbLogger without flattened hyperparameters: W&B's config already has the full config.

    W&B's own process may end before ours, for instance by the SIGTERM that Slurm sends to all processes of a step. Then
    the run warns once and continues without W&B.
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
        """Tells whether W&B can still record. Offline it needs its folder, and does not notice if the folder is gone."""
        if self._offline and self._experiment is not None and not os.path.isdir(self._experiment.dir):
            warnings.warn(f"W&B's folder is gone ({self._experiment.dir}): nothing more is recorded there")
            self.lost = True
        return not self.lost

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: W&B gets the nested config at the start."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if not self.lost and self._has_folder():
            with self._unless_lost():
                super().log_metrics(named_by_split(metrics), step)

    def log_panels(self, panels: dict[str, Any], step: int) -> None:
        """Logs pictures and tables."""
        if not self.lost:
            with self._unless_lost():
                self.experiment.log({**panels, "trainer/global_step": step})

    def describe(self, about: dict[str, Any]) -> None:
        """Adds facts that are known once data and network are built: fingerprints, task, git state, teacher."""
        if not self.lost:
            with self._unless_lost():
                self.experiment.config.update(redaction.without(about), allow_val_change=True)

    def summarise(self, record: dict[str, Any]) -> None:
        """Puts into the summary each metric's last value, and its value at best.ckpt as `selected/…`.

        A later test is recorded under the same id and repeats the summary of the fit, so that it is complete whichever of
        the two W&B keeps.
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
        """Flushes and ends the W&B run with an exit code."""
        if self._experiment is not None:
            with self._unless_lost():
                self._experiment.finish(exit_code=code)
            self._experiment = None
        if self.lost:
            import wandb

            with suppress(ConnectionError):
                wandb.teardown()
            wandb.run = None  # finish failed to reset it, and the next run of this process would write to it


def make_wandb(settings: RunOptions, run: RunDirectory, config: dict[str, Any], online: bool, rank: int) -> WandbLog:
    """Makes and starts a logger for this run. It starts at once, so that errors come before training."""
    import wandb
    from wandb.sdk.lib.service.service_token import WandbServiceConnectionError

    own = {name: value for name, value in OWN.items() if f"WANDB_{name.upper()}" not in os.environ}
    try:
        logger = WandbLog(
            project=settings.wandb_project,
            id=run.run_id,
            name=run.run_id,
            save_dir=str(run.path),
            offline=not online,
            mode="online"
            if online
            else "offline",  # with "offline" Lightning would set it for all later runs of the process
            group=settings.wandb_group or settings.experiment,
            job_type=settings.wandb_job_type,
            tags=redaction.without(settings.wandb_tags),
            config=redaction.without(config),
            settings=wandb.Settings(silent=not online, console="off", **own),
        )
        logger._wandb_init.pop("anonymous", None)  # W&B warns about it even if it is None
        if sweep_run_id() is not None:  # the agent has set the project, and W&B accepts no other
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
        # WANDB_SERVICE names a process of an earlier run or of a parent, which has ended.
        wandb.teardown()
        return make_wandb(settings, run, config, online, rank)
    except (wandb.Error, ValueError) as error:  # no server, no key, or an invalid project, tag or URL
        with suppress(Exception):
            wandb.teardown()  # its process holds the run's id, which an offline run may use next
        said = " ".join(str(error).split()).rstrip(".")
        mode, other = ("online", "offline") if online else ("offline", "disabled")
        raise UserError("--wandb", f"W&B cannot be used {mode}: {said}", f"use --wandb {other}") from None
    return logger
