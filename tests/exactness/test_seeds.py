"""One seed gives one run, bit for bit; another gives another head and another order; the subset has a seed of its own."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything

from tests.exactness.cases import CASES
from tests.exactness.jobs import every
from tests.exactness.training import Run, Tensors, train


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`seed_everything` leaves the seed in the environment."""
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")


def seeded(case: str, variant: str, root: Path, seed: int, **settings: Any) -> Run:
    """A run with this seed for everything, and dropout."""
    seed_everything(seed, workers=True, verbose=False)
    return train(case, variant, root, "float32", dropout=0.1, seed=None, data={"seed": None}, **settings)


def different(one: Tensors, other: Tensors) -> list[str]:
    assert one.keys() == other.keys()
    return [n for n, v in one.items() if not torch.equal(v, other[n])]


@every("seeds")
def test_one_seed_gives_the_same_bits_and_another_gives_another_run(root: Path, case: str, variant: str) -> None:
    first, again = (seeded(case, variant, root, 0, validate=True) for _ in range(2))
    for number, (one, other) in enumerate(zip(first.steps, again.steps, strict=True), 1):
        assert one.rows == other.rows, f"step {number}: other samples, or in another order"
        for what in ("before", "unclipped", "clipped", "after"):
            differ = different(getattr(one, what), getattr(other, what))
            assert not differ, f"step {number}: two runs of one seed have other bits in {what} of {differ}"
        assert one.logged == other.logged, f"step {number}: two runs of one seed log something else"
    assert first.metrics.keys() == again.metrics.keys()
    unequal = [k for k, v in first.metrics.items() if again.metrics[k] != v and not math.isnan(v)]
    assert not unequal, f"two runs of one seed measure other {unequal}"
    assert any(k.startswith("val/") for k in first.metrics)

    third = seeded(case, variant, root, 1, max_steps=1)
    assert third.steps[0].rows != first.steps[0].rows, "another seed gives the same order of samples"
    new = different(third.steps[0].before, first.steps[0].before)
    if CASES[case].new_head:
        assert any(name.startswith("head.") for name in new), "another seed gives the same new head"
    pretrained = [n for n in new if n in first.module.network.shared_parameters()]
    assert not pretrained, f"the seed changes the pretrained weights {pretrained}"
    assert different(third.steps[0].clipped, first.steps[0].clipped), "another seed gives the same gradient"


SUBSETS = [(case, {"train_fraction": 0.5}) for case in CASES]
SUBSETS += [(case, {"shots_per_class": 3}) for case in CASES if CASES[case].task == "classification"]


@pytest.mark.parametrize(("case", "subset"), SUBSETS, ids=lambda v: v if isinstance(v, str) else next(iter(v)))
def test_the_labelled_subset_depends_on_its_own_seed_alone(case: str, subset: dict[str, Any]) -> None:
    def rows(seed: int | None, subset_seed: int, everything: int) -> tuple[list[int], list[int]]:
        seed_everything(everything, workers=True, verbose=False)
        data = CASES[case].data(sizes=(40, 21, 21), seed=seed, subset_seed=subset_seed, **subset)
        data.setup()
        return data.splits["train"].rows.tolist(), data.splits["val"].rows.tolist()

    wanted, val = rows(0, 0, 0)
    assert len(wanted) < 40
    for seed, everything in ((0, 1), (1, 0), (None, 2)):
        assert rows(seed, 0, everything)[0] == wanted, "another seed than the subset's gives another subset"
    assert rows(0, 1, 0)[0] != wanted, "another subset_seed gives the same subset"
    assert rows(0, 1, 0)[1] == val, "the subset's seed changes the validation samples"
