"""The order of samples, and how it is shared out over micro-batches and ranks."""

import itertools

import numpy as np
import pytest

from sft_lightning.data.sampler import GlobalBatches, Key, micro_batch_size
from tests.refused import refused
from tests.support import Recorder, digits, fit, make

SPLITS = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (1, 8), (8, 1), (2, 4)]  # ranks, micro-batches a step
SIZES = [1, 5, 7, 8, 16, 21, 100]
LENGTHS = np.random.default_rng(0).integers(1, 60, size=100)


def joined(lists: list[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


def samplers(size: int, ranks: int, accumulate: int, batch: int = 8, epoch: int = 0, **settings: object) -> list:
    micro = micro_batch_size(batch, ranks, accumulate)
    made = [
        GlobalBatches(size, micro, accumulate, r, ranks, **{"shuffle": True, "seed": 3, **settings})
        for r in range(ranks)
    ]
    for sampler in made:
        sampler.set_epoch(epoch)
    return made


def steps(size: int, ranks: int, accumulate: int, **settings: object) -> list[list[int]]:
    """The real samples of each optimizer step, over all its micro-batches and ranks."""
    found: list[list[int]] = []
    for ranks_at_once in itertools.zip_longest(*samplers(size, ranks, accumulate, **settings)):
        found.append([k.position for keys in ranks_at_once for k in keys if k.real])
    return [joined(found[i : i + accumulate]) for i in range(0, len(found), accumulate)]


@pytest.mark.parametrize("lengths", [False, True], ids=["", "by length"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
@pytest.mark.parametrize(("ranks", "accumulate"), SPLITS)
@pytest.mark.parametrize("size", SIZES)
def test_an_epoch_has_every_sample_once_and_ranks_stay_in_step(
    size: int, ranks: int, accumulate: int, shuffle: bool, lengths: bool
) -> None:
    grouped = LENGTHS[:size] if lengths else None
    parts = [list(s) for s in samplers(size, ranks, accumulate, shuffle=shuffle, lengths=grouped)]
    seen = sorted(k.position for part in parts for keys in part for k in keys if k.real)
    assert seen == list(range(size)), "a sample is missing or comes twice"
    assert len({len(part) for part in parts}) == 1, (
        f"ranks have {[len(p) for p in parts]} micro-batches: DDP would hang"
    )
    assert len(parts[0]) == len(samplers(size, ranks, accumulate, shuffle=shuffle, lengths=grouped)[0])
    for keys in itertools.chain(*parts):
        fillers = [k for k in keys if not k.real]
        assert keys and (not fillers or len(keys) == 1), "a filler only stands where there is nothing else"
        assert len(keys) <= 8 // (ranks * accumulate)
    if size % 8 == 0:
        assert all(k.real for part in parts for keys in part for k in keys), "fillers in an epoch that divides"


@pytest.mark.parametrize("lengths", [False, True], ids=["", "by length"])
@pytest.mark.parametrize("size", SIZES)
def test_optimizer_steps_hold_the_same_samples_however_the_work_is_split(size: int, lengths: bool) -> None:
    grouped = LENGTHS[:size] if lengths else None
    whole = [sorted(s) for s in steps(size, 1, 1, lengths=grouped, epoch=2)]
    for ranks, accumulate in SPLITS:
        split = [sorted(s) for s in steps(size, ranks, accumulate, lengths=grouped, epoch=2)]
        assert split == whole, f"{ranks} ranks × {accumulate} micro-batches train on other batches"


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["", "by length"])
def test_the_order_depends_on_seed_and_epoch_alone(lengths: np.ndarray | None) -> None:
    orders = {
        (seed, epoch): steps(100, 1, 1, seed=seed, epoch=epoch, lengths=lengths) for seed in (0, 1) for epoch in (0, 1)
    }
    assert orders[0, 1] == steps(100, 1, 1, seed=0, epoch=1, lengths=lengths)
    for one, other in itertools.combinations(orders, 2):
        assert orders[one] != orders[other], f"(seed, epoch) {one} and {other} give one order"


def test_without_shuffling_samples_come_as_they_lie_in_every_epoch() -> None:
    for epoch in (0, 1):
        assert joined(steps(21, 1, 1, shuffle=False, epoch=epoch)) == list(range(21))


def test_batches_by_length_hold_samples_of_like_length_and_the_short_one_comes_last() -> None:
    batches = steps(100, 1, 1, lengths=LENGTHS)
    spread = np.mean([np.ptp(LENGTHS[b]) for b in batches])
    assert spread < 0.3 * np.mean([np.ptp(LENGTHS[b]) for b in steps(100, 1, 1)])
    assert [len(b) for b in batches] == [8] * 12 + [4]
    longest = [LENGTHS[b].max() for b in batches]
    assert longest != sorted(longest, reverse=True), "the batches come sorted by length"


def test_a_filler_names_a_sample_of_its_own_step() -> None:
    first, second = (list(s) for s in samplers(9, 2, 1))
    assert [len(k) for k in first] == [4, 1] and [k.real for k in second[1]] == [False]
    assert second[1][0].position == first[1][0].position


def test_keys_carry_the_epoch() -> None:
    (sampler,) = samplers(5, 1, 1, epoch=4)
    assert next(iter(sampler))[0] == Key(next(iter(sampler))[0].position, 4, True)


@pytest.mark.parametrize(
    ("batch", "ranks", "accumulate", "values"),
    [
        (12, 8, 1, ("8 ranks", "trainer.accumulate_grad_batches 1", "= 8", "use 16")),
        (10, 1, 4, ("1 rank ", "trainer.accumulate_grad_batches 4", "= 4", "use 8")),
        (2, 4, 2, ("4 ranks", "trainer.accumulate_grad_batches 2", "= 8", "use 8")),
        (0, 1, 1, ("at least 1",)),
    ],
)
def test_a_batch_size_that_does_not_divide_is_refused_with_one_that_does(
    batch: int, ranks: int, accumulate: int, values: tuple[str, ...]
) -> None:
    with refused("data.batch_size", batch, *values):
        micro_batch_size(batch, ranks, accumulate)


def test_lightning_tells_the_sampler_the_epoch_and_the_seed_reaches_the_order(pretrained: str) -> None:
    orders = {}
    for seed in (0, 1):
        recorder = Recorder()
        data = digits(shots_per_class=8, seed=seed)
        fit(make("plain", pretrained), data, max_epochs=2, callbacks=[recorder])
        rows = [b["index"].tolist() for b in recorder.batches]
        orders[seed] = joined(rows[:3]), joined(rows[3:])
        assert sorted(orders[seed][0]) == sorted(orders[seed][1]) == data.splits["train"].rows.tolist()
        assert orders[seed][0] != orders[seed][1], "both epochs have one order"
    assert orders[0][0] != orders[1][0], "the data's seed does not change the order"
