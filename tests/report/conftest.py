"""`compare` in this process, a study on disk, and its page; a browser where the system has one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sft_lightning.cli.compare import main
from tests.report.written import write_study


@dataclass
class Said:
    """What one `compare` printed."""

    code: int
    out: str
    err: str

    @property
    def notes(self) -> list[str]:
        return [line.removeprefix("note: ") for line in self.err.splitlines() if line.startswith("note: ")]


Compare = Callable[..., Said]


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Compare:
    """`compare(path, "--format", "csv")` runs the command."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study: five arms, two cells, three seeds."""
    return write_study(tmp_path_factory.mktemp("studies") / "digits")


@pytest.fixture(scope="session")
def page_file(study: Path) -> Path:
    """The study's page."""
    path = study.parent / "report.html"
    assert main([str(study), "--html", str(path), "--format", "csv"]) == 0
    return path
