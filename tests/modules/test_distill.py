"""DistillSFT through Lightning's Trainer against teacher, student and distance in plain PyTorch."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.modules import DistillSFT
from tests.refused import refused
from tests.support import (
    Recorder,
    assert_same_training,
    cross_entropy,
    digits,
    fit,
    mlp,
    pretrained_mlp,
    train_plainly,
)


def squared(student: Tensor, teacher: Tensor) -> Tensor:
    return ((student - teacher) ** 2).sum() / len(student)


def angle(student: Tensor, teacher: Tensor) -> Tensor:
    dot = (student * teacher).sum(1)
    return (1 - dot / ((student**2).sum(1).sqrt() * (teacher**2).sum(1).sqrt())).sum() / len(student)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    p, q = (v.div(temperature).exp() for v in (teacher, student))
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return temperature**2 * (p * (p.log() - q.log())).sum() / len(student)


CASES: dict[str, tuple[dict[str, Any], str, Any]] = {
    "source head, mse": ({}, "source_logits", squared),
    "source head, kl": ({"distance": "kl", "temperature": 3.0}, "source_logits", partial(divergence, temperature=3.0)),
    "source head, cosine": ({"distance": "cosine"}, "source_logits", angle),
    "features, mse": ({"on": "features"}, "features", squared),
    "features, cosine": ({"on": "features", "distance": "cosine"}, "features", angle),
}


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (4, 0.5)])
@pytest.mark.parametrize("case", CASES)
def test_training_equals_plain_pytorch(pretrained: str, case: str, accumulate: int, clip: float | None) -> None:
    settings, compared, distance = CASES[case]
    recorder = Recorder()
    module = DistillSFT(
        pretrained_mlp(pretrained),
        anchor_weight=0.7,
        optimizer="SGD",
        lr=0.05,
        optimizer_args={"momentum": 0.9},
        **settings,
    )
    fit(
        module,
        digits(),
        max_steps=4,
        precision="64-true",
        callbacks=[recorder],
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
    )
    teacher = {n: v.clone() for n, v in recorder.start.items()}

    def loss(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
        student, original = mlp(w, image), mlp(teacher, image)
        anchor = distance(getattr(student, compared), getattr(original, compared))
        return cross_entropy(student.logits, y) + 0.7 * anchor

    steps = train_plainly(recorder, loss, partial(torch.optim.SGD, lr=0.05, momentum=0.9), accumulate, clip)
    assert_same_training(recorder, steps, accumulate, tolerance=1e-8)


def test_logged_terms_add_up_and_are_means_over_the_step(pretrained: str) -> None:
    recorder = Recorder()
    module = DistillSFT(pretrained_mlp(pretrained), anchor_weight=0.7, lr=0.02)
    fit(module, digits(), max_steps=3, precision="64-true", accumulate_grad_batches=2, callbacks=[recorder])
    window, w = recorder.batches[4:6], recorder.weights[3]
    image, y = torch.cat([b["x"]["image"] for b in window]), torch.cat([b["y"] for b in window])
    task = float(cross_entropy(mlp(w, image).logits, y))
    anchor = 0.7 * float(squared(mlp(w, image).source_logits, mlp(recorder.start, image).source_logits))
    logged = recorder.logged[5]
    assert logged["train/loss_task"] == pytest.approx(task, rel=1e-5)
    assert logged["train/loss_anchor"] == pytest.approx(anchor, rel=1e-5)
    assert logged["train/loss"] == pytest.approx(task + anchor, rel=1e-5)
    assert logged["train/anchor_ratio"] == pytest.approx(anchor / task, rel=1e-5)


@pytest.mark.parametrize(("keep", "expected"), [(True, "source_logits"), (False, "features")])
def test_auto_takes_the_source_head_where_there_is_one_else_features(
    pretrained: str, keep: bool, expected: str
) -> None:
    module = DistillSFT(pretrained_mlp(pretrained, keep_source_head=keep))
    fit(module, digits(), max_steps=1)
    assert module.on == expected


@pytest.mark.parametrize(
    ("network", "settings", "key", "values"),
    [
        ({"keep_source_head": False}, {"on": "source_logits"}, "model.on", ["source_logits", "use on: features"]),
        ({}, {"on": "logits"}, "model.on", ["logits", "use source_logits or features"]),
        ({}, {"on": "features", "distance": "kl"}, "model.distance", ["kl", "use mse or cosine"]),
        ({"keep_source_head": False}, {"distance": "kl"}, "model.distance", ["kl", "use mse or cosine"]),
        ({"pretrained": None}, {}, "network.pretrained", ["DistillSFT", "use PlainSFT"]),
    ],
)
def test_what_cannot_be_compared_is_refused_with_a_remedy(
    pretrained: str, network: dict[str, Any], settings: dict[str, Any], key: str, values: list[str]
) -> None:
    module = DistillSFT(pretrained_mlp(pretrained, **network), **settings)
    with refused(key, *values):
        fit(module, digits(), max_steps=1)
