"""What becomes of each callback and each Trainer argument of Lightning here: it works as documented, or is refused.

Nothing is taken and then ignored. A new version of Lightning may bring new ones: tests/callbacks/test_of_lightning.py
fails until they stand in these tables.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import callbacks as lightning_callbacks

from sft_lightning.core.errors import UserError


def is_set(value: Any) -> bool:
    """Whether an argument has a value."""
    return value is not None


def differs(*usual: Any) -> Callable[[Any], bool]:
    """Whether a value is none of the usual ones, with which the argument changes nothing."""
    return lambda value: not any(value is u or (type(value) is type(u) and value == u) for u in usual)


@dataclass(frozen=True)
class Refused:
    """An argument or callback that would not do here what Lightning documents.

    Args:
        why: What is in the way, and what to use: the end of the message.
        when: Of an argument: which values are refused.
        itself: Of a callback: the class itself alone is refused, classes derived from it work.
    """

    why: str
    when: Callable[[Any], bool] = is_set
    itself: bool = False


AVERAGED = "it copies the module before there is a network: set model.init_args.ema_decay, which averages weights"
FINETUNING = (
    "it freezes before there is a network, and forgets its phase on resume: use LPFT of sft_lightning, or set "
    "model.init_args.freeze"
)
BASE = "it does nothing by itself: name a class that is derived from it"

CALLBACKS: dict[str, Refused | None] = {
    "BackboneFinetuning": Refused(FINETUNING),
    "BaseFinetuning": Refused(FINETUNING),
    "BasePredictionWriter": Refused(BASE, itself=True),
    "BatchSizeFinder": Refused(
        "data.init_args.batch_size is part of the experiment: where memory is short raise trainer.accumulate_grad_batches"
    ),
    "Callback": Refused(BASE, itself=True),
    "Checkpoint": Refused(BASE, itself=True),
    "DeviceStatsMonitor": None,
    "EarlyStopping": None,
    "EMAWeightAveraging": Refused(AVERAGED),
    "GradientAccumulationScheduler": Refused(
        "data.init_args.batch_size is the whole step's, whatever the accumulation: set trainer.accumulate_grad_batches"
    ),
    "LambdaCallback": None,
    "LearningRateFinder": Refused("the rate that it finds is in no record: tune model.lr in a study (ablate)"),
    "LearningRateMonitor": None,
    "ModelCheckpoint": None,
    "ModelPruning": Refused("it looks for weights before there is a network: prune the exported model/ instead"),
    "ModelSummary": None,
    "OnExceptionCheckpoint": Refused(
        "the next run would begin from its file without being asked to: every run keeps last.ckpt, for fit --resume"
    ),
    "ProgressBar": Refused(BASE, itself=True),
    "RichModelSummary": None,
    "RichProgressBar": None,
    "SpikeDetection": Refused(
        "the batches that it writes down are skipped by nobody: every run ends by itself where the loss is not finite"
    ),
    "StochasticWeightAveraging": Refused(AVERAGED),
    "ThroughputMonitor": None,
    "Timer": None,
    "TQDMProgressBar": None,
    "WeightAveraging": Refused(AVERAGED),
}
"""Every public callback of lightning.pytorch: None where it works."""

ARGUMENTS: dict[str, Refused | None] = {
    "accelerator": None,
    "strategy": None,
    "devices": None,
    "num_nodes": None,
    "precision": None,
    "logger": Refused(
        "every run keeps metrics.jsonl, and --wandb says what W&B gets: give a logger's class for one more, or leave it out",
        lambda value: isinstance(value, bool),
    ),
    "callbacks": None,
    "fast_dev_run": None,
    "max_epochs": None,
    "min_epochs": None,
    "max_steps": None,
    "min_steps": None,
    "max_time": None,
    "limit_train_batches": None,
    "limit_val_batches": None,
    "limit_test_batches": None,
    "limit_predict_batches": None,
    "overfit_batches": None,
    "val_check_interval": Refused(
        "a time depends on the machine: give a number of micro-batches, or a share of an epoch",
        lambda value: value is not None and not isinstance(value, int | float),
    ),
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": Refused("every run is measured before training anyway: set 0", differs(None, 0)),
    "log_every_n_steps": None,
    "enable_checkpointing": Refused("last.ckpt and best.ckpt are what a run is: leave it out", differs(None, True)),
    "enable_progress_bar": None,
    "enable_model_summary": None,
    "accumulate_grad_batches": None,
    "gradient_clip_val": None,
    "gradient_clip_algorithm": None,
    "deterministic": None,
    "benchmark": None,
    "inference_mode": None,
    "use_distributed_sampler": None,
    "profiler": None,
    "detect_anomaly": None,
    "barebones": Refused("a run without records is no run: leave it out", differs(None, False)),
    "plugins": None,
    "sync_batchnorm": None,
    "reload_dataloaders_every_n_epochs": Refused("a run's data never changes: set 0", differs(None, 0)),
    "default_root_dir": Refused("a run writes to its run directory: set runs_dir, experiment and run_id"),
    "enable_autolog_hparams": None,
    "model_registry": Refused("no checkpoint is uploaded: copy model/ or the run directory"),
}
"""Every argument of Trainer: None where it works as documented, or as docs/running.md says."""

TOGETHER: list[tuple[str, str, str]] = [
    ("limit_train_batches", "overfit_batches", "it limits training and validation itself"),
    ("limit_val_batches", "overfit_batches", "it limits training and validation itself"),
]
"""(argument, the one that makes it ineffective, why)"""


def refuse_arguments(values: dict[str, Any]) -> None:
    """Raises UserError for the first argument of Trainer that would have no effect.

    Args:
        values: `trainer` of the config, parsed.
    """
    for name, value in values.items():
        rule = ARGUMENTS.get(name)
        if rule is not None and rule.when(value):
            raise UserError(f"trainer.{name}", rule.why)
    for name, other, why in TOGETHER:
        if values.get(other) and values.get(name) is not None:
            raise UserError(f"trainer.{name}", f"has no effect with trainer.{other}: {why}", "leave one of them out")
    for what in ("epochs", "steps"):
        least, most = values.get(f"min_{what}"), values.get(f"max_{what}")
        if least is not None and most is not None and least > most >= 0:
            raise UserError(
                f"trainer.min_{what}", f"{least} is more than trainer.max_{what} {most}, where every run ends"
            )
    if values.get("gradient_clip_algorithm") is not None and not values.get("gradient_clip_val"):
        raise UserError(
            "trainer.gradient_clip_algorithm", "has no effect without trainer.gradient_clip_val", "set it too"
        )


def refuse_callbacks(classes: Iterable[type]) -> None:
    """Raises UserError for the first callback class that cannot work here; the first known base class decides."""
    for cls in classes:
        for base in cls.__mro__:
            if base is not getattr(lightning_callbacks, base.__name__, None):
                continue
            rule = CALLBACKS.get(base.__name__)
            if rule is not None and (cls is base or not rule.itself):
                raise UserError("trainer.callbacks", f"{cls.__name__}: {rule.why}")
            break
