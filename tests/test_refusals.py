"""Whose error it is: a library's words are put on what it refuses, not on who called it."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from sft_lightning.config.library_errors import refused
from sft_lightning.modules import PlainSFT
from tests.support import digits, fit, pretrained_mlp


class WrongShape(Callback):
    """Makes the forward pass fail within torch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.network.head.weight.data = torch.zeros(5, 3)


def beneath(error: BaseException) -> BaseException:
    """The error as the command line sees it: without the test's own frames."""
    trace = error.__traceback__
    while trace is not None and "site-packages" not in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    return error.with_traceback(trace)


def test_an_error_of_the_forward_pass_is_not_put_on_the_optimizer() -> None:
    with pytest.raises(RuntimeError) as error:
        fit(PlainSFT(pretrained_mlp(None)), digits(), max_steps=1, limit_val_batches=0, callbacks=[WrongShape()])
    names = [entry.name for entry in error.traceback]
    assert "optimizer_step" in names and "training_step" in names, "it was not raised within the optimizer's step"
    said = refused(beneath(error.value))
    assert said is None or "optimizer" not in str(said), f"the optimizer is blamed: {said}"


def test_an_error_of_the_optimizers_own_is_put_on_it() -> None:
    with pytest.raises(RuntimeError) as error:
        fit(PlainSFT(pretrained_mlp(None), optimizer="SparseAdam"), digits(), max_steps=1, limit_val_batches=0)
    assert "SparseAdam cannot take a step" in str(refused(beneath(error.value)))
