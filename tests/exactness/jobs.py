"""What is run in one process and in two."""

from tests.exactness.cases import CASES, PAIRS
from tests.exactness.two_processes import Job

SIZES = (1, 5, 21)
HOW = ("validate", "fit", "test", "predict")
ACCUMULATE = (2, 4, 8)

FAST: list[Job] = [
    *(("train", case, variant, "float64", 4) for case, variant in PAIRS),
    *(("measure", case, rows, how) for case in CASES for rows in SIZES for how in HOW),
]
SLOW: list[Job] = [
    ("train", case, variant, kind, accumulate)
    for case, variant in PAIRS
    for kind, splits in (("float64", (1, 2, 8)), ("float32", (1, 2, 4, 8)))
    for accumulate in splits
]
