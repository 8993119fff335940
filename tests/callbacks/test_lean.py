"""Steps without idle work: hooks that do nothing are not called, and training is the same to the bit."""

import os
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from sft_lightning.callbacks import Lean
from sft_lightning.callbacks.lean import ASK_NVML, HOOKS, skip_empty_hooks
from sft_lightning.callbacks.lean_calls import KEY
from tests.support import Recorder, digits, fit, make, weights


class Counts(Callback):
    """Has one hook, and a class below it another."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.calls.append("end")


class CountsMore(Counts):
    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        super().on_before_backward(trainer, pl_module, loss)
        self.calls.append("backward")


def test_hooks_that_a_class_or_its_parent_defines_are_called() -> None:
    counts, more = Counts(), CountsMore()
    for callback in (counts, more):
        skip_empty_hooks(callback)
    assert {h for h in HOOKS if callable(getattr(counts, h))} == {"on_train_batch_end"}
    assert {h for h in HOOKS if callable(getattr(more, h))} == {"on_train_batch_end", "on_before_backward"}


@pytest.mark.parametrize("variant", ["plain", "distill-logits-kl"])
def test_training_is_the_same_to_the_bit(pretrained: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> tuple[dict[str, torch.Tensor], list[str], list[dict[str, float]]]:
        counts, recorder, module = CountsMore(), Recorder(), make(variant, pretrained)
        fit(module, digits(), max_epochs=2, accumulate_grad_batches=2, callbacks=[counts, recorder])
        return weights(module), counts.calls, recorder.logged

    lean = trained()
    monkeypatch.setattr(Lean, "on_train_start", Callback.on_train_start)
    usual = trained()
    assert all(torch.equal(lean[0][n], w) for n, w in usual[0].items())
    assert lean[1:] == usual[1:] and lean[1].count("backward") == lean[1].count("end") > 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks where there is no GPU")
def test_torch_does_not_search_for_nvml_where_there_is_no_gpu(pretrained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASK_NVML, "1")  # as Lightning sets it
    fit(make("plain", pretrained), digits(), max_steps=1)
    assert ASK_NVML not in os.environ and not torch.cuda.is_available()


class Adds(Counts):
    """Adds a callback and a hook while training, and sees the hook that is under way."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.calls.append(str(pl_module._current_fx_name))
        if trainer.global_step == 1:
            self.added = CountsMore()
            trainer.callbacks.append(self.added)  # type: ignore[attr-defined]


def test_a_callback_that_is_added_while_training_is_called(pretrained: str) -> None:
    adds = Adds()
    trainer = fit(make("plain", pretrained), digits(), max_steps=4, callbacks=[adds])
    assert adds.added.calls == 3 * ["backward", "end"] and KEY not in vars(trainer)
    assert adds.calls == 4 * ["on_train_batch_start", "end"]


def test_a_hook_that_a_callback_ends_while_training_is_not_called(pretrained: str) -> None:
    class Ends(Callback):
        calls = 0

        def on_before_backward(self, *_: Any) -> None:
            self.calls += 1
            self.on_before_backward = None  # type: ignore[method-assign, assignment]

    ends = Ends()
    fit(make("plain", pretrained), digits(), max_steps=3, callbacks=[ends])
    assert ends.calls == 1


def test_calls_are_left_to_lightning_after_an_error(pretrained: str) -> None:
    class Fails(Callback):
        def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
            assert KEY in vars(trainer)
            self.trainer = trainer
            raise LookupError

    fails = Fails()
    with pytest.raises(LookupError):
        fit(make("plain", pretrained), digits(), max_steps=1, callbacks=[fails])
    assert KEY not in vars(fails.trainer)
