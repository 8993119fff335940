"""`compare` in this process, a study on disk, and its page; a browser where the system has one."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.cli.compare import main
from tests.report.written import write_study

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


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


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium, driven by playwright; the test is skipped where the system has none."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = [os.environ.get("SFT_CHROMIUM", "chromium"), "chromium-browser", "google-chrome"]
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this system: scripts/setup-browser installs it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()
