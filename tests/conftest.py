"""Fixtures for all tests: one thread, and one pretrained net for the whole session."""

import logging
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401  sets its loggers up, before they are quietened
import pytest
import torch

from tests.exactness import figures
from tests.survival.zygote import Zygote

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
"""Of Chromium, for a machine without a screen"""

torch.set_num_threads(1)
os.fsync = lambda _: None  # type: ignore[assignment]  # what a test writes need not survive a power cut
for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an MLP (64-24-16-5) pretrained on the digits 0 to 4."""
    from tests.support import pretrained_mlp

    return _pretrain(pretrained_mlp(None), tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="session")
def pretrained_norms(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a NormNet (BatchNorm, Dropout, LayerNorm) pretrained on the digits 0 to 4."""
    from sft_lightning.networks import spec
    from tests.support import NormNet

    return _pretrain(spec(NormNet), tmp_path_factory.mktemp("pretrained_norms"))


def _pretrain(network: dict[str, Any], folder: Path) -> str:
    from sft_lightning.modules import PlainSFT
    from tests.support import OLD, digits, fit

    module = PlainSFT(network, lr=5e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, digits(OLD), max_epochs=3)
    assert module.network is not None
    module.network.save_pretrained(str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """A process that has imported everything, to fork others from."""
    made = Zygote()
    yield made
    made.close()


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks all but each n-th case of a test that is marked `one_in(n)` as slow."""
    cases: Counter[str] = Counter()
    for item in items:
        chosen = item.get_closest_marker("one_in")
        if chosen is not None:
            name = item.nodeid.partition("[")[0]
            if cases[name] % chosen.args[0]:
                item.add_marker(pytest.mark.slow)
            cases[name] += 1


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Counts outcomes by file, for docs/exactness.md."""
    if report.when == "call" or report.outcome != "passed":
        figures.outcome(report.nodeid.partition("::")[0], report.outcome)


def pytest_sessionfinish() -> None:
    """Figures that tests noted go to the file of SFT_EXACTNESS_RESULTS, if set; see tests/exactness/figures.py."""
    figures.write()
