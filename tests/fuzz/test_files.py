"""Data, weights and runs gone wrong: success, or one line that names the file."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given

from tests.exactness import figures
from tests.fuzz.conftest import of
from tests.fuzz.files import SUBJECTS, Case, apply, cases, make_all
from tests.fuzz.runner import check, command

_made: list[Path] = []


def subjects(folder: Path) -> Path:
    """Every subject as it should be, made once."""
    if not _made:
        folder.mkdir(parents=True)
        make_all(folder)
        _made.append(folder)
    return _made[0]


def holds(case: Case, folder: Path) -> None:
    """The case, in a folder of its own."""
    source = subjects(folder.parent / "subjects") / case.subject
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, symlinks=True)
    for file, edit in case.edits:
        apply(folder / file, edit)
    names = {part for file, _ in case.edits for part in (Path(file).name, Path(file).parent.name)}
    check(command(folder, *case.arguments, "--wandb", "disabled"), folder, names)
    figures.note("fuzzed files: tracebacks, hangs or vague errors", 0)


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@given(case=cases())
@of(24)
def test_a_few_files(place: Path, case: Case) -> None:
    holds(case, place / "case")


@pytest.mark.slow
@given(case=cases())
@of(200)
def test_200_files(place: Path, case: Case) -> None:
    holds(case, place / "case")


@pytest.mark.parametrize("subject", sorted(SUBJECTS))
def test_what_is_damaged_was_right(place: Path, subject: str) -> None:
    """Or every example would end at the same mistake."""
    source = subjects(place / "subjects") / subject
    for i, arguments in enumerate(SUBJECTS[subject][2]):
        folder = place / f"{subject}-{i}"
        shutil.copytree(source, folder, symlinks=True)
        ended = command(folder, *arguments, "--wandb", "disabled")
        assert ended.code == 0, ended.err + ended.raised
