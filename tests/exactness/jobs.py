"""What is run in one process and in two, and what of it in `make test`.

Each test meets every case and every variant there, and every variant meets every case in one test at least: a pairwise cover
of tests, cases and variants. The rest of the product is marked slow, for `make test-all`.
"""

from typing import Any

import pytest

from tests.cover import pairwise
from tests.exactness.cases import CASES, IN_PARTS, PAIRS, SLOWLY_IN_PARTS, STAGED, STAGED_SLOWLY
from tests.exactness.two_processes import Job
from tests.support import VARIANTS

SIZES = (1, 5, 21)
HOW = ("validate", "fit", "test", "predict")
ACCUMULATE = (2, 4, 8)

SHARDED = ("images", "gpt2", "images with adapters")
"""Cases whose networks are sharded in `make test` too: one without blocks, one with two and tied tensors, one with adapters"""

LIMITED = [(case, how, limit) for case in SHARDED for how, limit in (("validate", 2), ("fit", 0.5))]
"""Case, how, and a limit in batches of 4 or as a share"""

TESTS = (
    *("single samples", "micro-batches", "gradient scaler", "two processes", "sharding", "nothing to learn from"),
    *("seeds", "checkpoint holds", "checkpoint gives back", "end of an epoch"),
)
"""Tests that each run over cases and variants."""
TRAINED = pairwise(
    TESTS,
    list(CASES),
    list(VARIANTS),
    allowed=lambda test, case, variant: (
        (case, variant) in (PAIRS if test != "sharding" else IN_PARTS) and (test != "sharding" or case in SHARDED)
    ),
)
"""(test, case, variant) in `make test`."""
WAYS = [(rows, how) for rows in SIZES for how in HOW]
MEASURED = [(case, *WAYS[(5 * (2 * number + k)) % len(WAYS)]) for number, case in enumerate(CASES) for k in (0, 1)]
"""(case, rows, how) in `make test`: two ways for each case, and each way for some cases. 5 has no divisor in common with 12."""
CASES_IN_PARTS = [case for case in CASES if any(case == one for one, _ in IN_PARTS)]
"""Cases that some variant accepts with parameters in parts."""
PARTS = pairwise(SHARDED, HOW)
"""(case, how) that are measured with parameters in parts in `make test`."""


def pairs_of(test: str) -> list[tuple[str, str]]:
    """The (case, variant) that a test of TESTS meets in `make test`."""
    return [(case, variant) for name, case, variant in TRAINED if name == test]


def every(test: str, staged: bool = False) -> Any:
    """Parametrizes case and variant; `staged` adds STAGED and, slowly, STAGED_SLOWLY, where a test is of how work is split."""
    quick = {*pairs_of(test), *STAGED}
    accepted = PAIRS if test != "sharding" else [pair for pair in IN_PARTS if pair[0] in SHARDED]
    slowly = STAGED_SLOWLY if test != "sharding" else SLOWLY_IN_PARTS
    rows = [*accepted, *([*STAGED, *slowly] if staged else ())]
    return pytest.mark.parametrize(("case", "variant"), [marked(row, row in quick) for row in rows])


def measured(*hows: str) -> Any:
    """Parametrizes case, rows and how."""
    rows = [(case, size, how) for how in hows for size in SIZES for case in CASES]
    return pytest.mark.parametrize(("case", "rows", "how"), [marked(row, row in MEASURED) for row in rows])


def marked(row: tuple[Any, ...], quick: bool) -> Any:
    """The row, slow where it is not in `make test`."""
    return pytest.param(*row, marks=() if quick else pytest.mark.slow)


FAST: list[Job] = [
    *(("train", case, variant, "float64", 2, "fsdp2") for case, variant in [*pairs_of("sharding"), *STAGED]),
    *(("measure", case, 5, how, "fsdp2") for case, how in PARTS),
    *((job, strategy) for job in ("norms", "mixed", "stages") for strategy in ("ddp", "fsdp2")),
    ("mixed", "ddp", "32-true"),
    *(("saved", strategy, "32-true") for strategy in ("ddp", "fsdp2")),
    *(("train", case, variant, "float64", 4) for case, variant in [*pairs_of("two processes"), *STAGED]),
    *(("measure", case, rows, how) for case, rows, how in MEASURED),
    *(("limited", case, how, limit) for case, how, limit in LIMITED),
    ("limited", SHARDED[0], "test", 0.5, "fsdp2"),
]
EVERY: list[Job] = [
    *(("train", case, variant, "float64", 2, "fsdp2") for case, variant in IN_PARTS),
    *(("train", case, variant, "float32", 4, "fsdp2") for case, variant in IN_PARTS),
    *(("measure", case, rows, how, "fsdp2") for case in CASES_IN_PARTS for rows in SIZES for how in HOW),
    *(("measure", case, rows, how) for case in CASES for rows in SIZES for how in HOW),
    *(("saved", strategy, precision) for strategy in ("ddp", "fsdp2") for precision in ("bf16-true", "64-true")),
    *(("train", case, variant, "float64", 2, "fsdp2") for case, variant in SLOWLY_IN_PARTS),
    *(("train", case, variant, "float64", 4) for case, variant in STAGED_SLOWLY),
    *(
        ("train", case, variant, kind, accumulate)
        for case, variant in PAIRS
        for kind, splits in (("float64", (1, 2, 4, 8)), ("float32", (1, 2, 4, 8)))
        for accumulate in splits
    ),
]
SLOW = [job for job in EVERY if job not in FAST]
"""What only `make test-all` asks for."""
