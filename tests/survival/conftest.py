"""One process to fork others from, for all tests that kill."""

from collections.abc import Iterator

import pytest

from tests.cli.conftest import command
from tests.survival.zygote import Zygote

__all__ = ["command", "zygote"]


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()
