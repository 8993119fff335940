"""The split of the work changes neither gradients nor weights: any variant, any task, any number of micro-batches and ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tests.exactness import figures
from tests.exactness.cases import CASES, IN_PARTS, PAIRS, case_of
from tests.exactness.jobs import ACCUMULATE, SHARDED, every
from tests.exactness.training import (
    CLIP,
    ROWS,
    TRAINING,
    Step,
    by_hand,
    error,
    in_one_piece,
    length,
    real_rows,
    rounding,
    train,
    without_key_biases,
)
from tests.support import Scaled

EVERY = pytest.mark.parametrize(("case", "variant"), PAIRS)
ADAMW_IN_SINGLE = "float32, AdamW"
LOG_P = {"float64": 1e-12, "float32": 2**-22}
"""The last bit of a log-probability, of which a divergence that is nearly 0 is a difference"""


def check(found: list[Step], expected: list[Step], kind: str, split: str, case: str) -> None:
    """Gradients before and after clipping, and weights, after each optimizer step."""
    shifts = case_of(case).shifts if kind != "float64" else ()
    assert len(found) == len(expected), f"{len(found)} optimizer steps with {split}, {len(expected)} in one piece"
    bound = TRAINING[kind][1]
    for number, (one, other) in enumerate(zip(found, expected, strict=True), 1):
        held = kind != ADAMW_IN_SINGLE or number == 1
        for what, attribute in (
            ("gradient", "unclipped"),
            ("clipped gradient", "clipped"),
            ("weights", "after"),
        ):
            off, name = error(getattr(one, attribute), getattr(other, attribute), shifts)
            figures.note(f"{what}, {split}, {kind}", off, "relative")
            if kind == ADAMW_IN_SINGLE and what == "weights":
                zero = rounding(other.unclipped)
                kept = [{n: t for n, t in step.after.items() if n not in zero} for step in (one, other)]
                off, _ = error(*map(without_key_biases, kept))
                figures.note(f"weights without keys' biases, {split}, {kind}", off, "relative")
            elif held:
                assert off <= bound, f"step {number}: {what} of {name} off by {off:.1e} with {split} in {kind}"


def merged(ranks: list[list[dict[str, Any]]]) -> list[Step]:
    """The steps of all ranks, which must agree, with the rows of all."""
    steps = [[Step(**step) for step in rank] for rank in ranks]
    for number, (one, other) in enumerate(zip(*steps, strict=True), 1):
        for what in ("unclipped", "clipped", "after"):
            differ = [n for n, t in getattr(one, what).items() if not torch.equal(t, getattr(other, what)[n])]
            assert not differ, f"step {number}: the ranks have different {what} of {differ}"
        one.rows += other.rows
    return steps[0]


def check_rows(found: list[Step], expected: list[Step], split: str) -> None:
    for number, (one, other) in enumerate(zip(found, expected, strict=True), 1):
        assert sorted(one.rows) == sorted(other.rows), f"step {number}: other samples with {split}"


def one_process(case: str, variant: str, root: Path, kind: str, accumulate: int) -> None:
    whole, run = in_one_piece(case, variant, root, kind), train(case, variant, root, kind, accumulate)
    split = "1 process"
    check_rows(run.steps, whole.steps, f"{accumulate} micro-batches")
    check(run.steps, whole.steps, kind, split, case)


@every("single samples")
def test_each_step_is_the_mean_over_its_items_and_the_penalty_once_and_then_clipped(
    root: Path, case: str, variant: str
) -> None:
    """Against the same sum over single samples: no padding, no batches, no micro-batches."""
    run = in_one_piece(case, variant, root)
    assert [len(step.rows) for step in run.steps] == [16, 5, 16]
    for step in run.steps[:2]:
        expected = by_hand(run, step, step.rows)
        off, name = error(step.unclipped, expected.grads)
        figures.note("gradient against single samples, float64", off, "relative")
        assert off <= 1e-6, f"the gradient of {name} is off by {off:.1e} from the mean over single samples"
        assert step.logged["train/items"] == expected.items
        assert step.logged["train/loss_task"] == pytest.approx(expected.task, rel=1e-6)
        assert step.logged["train/loss_anchor"] == pytest.approx(expected.anchor, rel=1e-6)
        factor = CLIP / length(step.unclipped.values())
        assert factor < 0.5, "nothing to clip, so that clipping is not tested"
        clipped = {n: g * factor for n, g in step.unclipped.items()}
        off, name = error(step.clipped, clipped)
        assert off <= 1e-5, f"the optimizer's gradient of {name} is not the whole gradient clipped to {CLIP}"
    if variant != "plain":
        assert run.steps[0].logged["train/loss_anchor"] > 0, "the anchor is 0, so that it is not tested"


@every("micro-batches", staged=True)
@pytest.mark.parametrize("accumulate", [8, *(pytest.param(n, marks=pytest.mark.slow) for n in ACCUMULATE if n != 8)])
def test_micro_batches_change_nothing(root: Path, case: str, variant: str, accumulate: int) -> None:
    one_process(case, variant, root, "float64", accumulate)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("accumulate", ACCUMULATE)
def test_micro_batches_change_nothing_in_single_precision(root: Path, case: str, variant: str, accumulate: int) -> None:
    one_process(case, variant, root, "float32", accumulate)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("accumulate", ACCUMULATE)
def test_micro_batches_change_no_gradient_in_single_precision_with_adamw(
    root: Path, case: str, variant: str, accumulate: int
) -> None:
    one_process(case, variant, root, ADAMW_IN_SINGLE, accumulate)


@every("gradient scaler", staged=True)
def test_a_gradient_scaler_changes_nothing(root: Path, case: str, variant: str) -> None:
    """So the number of items, the penalty and clipping all come after unscaling; two micro-batches, single precision."""
    whole = in_one_piece(case, variant, root, "float32")
    run = train(case, variant, root, "float32", 2, precision=None, plugins=[Scaled()])
    check(run.steps, whole.steps, "float32", "1 process with a gradient scaler", case)


def two_processes(
    results: Any, root: Path, case: str, variant: str, kind: str, accumulate: int, *strategy: str
) -> None:
    whole = in_one_piece(case, variant, root, kind)
    steps = merged(results("train", case, variant, kind, accumulate, *strategy))
    check_rows(steps, whole.steps, f"2 processes × {accumulate} micro-batches")
    check(steps, whole.steps, kind, " ".join(["2 processes", *strategy]), case)
    logged = [{n: v for n, v in step.logged.items() if n != "train/anchor_ratio"} for step in whole.steps]
    for number, (found, expected) in enumerate(zip(steps, logged, strict=True), 1):
        near = {n: pytest.approx(v, rel=1e-4, abs=LOG_P[kind]) for n, v in expected.items()}
        off = {n: (found.logged[n], expected[n]) for n, v in near.items() if found.logged[n] != v}
        assert not off, f"step {number}: what is logged is not what one process logs: {off}"


@every("two processes", staged=True)
def test_two_processes_change_nothing(together: Any, root: Path, case: str, variant: str) -> None:
    """The ragged step's 5 rows are shared unevenly: 2 and 2, then 1 and a filler."""
    two_processes(together, root, case, variant, "float64", 4)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize(
    ("kind", "accumulate"), [*(("float64", n) for n in (1, 2, 8)), *(("float32", n) for n in (1, 2, 4, 8))]
)
def test_two_processes_change_nothing_with_any_micro_batches(
    together: Any, root: Path, case: str, variant: str, kind: str, accumulate: int
) -> None:
    two_processes(together, root, case, variant, kind, accumulate)


# ---- parameters in parts ----


@every("sharding", staged=True)
def test_sharding_changes_nothing(together: Any, root: Path, case: str, variant: str) -> None:
    """Student and teacher in two parts each, L2-SP on parts: every gradient, clipped or not, and every weight."""
    two_processes(together, root, case, variant, "float64", 2, "fsdp2")


@pytest.mark.slow
@pytest.mark.parametrize(("case", "variant"), [p for p in IN_PARTS if p[0] not in SHARDED])
def test_sharding_changes_nothing_in_any_network(together: Any, root: Path, case: str, variant: str) -> None:
    two_processes(together, root, case, variant, "float64", 2, "fsdp2")


@pytest.mark.slow
@pytest.mark.parametrize(("case", "variant"), IN_PARTS)
def test_sharding_changes_nothing_in_single_precision(together: Any, root: Path, case: str, variant: str) -> None:
    two_processes(together, root, case, variant, "float32", 4, "fsdp2")


# ---- batches by length ----


@pytest.mark.one_in(3)
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("case", [c for c in CASES if "images" not in c])
def test_grouping_by_length_keeps_the_global_batch(root: Path, case: str, grouped: bool) -> None:
    """Which samples make a step does not depend on how the step is split, and an epoch has each of them once."""
    runs = [train(case, "plain", root, accumulate=n, data={"group_by_length": grouped}) for n in (1, 2, 8)]
    for run in runs[1:]:
        check_rows(run.steps, runs[0].steps, "micro-batches")
        check(run.steps, runs[0].steps, "float64", "1 process", case)
    assert sorted(r for step in runs[0].steps[:2] for r in step.rows) == list(range(ROWS))


# ---- nothing to learn from ----


class Masked(Callback):
    """Takes all items out of an epoch's second micro-batch, and out of the whole second optimizer step."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.kept: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        rows = real_rows(batch)
        if batch_idx != 1 and not 4 <= batch_idx < 8:
            self.kept += rows
            return
        self.rows += rows
        like = batch["select"] if "select" in batch else torch.ones(len(batch["index"]), dtype=torch.bool)
        batch["select"] = torch.zeros_like(like)
        batch["y"], batch["count"] = batch["y"][:0], 0


class Losses(Callback):
    """The loss of each micro-batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.values.append(float(outputs["loss"]))


@every("nothing to learn from")
def test_a_batch_with_nothing_to_learn_from_costs_nothing(root: Path, case: str, variant: str) -> None:
    """A micro-batch whose labels are all masked, and a whole optimizer step of such."""
    masked, losses = Masked(), Losses()
    run = train(case, variant, root, accumulate=4, callbacks=[masked, losses], data={"sizes": (37, 5, 5)})
    assert losses.values[1] == 0.0, f"the loss of nothing is {losses.values[1]}"
    assert losses.values[4:8] == [0.0] * 4
    first, nothing, last = run.steps
    expected = by_hand(run, first, masked.kept[:12])
    assert first.logged["train/items"] == expected.items
    off, name = error(first.unclipped, expected.grads)
    assert off <= 1e-6, f"masked labels leave {off:.1e} in the gradient of {name}"
    assert nothing.logged["train/items"] == nothing.logged["train/loss_task"] == 0.0
    expected = by_hand(run, nothing, [])
    assert all(torch.equal(g, expected.grads[n]) for n, g in nothing.unclipped.items()), "more than the penalty is left"
    for step in run.steps:
        assert all(t.isfinite().all() for t in (*step.clipped.values(), *step.after.values()))
        assert all(v == v for v in step.logged.values()), f"NaN is logged: {step.logged}"
    assert last.logged["train/items"] > 0
