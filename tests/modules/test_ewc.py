"""EWCSFT: the Fisher information's diagonal by hand, the penalty against autograd, and what a checkpoint keeps."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sft_lightning.anchors import add_fisher_gradient, fisher_penalty
from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.drawn import draw
from sft_lightning.evaluation.source_data import SourceData
from sft_lightning.modules import EWCSFT, PlainSFT, ewc
from sft_lightning.tasks import TASKS, make_task
from sft_lightning.tasks.base import draw_classes
from tests.refused import refused
from tests.support import (
    OLD,
    FewDigits,
    Recorder,
    assert_same_training,
    cross_entropy,
    digits,
    fit,
    mlp,
    pretrained_mlp,
    quiet_trainer,
    train_plainly,
    weights,
)

SHARED = ["encoder.1.weight", "encoder.1.bias", "encoder.4.weight", "encoder.4.bias"]


def source(**settings: Any) -> FewDigits:
    return FewDigits(digits=OLD, **settings)


def tuned(folder: str, data: FewDigits | None = None, max_steps: int = 1, **settings: Any) -> EWCSFT:
    """Fitted in double precision on source data of 40 training samples."""
    trainer: dict[str, Any] = {k: settings.pop(k) for k in ("callbacks",) if k in settings}
    module = EWCSFT(pretrained_mlp(folder), **settings)
    monitor = RetentionMonitor(data or source())
    trainer["callbacks"] = [monitor, *trainer.get("callbacks", [])]
    fit(module, digits(), max_steps=max_steps, precision="64-true", limit_val_batches=0, **trainer)
    return module


def source_samples(module: EWCSFT, number: int) -> list[tuple[Tensor, int, int]]:
    """(image, label, row) of the source samples drawn."""
    assert module.source is not None
    split: Any = module.source.data.splits["train"]
    rows = [int(split.rows[p]) for p in draw(len(split), number)]
    labels = [int(split.targets[p]) for p in draw(len(split), number)]
    return [((split.samples.images[r : r + 1].float() / 255).double(), y, r) for r, y in zip(rows, labels, strict=True)]


def starting_weights(module: EWCSFT) -> dict[str, Tensor]:
    assert module.teacher is not None
    return {n: v.double() for n, v in module.teacher.network.state_dict().items()}


@pytest.mark.parametrize("labels", ["true", "empirical"])
@pytest.mark.parametrize("number", [1, 7, None])
def test_the_fisher_diagonal_is_the_mean_of_each_samples_squared_gradient(
    pretrained: str, labels: Any, number: int | None
) -> None:
    module = tuned(pretrained, fisher=labels, fisher_samples=number)
    start, expected = starting_weights(module), {n: torch.zeros(()).double() for n in SHARED}
    samples = source_samples(module, number or 40)
    for image, label, row in samples:
        w = {n: v.clone().requires_grad_(n in SHARED) for n, v in start.items()}
        logits = mlp(w, image).source_logits
        assert logits is not None
        y = draw_classes(logits, np.random.default_rng([row])) if labels == "true" else torch.tensor([label])
        gradients = torch.autograd.grad(cross_entropy(logits, y), [w[n] for n in SHARED])
        expected = {n: expected[n] + g**2 for n, g in zip(SHARED, gradients, strict=True)}
    assert module.items == len(samples)
    for name, total in expected.items():
        torch.testing.assert_close(module.fisher[name], total / len(samples), rtol=1e-9, atol=1e-15)


def test_the_fisher_diagonal_of_a_linear_layer_has_its_closed_form(pretrained: str) -> None:
    """A layer's gradient is δ ⊗ h, so its Fisher diagonal is the mean of δ² ⊗ h²; h the layer's input, δ what comes back."""
    module = tuned(pretrained, fisher="empirical", fisher_samples=None)
    w, total = starting_weights(module), torch.zeros(()).double()
    samples = source_samples(module, 40)
    for image, label, _ in samples:
        h = torch.relu(image.flatten(1) @ w["encoder.1.weight"].T + w["encoder.1.bias"])
        out = mlp(w, image)
        assert out.source_logits is not None
        off = out.source_logits.softmax(1) - torch.eye(5).double()[label]
        delta = (off @ w["source_head.weight"]) * (out.features > 0)
        total = total + (delta.T**2) @ (h**2)
    torch.testing.assert_close(module.fisher["encoder.4.weight"], total / len(samples), rtol=1e-9, atol=1e-15)


def test_drawn_labels_give_the_fisher_information_of_a_softmax_layer_on_average() -> None:
    """Σ over classes of p_c·(p − e_c)² in expectation: summed over the classes by hand."""
    logits, number = torch.tensor([[1.0, -0.5, 0.2, 2.0]]).double(), 20_000
    p = logits.softmax(1)[0]
    expected = sum(p[c] * (p - torch.eye(4).double()[c]) ** 2 for c in range(4))
    y = draw_classes(logits.expand(number, 4), np.random.default_rng(0))
    squares = (p - torch.eye(4).double()[y]) ** 2
    error = squares.std(0) / number**0.5
    assert ((squares.mean(0) - expected).abs() < 4 * error).all(), "the draws are not those of the model"
    assert (torch.bincount(y, minlength=4) / number - p).abs().max() < 0.015


@pytest.mark.parametrize("name", TASKS)
def test_the_score_of_drawn_targets_is_zero_on_average_in_every_task(name: str) -> None:
    """What makes it a likelihood: E[∂ log p(y)] = 0 where y is drawn from p; its loss is then −log p, or a multiple of it."""
    task, number = make_task(TaskInfo(name, 1 if name == "regression" else 3)), 20_000
    logits = torch.tensor([[0.7, -1.0, 0.1]])[:, : task.info.num_outputs].double().expand(number, -1).clone()
    if name == "extractive_qa":  # one window, whose start and end are drawn alike
        logits = logits[:, None, None].expand(-1, 1, 2, -1).clone()
    if name == "ctc":  # two frames, of which a path writes no output, one or two
        logits = logits[:, None].expand(-1, 2, -1).clone()
    y = task.draw(logits, np.random.default_rng(0))
    if y is None:
        pytest.skip(f"no labels can be drawn for {name}")
    logits.requires_grad_()
    (score,) = torch.autograd.grad(task.row_loss(logits, y), logits)  # type: ignore[attr-defined]
    assert (score.mean(0).abs() < 4 * score.std(0) / number**0.5).all()


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (4, 0.5)])
def test_training_equals_plain_pytorch(pretrained: str, accumulate: int, clip: float | None) -> None:
    recorder, sgd = Recorder(), {"optimizer": "SGD", "lr": 0.05, "optimizer_args": {"momentum": 0.9}}
    module = EWCSFT(pretrained_mlp(pretrained), anchor_weight=30.0, **sgd)
    monitor = RetentionMonitor(source())
    settings: dict[str, Any] = {"accumulate_grad_batches": accumulate, "gradient_clip_val": clip}
    fit(module, digits(), max_steps=4, precision="64-true", callbacks=[monitor, recorder], **settings)

    def loss(w: dict[str, Tensor], image: Tensor, y: Tensor) -> Tensor:
        pull = sum((module.fisher[n] * (w[n] - recorder.start[n]) ** 2).sum() for n in SHARED)
        return cross_entropy(mlp(w, image).logits, y) + 30.0 / 2 * pull

    steps = train_plainly(recorder, loss, partial(torch.optim.SGD, lr=0.05, momentum=0.9), accumulate, clip)
    assert_same_training(recorder, steps, accumulate)
    w = recorder.weights[2 * accumulate - 1]
    expected = 15.0 * sum(float((module.fisher[n] * (w[n] - recorder.start[n]) ** 2).sum()) for n in SHARED)
    assert recorder.logged[3 * accumulate - 1]["train/loss_anchor"] == pytest.approx(expected, rel=1e-6)
    assert expected > 0


def test_the_penaltys_gradient_is_autograds() -> None:
    torch.manual_seed(0)
    shapes = [(3, 4), (5,)]
    start, fisher = [torch.randn(s) for s in shapes], [torch.rand(s) for s in shapes]
    w = [(s + torch.randn_like(s)).requires_grad_() for s in start]
    value = 0.7 / 2 * sum((f * (a - b) ** 2).sum() for a, b, f in zip(w, start, fisher, strict=True))
    expected = torch.autograd.grad(value, w)
    for one in w:
        one.grad = torch.ones_like(one)
    frozen = [torch.zeros(2), torch.ones(2), torch.ones(2)]
    add_fisher_gradient([*w, frozen[0]], [*start, frozen[1]], [*fisher, frozen[2]], 0.7)
    for one, gradient in zip(w, expected, strict=True):
        torch.testing.assert_close(one.grad, 1 + gradient)
    assert frozen[0].grad is None
    assert float(fisher_penalty(w, start, fisher, 0.7)) == pytest.approx(float(value.detach()), rel=1e-6)


# ---- source data ----


def test_without_source_data_the_fit_is_refused_and_at_weight_zero_it_needs_none(pretrained: str) -> None:
    def fitted(weight: float) -> None:
        module = EWCSFT(pretrained_mlp(pretrained), anchor_weight=weight)
        fit(module, digits(), max_steps=1, callbacks=[RetentionMonitor()])

    with refused("retention", "EWCSFT", "L2SPSFT"):
        fitted(1.0)
    fitted(0.0)


def test_variant_and_monitor_hold_one_source(pretrained: str) -> None:
    data = SourceData(source())
    monitor, module = RetentionMonitor(data), EWCSFT(pretrained_mlp(pretrained))
    fit(module, digits(), max_steps=1, callbacks=[monitor])
    assert module.source is data and monitor.source is data
    plain = PlainSFT(pretrained_mlp(pretrained))
    fit(plain, digits(), max_steps=1, callbacks=[RetentionMonitor(data)])
    assert plain.source is data


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_share_the_samples_that_are_drawn_evenly_and_no_random_number_is_taken(ranks: int) -> None:
    data = SourceData(source(augment=["crop", "flip"]))
    data.data.setup()
    before = torch.get_rng_state()
    parts = [[b["rows"] for b in data.training_samples(10, rank, ranks)] for rank in range(ranks)]
    assert torch.equal(torch.get_rng_state(), before)
    rows = [row for part in parts for batch in part for row in batch]
    assert sorted(rows) == data.data.splits["train"].rows[draw(40, 10)].tolist()
    assert not any(b["train"] for b in data.training_samples(10)), "the samples are augmented"


# ---- kept, frozen, averaged ----


def test_a_resumed_run_has_the_same_fisher_information_and_does_not_compute_it(
    pretrained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = EWCSFT(pretrained_mlp(pretrained))
    trainer = fit(module, digits(), max_steps=3, callbacks=[RetentionMonitor(source())])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.setattr(ewc, "fisher_diagonal", lambda *_: pytest.fail("computed again"))
    again = EWCSFT(pretrained_mlp(pretrained))
    monitor = RetentionMonitor(source())
    fit(again, digits(), seed=5, max_steps=4, callbacks=[monitor], ckpt_path=str(tmp_path / "last.ckpt"))
    assert again.items == module.items
    assert all(torch.equal(again.fisher[n], f) for n, f in module.fisher.items())
    other = EWCSFT(pretrained_mlp(pretrained), fisher_samples=9)
    with refused("ckpt_path", "fisher_samples 512 (now 9)"):
        fit(other, digits(), max_steps=4, callbacks=[monitor], ckpt_path=str(tmp_path / "last.ckpt"))


def test_a_second_fit_keeps_it_and_other_source_data_give_another(pretrained: str) -> None:
    module, trainer = EWCSFT(pretrained_mlp(pretrained), lr=1e-2), {"limit_val_batches": 0, "max_steps": 2}
    first = SourceData(source())
    found = []
    for data in (first, first, SourceData(source(sizes=(20, 5, 5)))):
        quiet_trainer(callbacks=[RetentionMonitor(data)], **trainer).fit(module, digits())
        found.append(module.fisher["encoder.1.weight"].clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "settings",
    [{"freeze": {"bottom_layers": 1}}, {"ema_decay": 0.9}, {"head_warmup": 2}, {"network": {"dropout": 0.5}}],
)
def test_the_fisher_information_is_of_the_start_however_the_student_is_trained(
    pretrained: str, settings: dict[str, Any]
) -> None:
    runs, network = [], settings.pop("network", {})
    for more in ({}, settings):
        module = EWCSFT(pretrained_mlp(pretrained, **(network if more is settings else {})), **more)
        fit(module, digits(), max_steps=4, callbacks=[RetentionMonitor(source())])
        runs.append(module)
    assert all(torch.equal(runs[1].fisher[n], runs[0].fisher[n]) for n in SHARED)
    ends = [weights(run)["encoder.4.weight"] for run in runs]
    assert not torch.equal(*ends), "the setting changes nothing, so that nothing is tested"


def test_weight_decay_spares_what_is_anchored(pretrained: str) -> None:
    module = EWCSFT(pretrained_mlp(pretrained), weight_decay=0.3)
    trainer = fit(module, digits(), max_steps=1, callbacks=[RetentionMonitor(source())])
    assert {n for g in trainer.optimizers[0].param_groups if g["weight_decay"] for n in g["names"]} == {"head.weight"}


@pytest.mark.parametrize(
    ("key", "value", "values"),
    [
        ("anchor_weight", -1.0, ["-1.0"]),
        ("fisher_samples", 0, ["1", "0", "null"]),
        ("fisher", "no", ["true", "empirical", "'no'"]),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(key: str, value: Any, values: list[str]) -> None:
    with refused(f"model.{key}", *values):
        EWCSFT(pretrained_mlp(None), **{key: value})


def test_fidelity_is_the_papers_with_all_samples_and_sgd() -> None:
    published = {"fisher_samples": None, "optimizer": "SGD"}
    assert EWCSFT(pretrained_mlp(None), **published).fidelity == "paper-exact"
    for other in ({"fisher": "empirical"}, {"fisher_samples": 512}, {"optimizer": "AdamW"}, {"ema_decay": 0.9}):
        assert EWCSFT(pretrained_mlp(None), **{**published, **other}).fidelity == "safe default", other
