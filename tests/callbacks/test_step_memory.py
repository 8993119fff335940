"""The memory of a training step: equal to arithmetic by hand, and counting it changes nothing."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.utils.checkpoint import checkpoint

from sft_lightning.callbacks import LPFT, StepMemory
from sft_lightning.callbacks.step_memory import HOOKS, memory_line, readable
from sft_lightning.core.graph_memory import kept_for_backward
from tests.support import digits, fit, make, weights

ENCODER = [64 * 24, 24, 24 * 16, 16]
HEAD = [16 * 5, 5]
"""Parameters of each tensor of the small MLP; its source head has the same shape as its head"""
TRAINED = 4 * sum(ENCODER + HEAD)
WHOLE = 4 * sum(ENCODER + HEAD + HEAD)
"""Bytes in single precision"""
ADAMW = 2 * TRAINED + 4 * 6
"""Two moments, and a count of steps for each of six tensors"""


TRAIN = 605
"""Training samples"""
FACTOR = 8
"""A number in Python that a tensor is multiplied with or divided by"""


def activations(samples: int) -> int:
    """Of MLP and cross-entropy: input, two outputs of ReLU, log-probabilities; targets; the sum of the loss's weights; the
    factors by which we and Lightning scale the loss.
    """
    return 4 * samples * (64 + 24 + 16 + 5) + 8 * samples + 4 + 2 * FACTOR


def counted(variant: str, folder: str, callbacks: tuple[Callback, ...] = (), **settings: Any) -> StepMemory:
    given = {
        k: settings.pop(k) for k in list(settings) if k in ("ema_decay", "teacher_cache", "optimizer", "head_warmup")
    }
    memory = StepMemory()
    module = make(variant, folder, **given)
    fit(module, digits(), max_steps=3, limit_val_batches=0, callbacks=[memory, *callbacks], **settings)
    assert all(getattr(memory, hook) is None for hook in HOOKS), "later steps pay for the count"
    return memory


def test_each_part_of_a_plain_step_is_the_one_by_hand(pretrained: str) -> None:
    found = counted("plain", pretrained)
    assert found.bytes == {
        "weights": WHOLE,
        "gradients": TRAINED,
        "optimizer": ADAMW,
        "teacher": WHOLE,
        "copies": 0,
        "activations": activations(16),
    }
    assert found.samples == 16 and found.total == sum(found.bytes.values())
    half = counted("plain", pretrained, accumulate_grad_batches=2)
    assert half.samples == 8 and half.bytes == {**found.bytes, "activations": activations(8)}


def test_an_anchor_adds_what_it_keeps(pretrained: str) -> None:
    plain = counted("plain", pretrained).bytes
    logits = counted("distill-logits-mse", pretrained).bytes
    difference = 4 * 16 * 5  # of source logits
    assert logits == {**plain, "activations": activations(16) + difference + FACTOR}, "the strength is a factor"
    cached = counted("distill-logits-mse", pretrained, teacher_cache="memory").bytes["copies"]
    assert cached == TRAIN * 4 * (5 + 16 + 5 + 1), "logits, features, source logits and a mark of each training sample"
    assert counted("ewc", pretrained).bytes == {**plain, "copies": 4 * sum(ENCODER)}, "the Fisher information"
    assert counted("plain", pretrained, ema_decay=0.9).bytes == {**plain, "copies": TRAINED}, "the average"
    assert counted("l2sp-loss", pretrained).bytes == plain, "the teacher's weights are the anchor"
    assert counted("plain", pretrained, optimizer="SGD").bytes == {**plain, "optimizer": 0}


def test_a_step_after_more_was_thawed_is_counted_too(pretrained: str) -> None:
    class First(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 1:
                held.append(dict(memory.bytes))

    held: list[dict[str, int]] = []
    memory = StepMemory()
    probe = LPFT(steps=1, lr_factor=0.5)
    fit(make("plain", pretrained), digits(), max_steps=3, limit_val_batches=0, callbacks=[memory, probe, First()])
    assert held[0]["gradients"] == 4 * sum(HEAD) < memory.bytes["gradients"] == TRAINED
    assert memory.bytes["optimizer"] == ADAMW
    warmed = counted("plain", pretrained, head_warmup=1)
    assert (warmed.samples, warmed.bytes["activations"]) == (16, activations(16)), "the module thaws as the step begins"


@pytest.mark.parametrize("variant", ["plain", "distill-logits-kl"])
def test_training_is_the_same_to_the_bit(pretrained: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> dict[str, torch.Tensor]:
        module = make(variant, pretrained)
        fit(module, digits(), max_steps=3, limit_val_batches=0)
        return weights(module)

    counted = trained()
    monkeypatch.setattr(StepMemory, "on_train_start", lambda self, trainer, module: self._rest())
    usual = trained()
    assert all(torch.equal(counted[name], w) for name, w in usual.items())


def test_blocks_count_once_and_tensors_that_hooks_replace_are_not_guessed() -> None:
    x, layer = torch.randn(6, 4), nn.Linear(4, 4)
    hidden = layer(x).relu()
    loss = (hidden * hidden[:3].repeat(2, 1)).sum() + hidden.view(-1).square().sum()
    block = 4 * 6 * 4
    assert kept_for_backward(loss, layer.parameters()) == 3 * block, "x, hidden with its views, and the repeated rows"
    assert kept_for_backward(loss, [*layer.parameters(), x]) == 2 * block
    assert kept_for_backward(checkpoint(layer, x, use_reentrant=False).exp().sum()) is None
    with torch.autograd.graph.save_on_cpu():
        assert kept_for_backward(layer(x).exp().sum()) is None
    loss.backward()


def test_the_line_of_a_summary() -> None:
    parts = {"weights": 17_800_000, "gradients": 999, "optimizer": 0, "teacher": 2_500, "activations": 1_234_567_890}
    line = memory_line({"bytes": {**parts, "total": sum(parts.values())}, "samples": 8})
    assert line == (
        "memory     a step holds 1.25 GB: weights 17.8 MB, gradients 999 B, teacher 2.5 kB, activations 1.23 GB "
        "(micro-batch of 8)"
    )
    line = memory_line({"bytes": {"weights": 1, "total": 1}, "samples": 8, "cuda_peak_bytes": 2_000_000})
    assert line == "memory     a step holds 1 B: weights 1 B; activations not counted; peak on the GPU 2 MB"
    assert [readable(n) for n in (0, 999, 1000, 999_999)] == ["0 B", "999 B", "1 kB", "1 MB"]
