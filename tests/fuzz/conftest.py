"""How many examples are run: a few in every test run, all of them with the slow tests."""

import os

from hypothesis import HealthCheck, Phase, settings

COMMON = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
    "print_blob": True,
}


def of(examples: int) -> settings:
    """The same examples each time; others with SFT_FUZZ_MORE, which says how many times as many."""
    more = int(os.environ.get("SFT_FUZZ_MORE", "0"))
    return settings(max_examples=examples * max(1, more), derandomize=not more, **COMMON)
