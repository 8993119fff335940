"""The pretrained networks of all cases, and one launch of two processes for all that is compared with them."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a pretrained network for each case."""
    from tests.exactness.cases import CASES, folder_of

    folder = tmp_path_factory.mktemp("exactness")
    for case in CASES:
        folder_of(case, folder)
    return folder


@pytest.fixture(scope="session")
def together(root: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """Results of two processes: `together("train", case, variant, kind, accumulate)` for both ranks."""
    from tests.exactness.jobs import FAST
    from tests.exactness.two_processes import Together

    return Together(root, tmp_path_factory.mktemp("two_processes"), FAST)


@pytest.fixture(scope="session")
def together_slow(root: Path, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """As `together`, for what only `make test-all` compares."""
    from tests.exactness.jobs import SLOW
    from tests.exactness.two_processes import Together

    return Together(root, tmp_path_factory.mktemp("two_processes_slow"), SLOW)
