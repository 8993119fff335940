"""What is run in one process and in two."""

from tests.exactness.cases import CASES, PAIRS, STAGED
from tests.exactness.two_processes import Job

SIZES = (1, 5, 21)
HOW = ("validate", "fit", "test", "predict")
ACCUMULATE = (2, 4, 8)

SHARDED = ("images", "gpt2", "images with adapters")
"""Cases whose networks are sharded in `make test` too: one without blocks, one with two and tied tensors, one with adapters"""

LIMITED = [(case, how, limit) for case in SHARDED for how, limit in (("validate", 2), ("fit", 0.5))]
"""Case, how, and a limit in batches of 4 or as a share"""

FAST: list[Job] = [
    *(("train", case, variant, "float64", 2, "fsdp2") for case, variant in [*PAIRS, *STAGED] if case in SHARDED),
    *(("measure", case, 5, how, "fsdp2") for case in SHARDED for how in HOW),
    *((job, strategy) for job in ("norms", "mixed", "stages") for strategy in ("ddp", "fsdp2")),
    ("mixed", "ddp", "32-true"),
    *(("saved", strategy, "32-true") for strategy in ("ddp", "fsdp2")),
    *(("train", case, variant, "float64", 4) for case, variant in [*PAIRS, *STAGED]),
    *(("measure", case, rows, how) for case in CASES for rows in SIZES for how in HOW),
    *(("limited", case, how, limit) for case, how, limit in LIMITED),
    ("limited", SHARDED[0], "test", 0.5, "fsdp2"),
]
MEASURED = [(case, rows) for case in CASES for rows in SIZES if rows != 5 or case not in SHARDED]

SLOW: list[Job] = [
    *(("train", case, variant, "float64", 2, "fsdp2") for case, variant in PAIRS if case not in SHARDED),
    *(("train", case, variant, "float32", 4, "fsdp2") for case, variant in PAIRS),
    *(("measure", case, rows, how, "fsdp2") for case, rows in MEASURED for how in HOW),
    *(("saved", strategy, precision) for strategy in ("ddp", "fsdp2") for precision in ("bf16-true", "64-true")),
    *(
        ("train", case, variant, kind, accumulate)
        for case, variant in PAIRS
        for kind, splits in (("float64", (1, 2, 8)), ("float32", (1, 2, 4, 8)))
        for accumulate in splits
    ),
]
