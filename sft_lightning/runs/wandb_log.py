"""Weights & Biases: our run's id is W&B's, the whole nested config goes up, and nothing needs an account."""

from argparse import Namespace
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from sft_lightning.errors import UserError
from sft_lightning.runs.directory import RunDirectory


class WandbLog(WandbLogger):
    """WandbLogger without its flattened hyperparameters: the full config stands in W&B's config already."""

    begun = False

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The config is given at the start, nested, as in config.yaml."""

    def describe(self, about: dict[str, Any]) -> None:
        """Adds what is known once data and network are built: fingerprints, task, git state, teacher."""
        self.experiment.config.update(about, allow_val_change=True)

    def close(self, code: int) -> None:
        """Ends the W&B run with an exit code; flushes."""
        if self._experiment is not None:
            self._experiment.finish(exit_code=code)
            self._experiment = None


def make_wandb(settings: Any, run: RunDirectory, config: dict[str, Any], online: bool, rank: int) -> WandbLog:
    """A logger for this run; online, it begins at once, so that what is wrong is said before training."""
    import wandb

    logger = WandbLog(
        project=settings.wandb_project,
        id=run.run_id,
        name=run.run_id,
        save_dir=str(run.path),
        offline=not online,
        group=settings.wandb_group or settings.experiment,
        job_type=settings.wandb_job_type or settings.model.class_path.rpartition(".")[2],
        tags=settings.wandb_tags,
        config=config,
        settings=wandb.Settings(silent=not online, console="off"),
    )
    logger._wandb_init.pop("anonymous", None)  # W&B warns of it, even where it is None
    if online and rank == 0:
        try:
            _ = logger.experiment
        except wandb.Error as error:
            raise UserError(f"--wandb online: W&B cannot be used: {error}; use --wandb offline") from None
    return logger
