"""Accepts or refuses each callback and each Trainer argument of Lightning, so that none is silently ignored.

An accepted one works as Lightning documents it. A new version of Lightning may add others:
tests/callbacks/test_of_lightning.py fails until these tables list them.
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
    """Whether a value differs from the usual ones, with which the argument changes nothing."""
    return lambda value: not any(value is u or (type(value) is type(u) and value == u) for u in usual)


@dataclass(frozen=True)
class Refused:
    """An argument or callback that cannot do in a run what Lightning documents.

    Args:
        problem: Why it cannot.
        fix: What to use instead.
        when: For an argument: which values are refused.
        itself: For a callback: only the class itself is refused, and classes derived from it work.
    """

    problem: str
    fix: str
    when: Callable[[Any], bool] = is_set
    itself: bool = False


AVERAGED = Refused(
    "copies the module before the network is built", "set model.init_args.ema_decay, which averages weights"
)
FINETUNING = Refused(
    "freezes layers before the network is built, and forgets its phase on resume",
    "use LPFT of sft_lightning, or set model.init_args.freeze",
)
BASE = Refused("is a base class that does nothing", "name a class that is derived from it", itself=True)

CALLBACKS: dict[str, Refused | None] = {
    "BackboneFinetuning": FINETUNING,
    "BaseFinetuning": FINETUNING,
    "BasePredictionWriter": BASE,
    "BatchSizeFinder": Refused(
        "changes data.init_args.batch_size, which is part of the experiment",
        "if memory is short, raise trainer.accumulate_grad_batches",
    ),
    "Callback": BASE,
    "Checkpoint": BASE,
    "DeviceStatsMonitor": None,
    "EarlyStopping": None,
    "EMAWeightAveraging": AVERAGED,
    "GradientAccumulationScheduler": Refused(
        "changes nothing, as data.init_args.batch_size is that of an optimizer step, with any accumulation",
        "set trainer.accumulate_grad_batches",
    ),
    "LambdaCallback": None,
    "LearningRateFinder": Refused("finds a learning rate that no record keeps", "tune model.lr in a study (ablate)"),
    "LearningRateMonitor": None,
    "ModelCheckpoint": None,
    "ModelPruning": Refused("looks for weights before the network is built", "prune the exported model/ instead"),
    "ModelSummary": None,
    "OnExceptionCheckpoint": Refused(
        "writes a file from which the next run would start unasked",
        "leave it out: every run keeps last.ckpt, for fit --resume",
    ),
    "ProgressBar": BASE,
    "RichModelSummary": None,
    "RichProgressBar": None,
    "SpikeDetection": Refused(
        "lists batches to skip, and nothing skips them",
        "leave it out: every run ends when its loss is not finite",
    ),
    "StochasticWeightAveraging": AVERAGED,
    "ThroughputMonitor": None,
    "Timer": None,
    "TQDMProgressBar": None,
    "WeightAveraging": AVERAGED,
}
"""Every public callback of lightning.pytorch; None if it works."""

ARGUMENTS: dict[str, Refused | None] = {
    "accelerator": None,
    "strategy": None,
    "devices": None,
    "num_nodes": None,
    "precision": None,
    "logger": Refused(
        "every run writes metrics.jsonl, and --wandb turns W&B on and off",
        "name the class of a further logger, or leave it out",
        when=lambda value: isinstance(value, bool),
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
        "a time depends on the machine's speed",
        "give a number of micro-batches, or a share of an epoch",
        when=lambda value: value is not None and not isinstance(value, int | float),
    ),
    "check_val_every_n_epoch": Refused(
        "must be at least 1", "set 1 to validate after every epoch", when=lambda value: value is not None and value < 1
    ),
    "num_sanity_val_steps": Refused(
        "every run is measured before training in any case", "set 0", when=differs(None, 0)
    ),
    "log_every_n_steps": Refused(
        "must not be negative", "set 1 to log each step", when=lambda value: value is not None and value < 0
    ),
    "enable_checkpointing": Refused(
        "every run needs last.ckpt and best.ckpt", "leave it out", when=differs(None, True)
    ),
    "enable_progress_bar": None,
    "enable_model_summary": None,
    "accumulate_grad_batches": None,
    "gradient_clip_val": Refused(
        "must not be negative", "leave it out to clip nothing", when=lambda value: value is not None and value < 0
    ),
    "gradient_clip_algorithm": None,
    "deterministic": None,
    "benchmark": None,
    "inference_mode": None,
    "use_distributed_sampler": None,
    "profiler": None,
    "detect_anomaly": None,
    "barebones": Refused("it turns off the records of a run", "leave it out", when=differs(None, False)),
    "plugins": None,
    "sync_batchnorm": None,
    "reload_dataloaders_every_n_epochs": Refused("the data of a run never changes", "set 0", when=differs(None, 0)),
    "default_root_dir": Refused("a run writes to its run directory", "set runs_dir, experiment and run_id"),
    "enable_autolog_hparams": None,
    "model_registry": Refused("no checkpoint is uploaded", "copy model/ or the run directory"),
}
"""Every argument of Trainer; None if it works as documented, or as docs/decisions.md says."""

TOGETHER: list[tuple[str, str, str]] = [
    ("limit_train_batches", "overfit_batches", "which limits training and validation itself"),
    ("limit_val_batches", "overfit_batches", "which limits training and validation itself"),
]
"""(argument, the argument that overrides it, why)"""


def refuse_arguments(values: dict[str, Any]) -> None:
    """Raises UserError for the first argument of Trainer that would have no effect.

    Args:
        values: `trainer` of the config, parsed.
    """
    for name, value in values.items():
        rule = ARGUMENTS.get(name)
        if rule is not None and rule.when(value):
            raise UserError(f"trainer.{name}", rule.problem, rule.fix)
    for name, other, why in TOGETHER:
        if values.get(other) and values.get(name) is not None:
            raise UserError(f"trainer.{name}", f"has no effect with trainer.{other}, {why}", "leave one of them out")
    for what in ("epochs", "steps"):
        least, most = values.get(f"min_{what}"), values.get(f"max_{what}")
        if least is not None and most is not None and least > most >= 0:
            raise UserError(
                f"trainer.min_{what}",
                f"{least} is more than trainer.max_{what} {most}, at which every run ends",
                f"set at most {most}",
            )
    if values.get("gradient_clip_algorithm") is not None and not values.get("gradient_clip_val"):
        raise UserError(
            "trainer.gradient_clip_algorithm", "has no effect without trainer.gradient_clip_val", "set it too"
        )


def refuse_callbacks(classes: Iterable[type]) -> None:
    """Raises UserError for the first callback class that cannot work; its first base class that is in CALLBACKS decides."""
    for cls in classes:
        for base in cls.__mro__:
            if base is not getattr(lightning_callbacks, base.__name__, None):
                continue
            rule = CALLBACKS.get(base.__name__)
            if rule is not None and (cls is base or not rule.itself):
                raise UserError("trainer.callbacks", f"{cls.__name__} {rule.problem}", rule.fix)
            break
