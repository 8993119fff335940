"""Ends a fit: validates once more, exports the best model and tests it."""

from lightning.pytorch import LightningDataModule, Trainer

from sft_lightning.callbacks import RunRecorder
from sft_lightning.callbacks.checkpoints import link
from sft_lightning.modules.base import SFTModule
from sft_lightning.runs.best_model import export_best
from sft_lightning.runs.directory import RunDirectory


def after_fit(
    trainer: Trainer, module: SFTModule, data: LightningDataModule, run: RunDirectory, recorder: RunRecorder, test: bool
) -> None:
    """Exports the best model, and measures it on the test split if `test` is set."""
    measure_the_end(trainer, module, data, run, recorder)
    best = run.best if run.best.is_file() else run.last
    if trainer.is_global_zero and best.is_file():
        export_best(module, best, run.model)
    trainer.strategy.barrier()
    if test:
        trainer.test(module, datamodule=data, ckpt_path=str(best), verbose=False, weights_only=True)


def measure_the_end(
    trainer: Trainer, module: SFTModule, data: LightningDataModule, run: RunDirectory, recorder: RunRecorder
) -> None:
    """Validates once more if training ended between two validations."""
    recorder.end_of_fit(trainer)
    if not run.last.is_file():
        trainer.save_checkpoint(run.last)
    measured = trainer.strategy.broadcast(recorder.measured_at)
    if measured != trainer.global_step and "val" in data.splits:  # type: ignore[attr-defined]
        with recorder.closed():
            trainer.validate(module, datamodule=data, verbose=False)
        if trainer.is_global_zero and recorder.is_best:
            link(run.last, run.best)
    recorder.judge_the_start(trainer, module)
