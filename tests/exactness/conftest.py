"""The pretrained networks of all cases, and one launch of two processes for all that is compared with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.survival.zygote import Zygote


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a pretrained network for each case."""
    from tests.exactness.cases import CASES, folder_of

    folder = tmp_path_factory.mktemp("exactness")
    for case in CASES:
        folder_of(case, folder)
    return folder


class Results:
    """What two processes did: one launch for what `make test` compares, another for the rest, each at its first question."""

    def __init__(self, root: Path, place: Callable[[str], Path], zygote: Zygote) -> None:
        self._root, self._place, self._zygote, self._launched = root, place, zygote, dict[str, Any]()

    def __call__(self, *job: Any) -> list[Any]:
        from tests.exactness.jobs import FAST, SLOW
        from tests.exactness.two_processes import Together

        name, jobs = ("fast", FAST) if job in FAST else ("slow", SLOW)
        if name not in self._launched:
            try:
                self._launched[name] = Together(self._root, self._place(f"two_processes_{name}"), jobs, self._zygote)
            except Exception as error:  # once: each test that asks fails with the same reason
                self._launched[name] = error
        if isinstance(self._launched[name], Exception):
            raise self._launched[name]
        return list(self._launched[name](*job))


@pytest.fixture(scope="session")
def together(root: Path, tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Results:
    """Results of two processes: `together("train", case, variant, kind, accumulate)` for both ranks."""
    return Results(root, tmp_path_factory.mktemp, zygote)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one case and variant run one after another, so that few trainings that tests share are held at a time."""
    places = [n for n, item in enumerate(items) if _trained(item) is not None]
    ordered = sorted((items[n] for n in places), key=_trained)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def _trained(item: pytest.Item) -> tuple[str, str] | None:
    """The case and variant that a test of this folder trains."""
    given = getattr(item, "callspec", None)
    if (
        given is None
        or not item.path.is_relative_to(Path(__file__).parent)
        or not {"case", "variant"} <= given.params.keys()
    ):
        return None
    return str(given.params["case"]), str(given.params["variant"])
