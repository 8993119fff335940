"""Which samples an evaluation measures, as plain numbers: no network, no data set."""

from types import SimpleNamespace

import numpy as np
import pytest

from sft_lightning.data.drawn import EvenBatches, Taken, draw, limit_of, number_of, take_limit


def rows_of(rank: int, ranks: int, micro: int, **settings: object) -> tuple[list[int], list[int]]:
    """(samples measured, samples compared) of one rank, fillers left out."""
    keys = [k for batch in EvenBatches(3000, micro, rank, ranks, **settings) for k in batch if k.real]  # type: ignore[arg-type]
    return [k.position for k in keys], [k.position for k in keys if k.compared]


@pytest.mark.parametrize("number", [1, 20, 1024, 2999])
def test_a_draw_is_even_over_the_split_and_part_of_every_larger_draw(number: int) -> None:
    drawn = draw(3000, number)
    assert len(set(drawn.tolist())) == number and (np.diff(drawn) > 0).all(), "not ascending, or a row twice"
    assert set(drawn) <= set(draw(3000, min(3000, number * 2))), "a larger draw leaves out rows of a smaller one"
    if number > 1000:
        thirds = np.histogram(drawn, bins=3, range=(0, 3000))[0] / number
        assert np.abs(thirds - 1 / 3).max() < 0.05, f"shares of the first, middle and last third: {thirds}"


@pytest.mark.parametrize(("micro", "ranks"), [(1, 1), (7, 1), (64, 1), (5000, 1), (32, 2), (7, 3)])
def test_the_samples_measured_do_not_depend_on_batches_ranks_or_lengths(micro: int, ranks: int) -> None:
    by_length = np.arange(3000)[::-1]
    for lengths in (None, by_length):
        parts = [rows_of(r, ranks, micro, number=500, compared=100, lengths=lengths) for r in range(ranks)]
        measured, compared = (sorted(row for p in parts for row in p[i]) for i in (0, 1))
        assert measured == draw(3000, 500).tolist(), "other samples are measured"
        assert compared == draw(3000, 100).tolist(), "student and teacher are compared on other samples"
        sampler = EvenBatches(3000, micro, number=500, compared=100, lengths=lengths)  # type: ignore[arg-type]
        batches = list(sampler)
        assert len(sampler) == len(batches)
        assert all(len({k.compared for k in batch}) == 1 for batch in batches), "a batch is compared in part"


def test_a_limit_is_so_many_batches_of_all_ranks_or_a_share_of_the_split() -> None:
    assert [number_of(limit, 359, 16) for limit in (1, 3, 100)] == [16, 48, 359]
    assert [number_of(limit, 359, 16) for limit in (0.001, 0.5, 1.0)] == [1, 180, 359]


def test_a_limit_that_was_taken_over_is_still_known_and_lightning_takes_all_batches() -> None:
    trainer = SimpleNamespace(limit_val_batches=0.25, limit_test_batches=0)
    assert [take_limit(trainer, "val") for _ in range(2)] == [0.25, 0.25]
    assert trainer.limit_val_batches == 1.0 and isinstance(trainer.limit_val_batches, Taken)
    assert limit_of(trainer, "val") == 0.25
    assert take_limit(trainer, "test") == 0 and trainer.limit_test_batches == 0, "0 must go on to mean no testing"
