"""A teacher's outputs kept rounded, or only the largest: training equals that with a teacher who says just that."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.anchors import kl
from sft_lightning.anchors.top_k import top_k_kl, top_k_of
from sft_lightning.core.structures import Batch, Output
from sft_lightning.modules import DistillSFT
from tests.modules.test_teacher_cache import FewDigits, equal
from tests.refused import refused
from tests.support import (
    Recorder,
    assert_same_training,
    cross_entropy,
    digits,
    fit,
    make,
    mlp,
    pretrained_mlp,
    train_plainly,
)

LOGITS = {"on": "source_logits", "distance": "kl", "temperature": 2.0}


def outputs(seed: int, count: int = 6, width: int = 40) -> tuple[Tensor, Tensor]:
    """Logits of student and teacher, `[count, width]` each, in double precision."""
    drawn = torch.Generator().manual_seed(seed)
    teacher = 3 * torch.randn(count, width, generator=drawn, dtype=torch.float64)
    return teacher + torch.randn(count, width, generator=drawn, dtype=torch.float64), teacher


def by_hand(student: Tensor, teacher: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Σ p log(p/q) over the k likeliest outcomes and the rest together, times T², and what is lost: p_rest·KL of the rests."""
    found = []
    for s, t in zip(student, teacher, strict=True):
        p, q = (v.div(temperature).exp() / v.div(temperature).exp().sum() for v in (t, s))
        top = sorted(range(len(t)), key=lambda i: -float(t[i]))[:k]
        rest = [i for i in range(len(t)) if i not in top]
        p_rest, q_rest = p[rest].sum(), q[rest].sum()
        value = sum(p[i] * (p[i] / q[i]).log() for i in top) + p_rest * (p_rest / q_rest).log()
        lost = sum(p[i] * ((p[i] / p_rest) / (q[i] / q_rest)).log() for i in rest)
        found.append((value * temperature**2, lost * temperature**2))
    values, losses = zip(*found, strict=True)
    return torch.stack(values), torch.stack(losses)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 5, 38])
def test_top_k_is_kl_with_the_rest_as_one_outcome_and_loses_the_kl_of_the_rests(k: int, temperature: float) -> None:
    student, teacher = outputs(k)
    student.requires_grad_()
    found = top_k_kl(student, top_k_of(teacher, k, temperature), temperature)
    (grad,) = torch.autograd.grad(found.sum(), student)
    again = student.detach().clone().requires_grad_()
    expected, lost = by_hand(again, teacher, k, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), again)[0], rtol=1e-5, atol=1e-6)
    whole = kl(student.detach(), teacher, temperature)
    torch.testing.assert_close(whole - found.detach(), lost.detach(), rtol=1e-4, atol=1e-5)
    assert (lost > 0).all()


def test_top_k_is_zero_where_both_are_equal_and_finite_for_outputs_that_cannot_be() -> None:
    _, teacher = outputs(0)
    single = teacher.float()
    assert float(top_k_kl(single, top_k_of(single, 3, 2.0), 2.0).abs().max()) < 1e-6
    far = torch.zeros(1, 5)
    far[0, 4] = -1e9
    assert top_k_kl(far, top_k_of(far, 2, 1.0), 1.0).isfinite().all()


class Rounded(DistillSFT):
    """A teacher whose outputs are rounded."""

    def teacher_output(self, batch: Batch) -> Output:
        found = super().teacher_output(batch)
        return found._replace(features=found.features.bfloat16().float())


@pytest.mark.parametrize("how", ["memory", "disk"])
def test_rounded_outputs_train_as_a_teacher_who_rounds(
    pretrained: str, how: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFT_CACHE_DIR", str(tmp_path))
    rounds = make("distill-features-cosine", pretrained)
    rounds.__class__ = Rounded
    fit(rounds, FewDigits((40, 21, 21)), max_epochs=3)
    for _ in range(2):  # the second time from disk
        cached = make("distill-features-cosine", pretrained, teacher_cache=how, teacher_cache_dtype="bf16")
        fit(cached, FewDigits((40, 21, 21)), max_epochs=3)
        assert equal(rounds, cached) and cached.cached.used >= 5
        assert {t.dtype for n, t in cached.cached._held.items() if n != "marks"} == {torch.bfloat16}


def test_the_largest_outputs_train_as_plain_pytorch_with_that_divergence(pretrained: str) -> None:
    recorder = Recorder()
    settings = {"teacher_cache": "memory", "teacher_cache_top_k": 2, "anchor_weight": 0.5, **LOGITS}
    module = DistillSFT(
        pretrained_mlp(pretrained), optimizer="SGD", lr=0.05, optimizer_args={"momentum": 0.9}, **settings
    )
    fit(module, digits(shots_per_class=10), max_steps=9, precision="64-true", callbacks=[recorder])
    start = {n: v.clone() for n, v in recorder.start.items()}

    def loss(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
        student = mlp(w, image)
        value, _ = by_hand(student.source_logits, mlp(start, image).source_logits, 2, 2.0)
        return cross_entropy(student.logits, y) + 0.5 * value.mean()

    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)  # noqa: E731
    assert module.cached is not None and module.cached.used > 0
    assert_same_training(recorder, train_plainly(recorder, loss, sgd), tolerance=1e-5)  # single precision is kept


def test_forms_without_effect_or_sense_are_refused(pretrained: str) -> None:
    network = pretrained_mlp(pretrained)
    for name, value in (("teacher_cache_dtype", "bf16"), ("teacher_cache_top_k", 2)):
        with refused(f"model.{name}", "has no effect with teacher_cache: none"):
            DistillSFT(network, **{name: value}, **LOGITS)
    on = {"teacher_cache": "memory"}
    with refused("model.teacher_cache_top_k", "distance is mse"):
        DistillSFT(network, teacher_cache_top_k=2, **on)
    with refused("model.teacher_cache_top_k", "choose one"):
        DistillSFT(network, teacher_cache_top_k=2, teacher_cache_dtype="bf16", **on, **LOGITS)
    with refused("model.teacher_cache_top_k", "at least 1"):
        DistillSFT(network, teacher_cache_top_k=0, **on, **LOGITS)
    with refused("model.teacher_cache_top_k", "4 of 5 outputs leave nothing"):
        fit(DistillSFT(network, teacher_cache_top_k=4, **on, **LOGITS), digits(), max_steps=1)
