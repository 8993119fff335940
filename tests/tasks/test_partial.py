"""Samples annotated in part: their losses are a few lines of arithmetic, their metrics those of whole annotations."""

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from seqeval.metrics import f1_score
from sklearn.metrics import accuracy_score, average_precision_score
from sklearn.metrics import f1_score as f1_of_sets
from torch import Tensor

from sft_lightning.core.structures import Output, TaskInfo
from sft_lightning.modules.bias_correction import in_part, solve_correction
from sft_lightning.tasks import make_task
from sft_lightning.tasks.partial import old_with_outside, partial_cross_entropy
from sft_lightning.tasks.schemes import entities

TAGS = ["O", "B-per", "I-per", "B-loc", "I-loc", "B-film", "I-film", "B-firm"]
KNOWN = 5
INFO = TaskInfo("token_classification", len(TAGS), TAGS, known=KNOWN)
OF_OLD, OF_NEW = ([i < KNOWN for i in range(8)], [i == 0 or i >= KNOWN for i in range(8)])
pytestmark = pytest.mark.filterwarnings("ignore")


# ---- tags ----


def test_the_loss_of_tags_adds_up_the_probabilities_of_o_and_what_is_not_covered() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    covered = torch.tensor([OF_NEW, OF_NEW, OF_OLD, OF_OLD, [True] * 8, OF_NEW])
    y = torch.tensor([0, 6, 0, 3, 2, 0])
    total = partial_cross_entropy(logits, y, covered, 0)
    (gradient,) = torch.autograd.grad(total, logits)
    expected, slopes = 0.0, np.zeros((6, 8))
    for row, (z, right, there) in enumerate(zip(logits.tolist(), y.tolist(), covered.tolist(), strict=True)):
        p = np.exp(z) / np.exp(z).sum()
        mine = [right] if right else [0, *(i for i in range(8) if not there[i])]
        expected -= math.log(p[mine].sum())
        slopes[row] = p
        slopes[row, mine] -= p[mine] / p[mine].sum()
    assert total.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient.numpy(), slopes, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_if_all_labels_are_covered_it_is_the_ordinary_cross_entropy(smoothing: float) -> None:
    logits, y = torch.randn(9, 8), torch.randint(8, (9,))
    wanted = F.cross_entropy(logits, y, reduction="sum", label_smoothing=smoothing)
    found = partial_cross_entropy(logits, y, torch.ones(9, 8, dtype=torch.bool), 0, smoothing)
    torch.testing.assert_close(found, wanted)
    none = partial_cross_entropy(logits[:0], y[:0], torch.ones(0, 8, dtype=torch.bool), 0, smoothing)
    assert none.item() == 0.0


def test_labels_are_smoothed_over_those_that_are_covered() -> None:
    logits = torch.randn(1, 8, dtype=torch.float64, requires_grad=True)
    loss = partial_cross_entropy(logits, torch.tensor([6]), torch.tensor([OF_NEW]), 0, 0.2)
    p = logits.detach()[0].softmax(0)
    shares = [p[:KNOWN].sum(), *p[KNOWN:]]
    wanted = -0.8 * shares[2].log() - 0.2 * sum(s.log() for s in shares) / 4
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_distillation_adds_new_tags_to_o() -> None:
    task = make_task(INFO)
    student, teacher = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, KNOWN, dtype=torch.float64)
    found = task.divergence(old_with_outside(student, KNOWN, 0), teacher)
    p, q = student.softmax(1), teacher.softmax(1)
    summed = torch.cat([p[:, :1] + p[:, KNOWN:].sum(1, keepdim=True), p[:, 1:KNOWN]], 1)
    torch.testing.assert_close(found, (q * (q / summed).log()).sum(1))


def drawn_tags(seed: int, count: int = 80) -> tuple[list[list[int]], list[list[int]]]:
    """(true, said): any tag may follow any other, and six of ten are said as they are."""
    draw = random.Random(seed)
    true = [[draw.randrange(8) for _ in range(draw.randint(1, 9))] for _ in range(count)]
    said = [[tag if draw.random() < 0.6 else draw.randrange(8) for tag in row] for row in true]
    return true, said


def batch_of(said: list[list[int]], true: list[list[int]], covered: list[list[bool]]) -> tuple[Output, dict[str, Any]]:
    longest = max(map(len, said))
    select = torch.tensor([[i < len(row) for i in range(longest)] for row in said])
    logits = F.one_hot(torch.tensor([tag for row in said for tag in row]), 8).float()
    y = torch.tensor([tag for row in true for tag in row])
    return Output(logits, logits), {"select": select, "y": y, "covered": torch.tensor(covered), "count": len(y)}


def measured(task: Any, batches: list[tuple[Output, dict[str, Any]]]) -> dict[str, float]:
    found: dict[str, Tensor] = {}
    for name, meter in task.make_metrics(final=True).items():
        for output, batch in batches:
            task.update(meter, output, batch)
        value = meter.compute()
        found |= value if isinstance(value, dict) else {name: value}
    return {name: float(value) for name, value in found.items()}


def only(rows: list[list[int]], covered: list[bool]) -> list[list[int]]:
    return [[tag if covered[tag] else 0 for tag in row] for row in rows]


def named(rows: list[list[int]]) -> list[list[str]]:
    return [[TAGS[tag] for tag in row] for row in rows]


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_sentences_tagged_in_part_are_those_of_sentences_tagged_in_full(seed: int) -> None:
    """The same sentences twice, tagged by old and by new types, against seqeval on all tags, type by type."""
    true, said = drawn_tags(seed)
    task, batches = make_task(INFO), []
    for covered in (OF_OLD, OF_NEW):
        for rows in (slice(0, 1), slice(1, 50), slice(50, None)):
            part = said[rows], only(true, covered)[rows]
            batches.append(batch_of(*part, [covered] * len(part[0])))
    found = measured(task, batches)
    f1 = {of: f1_score(named(only(true, there)), named(only(said, there))) for of, there in TWO}
    assert found["entity_f1_old"] == pytest.approx(f1["old"], rel=1e-12)
    assert found["entity_f1_new"] == pytest.approx(f1["new"], rel=1e-12)
    assert found["harmonic"] == pytest.approx(2 / (1 / f1["old"] + 1 / f1["new"]), rel=1e-12)
    assert found["entity_f1"] == pytest.approx(f1_score(named(true), named(said)), rel=1e-12)
    for of, there in TWO:
        group = [
            (row, start, end) for row, tags in enumerate(named(only(true, there))) for start, end, _ in entities(tags)
        ]
        crossed = sum(any(tag and not there[tag] for tag in said[row][start:end]) for row, start, end in group)
        assert found[f"{of}_as_{'new' if of == 'old' else 'old'}"] == pytest.approx(crossed / len(group), rel=1e-12)
        assert found[f"entities_{of}"] == len(group)


TWO = (("old", OF_OLD), ("new", OF_NEW))


def test_scores_of_a_group_without_entities_are_left_out() -> None:
    found = measured(make_task(INFO), [batch_of([[5, 1, 0]], [[5, 0, 0]], [OF_NEW])])
    assert found["entity_f1"] == found["entity_f1_new"] == 1.0 and found["entities_old"] == 0
    assert not {"entity_f1_old", "harmonic", "old_as_new"} & found.keys()
    assert found["token_accuracy"] == 1.0, "an old type counts as O where only new ones are tagged"


def test_the_solved_correction_of_tags_is_the_best() -> None:
    torch.manual_seed(0)
    task, y = make_task(INFO), torch.arange(200) % 8
    covered = torch.tensor([OF_NEW if i >= KNOWN else OF_OLD for i in range(8)])[y]
    old = ~covered[:, KNOWN:].any(1)
    logits = torch.randn(200, 8, dtype=torch.float64) + 2 * F.one_hot(y, 8)
    logits[:, KNOWN:] = (logits[:, KNOWN:] + 1.5) * 3
    loss = in_part(task, y, covered, old)

    def at(a: float, b: float) -> float:
        z = torch.cat([logits[:, :KNOWN], a * logits[:, KNOWN:] + b], 1)
        parts = [partial_cross_entropy(z[m], y[m], covered[m], 0) / m.sum() for m in (old, ~old)]
        return float(sum(parts)) / 2

    a, b = solve_correction(logits, y, KNOWN, loss=loss)
    assert 0 < a < 1 and b < 0
    assert all(at(a, b) <= at(a + da, b + db) for da in (-1e-3, 0, 1e-3) for db in (-1e-3, 0, 1e-3))


# ---- sets of labels ----

SETS = TaskInfo("multi_label", 5, ["a", "b", "c", "d", "e"], known=3)


def test_the_loss_of_sets_leaves_out_labels_that_are_not_covered() -> None:
    task = make_task(SETS)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    y, covered = torch.randint(2, (4, 5)), torch.rand(4, 5) < 0.5
    loss = task.covered_loss(logits, y, covered)  # type: ignore[attr-defined]
    p = logits.detach().sigmoid()
    each = torch.where(y > 0, p.log(), (1 - p).log())
    assert loss.item() == pytest.approx(-float(each[covered].sum()), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], (p - y) * covered)


def test_metrics_of_sets_leave_out_labels_that_are_not_covered() -> None:
    rng = np.random.default_rng(0)
    logits, y = rng.normal(size=(90, 5)), rng.integers(0, 2, (90, 5))
    y[:, 1] = 0
    covered = np.where(rng.random(90)[:, None] < 0.5, [True] * 3 + [False] * 2, [False] * 3 + [True] * 2)
    task, said = make_task(SETS), logits > 0
    batches = []
    for rows in (slice(0, 1), slice(1, 60), slice(60, 90)):
        mine = {"y": torch.tensor(y[rows]), "covered": torch.tensor(covered[rows]), "count": len(y[rows])}
        batches.append((Output(*[torch.tensor(logits[rows])] * 2), mine))
    found = measured(task, batches)
    true, mine = y * covered, said * covered
    f1 = {
        (kind, of): f1_of_sets(true[:, at], mine[:, at], average=kind, zero_division=0)
        for kind in ("micro", "macro")
        for of, at in PARTS
    }
    assert {n: found[f"f1_{n[0]}_{n[1]}"] for n in f1} == pytest.approx(f1)
    assert found["harmonic"] == pytest.approx(2 / (1 / f1["micro", "old"] + 1 / f1["micro", "new"]))
    assert (found["labels_old"], found["labels_new"]) == (true[:, :3].sum(), true[:, 3:].sum())
    assert found["f1_micro"] == pytest.approx(f1_of_sets(true, mine, average="micro"))
    assert found["exact_match"] == pytest.approx((true == mine).all(1).mean())
    assert found["label_accuracy"] == pytest.approx(accuracy_score(y[covered], said[covered]))
    ranked = [
        average_precision_score(y[covered[:, i], i], logits[covered[:, i], i]) for i in range(5) if true[:, i].any()
    ]
    assert found["map"] == pytest.approx(np.mean(ranked), rel=1e-6)


PARTS = (("old", slice(3)), ("new", slice(3, None)))


def test_scores_of_new_labels_alone() -> None:
    y = torch.tensor([[0, 0, 0, 1, 0]])
    batch = {"y": y, "covered": torch.tensor([[False] * 3 + [True] * 2]), "count": 1}
    logits: Tensor = torch.tensor([[3.0, 3.0, -1.0, 1.0, 1.0]])
    found = measured(make_task(SETS), [(Output(logits, logits), batch)])
    assert found["f1_micro_new"] == pytest.approx(2 / 3) and "f1_micro_old" not in found and "harmonic" not in found
