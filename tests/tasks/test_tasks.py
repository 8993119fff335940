"""Losses and metrics against scikit-learn and scipy on ragged batches."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy, pearsonr, spearmanr
from sklearn import metrics as sk
from torch import Tensor

from sft_lightning.anchors import DISTANCES
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.core.structures import Output, TaskInfo
from sft_lightning.tasks import TASKS, make_task
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters
from tests.refused import refused
from tests.tasks import ctc_by_hand, squad_by_hand

RAGGED = [(0, 16), (16, 17), (17, 17), (17, 40), (40, 61)]  # one item, none, and a short last batch


def measured(task: Any, logits: Tensor, y: Tensor) -> dict[str, float]:
    meters = {"loss": MeanLoss(), **task.make_metrics()}
    for a, b in RAGGED:
        update_meters(task, meters, Output(logits[a:b], logits[a:b]), {"y": y[a:b], "count": b - a})
    return read_meters(meters)


def classes(count: int, seed: int = 0, absent: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, count - absent, (61,), generator=generator)
    logits = torch.randn(61, count, generator=generator) + 1.5 * torch.nn.functional.one_hot(y, count)
    if absent:
        logits[:, -absent:] -= 100
    return logits, y


@pytest.mark.parametrize(("count", "absent"), [(2, 0), (5, 0), (5, 2)])
def test_classification_metrics_are_scikit_learns(count: int, absent: int) -> None:
    names = ["accuracy", "f1_macro", "matthews", "ece", "brier"] + (["f1"] if count == 2 else [])
    task = make_task(TaskInfo("classification", count, metrics=names))
    logits, y = classes(count, absent=absent)
    said, expected = logits.argmax(1), {}
    expected["accuracy"] = sk.accuracy_score(y, said)
    expected["f1_macro"] = sk.f1_score(y, said, average="macro")
    expected["matthews"] = sk.matthews_corrcoef(y, said)
    p = logits.double().softmax(1)
    expected["loss"] = sk.log_loss(y, p, labels=range(count))
    expected["brier"] = float((p - torch.eye(count).double()[y]).square().sum(1).mean())
    if count == 2:
        assert expected["brier"] == pytest.approx(2 * sk.brier_score_loss(y, p[:, 1]), rel=1e-6)
    expected["ece"] = calibration_by_hand(p.max(1).values, said == y)
    if count == 2:
        expected["f1"] = sk.f1_score(y, said)
    assert measured(task, logits, y) == pytest.approx(expected, rel=1e-5)


def calibration_by_hand(confidences: Tensor, right: Tensor) -> float:
    """Σ over 15 bins of their share of samples × |accuracy − mean confidence|."""
    error = 0.0
    for low in range(15):
        inside = (confidences >= low / 15) & (confidences < (low + 1) / 15)
        if inside.any():
            share = float(inside.double().mean())
            error += share * abs(float(right[inside].double().mean()) - float(confidences[inside].mean()))
    return error


def test_logits_between_0_and_1_are_not_taken_for_probabilities() -> None:
    logits, y = torch.tensor([[0.2, 0.9], [0.6, 0.1]]), torch.tensor([1, 1])
    task = make_task(TaskInfo("classification", 2, metrics=["ece", "brier"]))
    p = logits.double().softmax(1)
    expected = {
        "ece": calibration_by_hand(p.max(1).values, p.argmax(1) == y),
        "brier": float((2 * (1 - p[:, 1]).square()).mean()),
    }
    found = measured(task, logits, y)
    assert {n: found[n] for n in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_regression_metrics_are_scipys(ties: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(61, generator=generator).double() * 2 + 3
    said = y.float()[:, None] + torch.randn(61, 1, generator=generator)
    if ties:
        y, said = y.round(), said.round()
    task = make_task(TaskInfo("regression", 1, metrics=["mse", "mae", "r2", "pearson", "spearman"]))
    x, t = said[:, 0].double().numpy(), y.numpy()
    expected = {
        "mse": sk.mean_squared_error(t, x),
        "mae": sk.mean_absolute_error(t, x),
        "r2": sk.r2_score(t, x),
        "pearson": pearsonr(t, x).statistic,
        "spearman": spearmanr(t, x).statistic,
        "loss": sk.mean_squared_error(t, x),
    }
    assert measured(task, said, y) == pytest.approx(expected, rel=1e-4)


def test_metrics_of_several_numbers_are_means_over_them() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(61, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.1])
    logits = y + torch.randn(61, 3, generator=generator)
    task = make_task(TaskInfo("regression", 3, ["x", "y", "z"], metrics=["mse", "mae", "r2", "pearson", "spearman"]))
    found, t, x = measured(task, logits, y), y.double().numpy(), logits.double().numpy()
    expected = {
        "mse": sk.mean_squared_error(t, x),
        "mae": sk.mean_absolute_error(t, x),
        "r2": sk.r2_score(t, x),
        "pearson": np.mean([pearsonr(t[:, i], x[:, i]).statistic for i in range(3)]),
        "spearman": np.mean([spearmanr(t[:, i], x[:, i]).statistic for i in range(3)]),
        "loss": 3 * sk.mean_squared_error(t, x),
    }
    assert found == pytest.approx(expected, rel=1e-4)
    assert task.decode_rows(logits[:1])[0]["values"].keys() == {"x", "y", "z"}
    flat = make_task(TaskInfo("regression", 1, metrics=["r2"]))
    assert math.isnan(measured(flat, torch.rand(5, 1), torch.ones(5))["r2"]), "no variance to explain"
    assert math.isnan(measured(flat, torch.rand(1, 1), torch.ones(1))["r2"]), "one item"
    assert measured(flat, y[:, :1], y[:, 0])["r2"] == 1


def test_language_model_metrics_weigh_tokens_equally() -> None:
    logits, y = classes(11)
    found = measured(make_task(TaskInfo("causal_lm", 11)), logits, y)
    nats = sk.log_loss(y, logits.double().softmax(1), labels=range(11))
    accuracy = sk.accuracy_score(y, logits.argmax(1))
    assert found == pytest.approx({"loss": nats, "perplexity": math.exp(nats), "token_accuracy": accuracy}, rel=1e-4)


def sets(what: str) -> tuple[Tensor, Tensor]:
    """Logits and targets `[61, 4]`, hostile in one way."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 2, (61, 4), generator=generator)
    if what == "a label that nobody has":
        y[:, 2] = 0
    if what == "no labels at all":
        y[:] = 0
    if what == "sorted by label":
        y = y[y[:, 0].argsort(stable=True)]
    logits = torch.randn(61, 4, generator=generator) + 1.5 * (2 * y - 1)
    if what == "all are predicted":
        logits = logits.abs() + 0.1
    if what == "none is predicted":
        logits = -logits.abs() - 0.1
    if what == "ties":
        logits = logits.round()
    if what == "probabilities of 1 in single precision":
        logits = 20 + logits.abs()
    if what == "logits between 0 and 1":
        logits = logits.sigmoid()
    return logits, y.to(torch.uint8)


HOSTILE = (
    *(
        "plain",
        "a label that nobody has",
        "no labels at all",
        "sorted by label",
        "all are predicted",
        "none is predicted",
    ),
    *("ties", "probabilities of 1 in single precision", "logits between 0 and 1"),
)


@pytest.mark.parametrize("what", HOSTILE)
def test_multi_label_metrics_are_scikit_learns_on_all_items(what: str) -> None:
    logits, y = sets(what)
    found = measured(make_task(TaskInfo("multi_label", 4)), logits, y)
    said, p, true = (logits > 0).numpy(), logits.double().sigmoid().numpy(), y.numpy()
    there = true.any(0)
    expected = {
        "label_accuracy": sk.accuracy_score(true.ravel(), said.ravel()),
        "exact_match": sk.accuracy_score(true, said),
        "f1_micro": sk.f1_score(true, said, average="micro", zero_division=0.0),
        "f1_macro": sk.f1_score(true, said, average="macro", zero_division=0.0),
        "f1_samples": sk.f1_score(true, said, average="samples", zero_division=1.0),
        "map": sk.average_precision_score(true[:, there], logits.numpy()[:, there]) if there.any() else math.nan,
        "loss": 4 * sk.log_loss(true.ravel(), p.ravel(), labels=[0, 1]),
    }
    if what == "probabilities of 1 in single precision":
        expected["loss"] = float(np.where(true, 0, logits.double().numpy()).sum() / 61)
    assert found == pytest.approx(expected, rel=1e-4, nan_ok=True)


def test_a_single_label_of_a_source_head_is_measured_too() -> None:
    logits, y = sets("plain")
    found = measured(make_task(TaskInfo("multi_label", 1)), logits[:, :1], y[:, :1])
    said = (logits[:, 0] > 0).numpy()
    assert found["f1_micro"] == pytest.approx(sk.f1_score(y[:, 0], said))
    assert found["exact_match"] == found["label_accuracy"] == pytest.approx(sk.accuracy_score(y[:, 0], said))


def test_choices_are_compared_within_their_question_whatever_their_number() -> None:
    """Three questions with two, none (a filler) and four choices."""
    task = make_task(TaskInfo("multiple_choice", 1))
    scores = torch.tensor([0.5, 2.0, 1.0, -1.0, 3.0, 0.0], requires_grad=True)
    select = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    batch = {"select": select, "real": torch.tensor([True, False, True]), "y": torch.tensor([1, 0]), "count": 2}
    output = Output(scores[:, None], scores[:, None].detach())
    loss = task.loss(output, batch)
    one, other = softmax([0.5, 2.0]), softmax([1.0, -1.0, 3.0, 0.0])
    assert loss.total.item() == pytest.approx(-math.log(one[1]) - math.log(other[0])) and loss.n == 2
    loss.total.backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([*(one - [0, 1]), *(other - [1, 0, 0, 0])], abs=1e-6)
    meters = task.make_metrics()
    update_meters(task, {"loss": MeanLoss(), **meters}, output, batch)
    assert read_meters(meters) == {"accuracy": 0.5}
    rows = task.decode(output, batch)
    assert [row["choice"] for row in rows] == [1, 2]
    assert rows[0]["probabilities"] == pytest.approx(one, abs=1e-6)
    assert rows[1]["probabilities"] == pytest.approx(other, abs=1e-6)


def test_distances_of_choices_compare_one_distribution_and_ignore_choices_that_are_not_there() -> None:
    task = make_task(TaskInfo("multiple_choice", 1))
    select = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    mine, theirs = torch.tensor([0.5, 2.0, 1.0, -1.0, 3.0]), torch.tensor([1.5, 0.0, 1.0, 2.0, 3.0])
    items = [task.items(Output(s[:, None], s[:, None], s[:, None]), {"select": select}) for s in (mine, theirs)]
    assert items[0].n == 2 and len(items[0].features) == 5
    one, other = (item.source_logits for item in items)
    assert one is not None and other is not None
    pairs = [(softmax(a), softmax(b)) for a, b in (([1.5, 0.0], [0.5, 2.0]), ([1.0, 2.0, 3.0], [1.0, -1.0, 3.0]))]
    assert task.divergence(one, other) == pytest.approx([entropy(p, q) for p, q in pairs], rel=1e-5)
    assert task.same(one, other).tolist() == [0.0, 1.0]
    assert DISTANCES["mse"](one, other).tolist() == pytest.approx([5.0, 9.0])


def test_what_the_same_answer_and_divergence_are_follows_from_the_task() -> None:
    one, other = (torch.randn(61, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    p, q = one.double().numpy(), other.double().numpy()
    for name in ("classification", "causal_lm"):
        task = make_task(TaskInfo(name, 4))
        assert np.array_equal(task.same(one, other), p.argmax(1) == q.argmax(1)), name
        wanted = [entropy(a, b) for a, b in zip(softmax(p, 1), softmax(q, 1), strict=True)]
        assert task.divergence(other, one) == pytest.approx(wanted, rel=1e-5), name
    task = make_task(TaskInfo("multi_label", 4))
    assert np.array_equal(task.same(one, other), ((p > 0) == (q > 0)).mean(1)), "the share of labels that agree"
    of_labels = entropy(np.stack([expit(p), expit(-p)]), np.stack([expit(q), expit(-q)]), axis=0)
    assert task.divergence(other, one) == pytest.approx(of_labels.sum(1), rel=1e-5), "one yes or no per label"
    task = make_task(TaskInfo("regression", 1))
    assert task.same(one, other) is None and task.divergence(one, other) is None, "values have neither"


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    return float(sum(math.log(sum(math.exp(v) for v in row)) - row[k] for row, k in zip(logits, y, strict=True)))


def in_frames(scores: np.ndarray, y: np.ndarray) -> float:
    return sum(ctc_by_hand.loss(of, goal) for of, goal in zip(scores, y, strict=True))


LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "classification": cross_entropy,
    "causal_lm": cross_entropy,
    "seq2seq": cross_entropy,
    "token_classification": cross_entropy,
    "multiple_choice": cross_entropy,
    "semantic_segmentation": cross_entropy,
    "extractive_qa": lambda scores, y: sum(
        squad_by_hand.loss([window.T for window in of], goals) for of, goals in zip(scores, y, strict=True)
    ),
    "ctc": in_frames,
    "regression": lambda logits, y: float(sum((row[0] - t) ** 2 for row, t in zip(logits, y, strict=True))),
    "multi_label": lambda logits, y: float(
        sum(math.log(1 + math.exp(v if t == 0 else -v)) for v, t in zip(logits.flat, y.flat, strict=True))
    ),
}


WITH_ROWS = [name for name in TASKS if name != "object_detection"]
"""Without the task whose losses are the networks' own: see tests/tasks/test_object_detection.py"""


@pytest.mark.parametrize("name", WITH_ROWS)
def test_loss_is_the_sum_over_items_in_whatever_pieces(name: str) -> None:
    width = 1 if name == "regression" else 7
    logits, y = classes(7)
    logits = logits[:, :width].double().requires_grad_()
    y = torch.nn.functional.one_hot(y, 7) if name == "multi_label" else y
    if name == "extractive_qa":  # one window of four tokens for each question
        logits, y = logits[:, None, :4].repeat(1, 2, 1)[:, None], (y % 4).reshape(-1, 1, 1).repeat(1, 1, 2)
        logits = logits.detach().requires_grad_()
    if name == "ctc":  # five frames for each sound
        logits = torch.cat([logits[:, None].detach() * scale for scale in (1, 0, -1, 2, 0.5)], 1).requires_grad_()
        y = torch.stack([y, y - 1, -torch.ones_like(y)], 1).where(y[:, None] > 1, torch.tensor([[1, 1, -1]]))
    task = make_task(TaskInfo(name, width))
    whole = task.row_loss(logits, y)
    pieces = sum(task.row_loss(logits[a:b], y[a:b]) for a, b in RAGGED)
    expected = LOSSES[name](logits.detach().numpy(), y.numpy())
    assert whole.item() == pytest.approx(expected, rel=1e-5) == pytest.approx(pieces.item(), rel=1e-5)
    (one,) = torch.autograd.grad(whole, logits, retain_graph=True)
    (other,) = torch.autograd.grad(pieces, logits)
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "smoothing"), [*((n, 0.0) for n in WITH_ROWS), ("classification", 0.1)])
def test_a_batch_without_items_has_zero_loss_and_zero_gradient(name: str, smoothing: float) -> None:
    width = 1 if name == "regression" else 4
    task = make_task(TaskInfo(name, width), smoothing)
    weight = torch.randn(3, width, requires_grad=True)
    logits = torch.randn(5, 3)[torch.zeros(5, dtype=torch.bool)] @ weight
    y = torch.zeros(0) if name == "regression" else torch.zeros(0, dtype=torch.int64)
    y = torch.zeros(0, width) if name == "multi_label" else y
    if name == "extractive_qa":
        logits, y = logits.reshape(0, 1, 2, width), torch.zeros(0, 1, 2, dtype=torch.int64)
    if name == "ctc":
        logits, y = logits.reshape(0, 1, width), torch.zeros(0, 1, dtype=torch.int64)
    loss = task.row_loss(logits, y)
    loss.backward()
    assert loss.item() == 0.0, f"the loss of nothing is {loss.item()}"
    assert weight.grad is not None and weight.grad.eq(0).all()


def test_a_nan_loss_stays_visible_in_the_mean() -> None:
    meter = MeanLoss()
    meter.update(torch.tensor(1.0), 2)
    assert meter.compute() == 0.5
    meter.update(torch.tensor(float("nan")), 2)
    assert meter.compute().isnan()


@pytest.mark.parametrize("name", TASKS)
def test_every_metric_has_a_direction_and_the_first_selects(name: str) -> None:
    task = make_task(TaskInfo(name, 3))
    assert task.primary == task.metric_info(task.default_metrics[0])
    for metric in ("loss", *task.metrics):
        known = task.metric_info(metric)
        assert known is not None and known.name == metric
        less = (
            "ece",
            "brier",
            "loss",
            "perplexity",
            "bits_per_byte",
            "mse",
            "mae",
            "wer",
            "cer",
            "wer_plain",
            "cer_plain",
        )
        assert known.better == ("min" if metric in less else "max")
    assert task.metric_info("drift") is None
    chosen = make_task(TaskInfo("classification", 3, metrics=["f1_macro"])).primary
    assert chosen == MetricInfo("f1_macro", "max", "share")


def test_what_does_not_exist_is_refused_with_the_nearest_name() -> None:
    with refused("task", "'clasification'", "'classification'"):
        make_task(TaskInfo("clasification", 3))
    with refused("metrics", "'acuracy'", "'accuracy'"):
        make_task(TaskInfo("classification", 3, metrics=["acuracy"])).make_metrics()
    with refused("model.label_smoothing", "regression"):
        make_task(TaskInfo("regression", 1), 0.1)


def test_rows_are_plain_values_with_the_labels_names() -> None:
    task = make_task(TaskInfo("classification", 2, labels=["no", "yes"]))
    rows = task.decode_rows(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    assert [r["label"] for r in rows] == ["no", "yes"]
    assert rows[0]["probabilities"] == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))], abs=1e-6)
    assert make_task(TaskInfo("regression", 1)).decode_rows(torch.tensor([[1.5]])) == [{"value": 1.5}]
