"""Runs that several tests export, made once, and their comparisons, done by one fresh process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sft_lightning.export.formats import FORMATS, NEW, SOURCE
from sft_lightning.export.parity import Case, answer_elsewhere
from sft_lightning.export.tuned import Tuned, open_run
from sft_lightning.export.writing import case_of
from tests.export.cases import CASES, make_run


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="package")
def tuned(root: Path) -> Callable[[str], Tuned]:
    """`tuned(name)`: a finished run of a case, read back; made once."""
    made: dict[str, Tuned] = {}

    def get(name: str) -> Tuned:
        if name not in made:
            made[name] = open_run(make_run(name, root))
        return made[name]

    return get


def write(name: str, tuned: Tuned, root: Path) -> Case:
    """A case's export, without a comparison."""
    case = CASES[name]
    heads = (NEW, SOURCE) if case.heads == "both" else (NEW,)
    folder, inputs = root / "folders" / name, root / "inputs" / name
    folder.mkdir(parents=True)
    inputs.mkdir(parents=True)
    made = FORMATS[case.format]()
    assert not made.why_not(tuned.network)
    made.write(tuned, folder, heads, adapters=False)
    return case_of(tuned, made, folder, heads, inputs)


FEW = ("classification-mlp", "classification-bert", "classification-timm")
"""Cases that every test run compares"""


@pytest.fixture(scope="package")
def few(root: Path, tuned: Callable[[str], Tuned]) -> dict[str, Case]:
    """The comparisons of FEW."""
    return answered(FEW, root, tuned)


def answered(names: tuple[str, ...], root: Path, tuned: Callable[[str], Tuned]) -> dict[str, Case]:
    """The named cases, answered by other libraries in one fresh process."""
    cases = {name: write(name, tuned(name), root) for name in names}
    answer_elsewhere(list(cases.values()))
    return cases
