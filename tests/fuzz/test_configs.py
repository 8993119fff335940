"""Configurations and command lines gone wrong, in a thousand ways: success, or one line that names the cause."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given

from tests.exactness import figures
from tests.fuzz.configs import BASES, Case, cases, dumped, write_rows
from tests.fuzz.conftest import of
from tests.fuzz.runner import check, command


def holds(case: Case, folder: Path) -> None:
    """The case, in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_rows(folder)
    (folder / "config.yaml").write_bytes(case.content)
    typed = {word for flag in case.flags for word in re.findall(r"\w+", flag)}
    ended = command(folder, "fit", "--config", folder / "config.yaml", *case.flags, "--wandb", "disabled")
    check(ended, folder, {"config.yaml", *typed, *case.touched})
    figures.note("fuzzed configs: tracebacks, hangs or vague errors", 0)


@given(case=cases())
@of(40)
def test_a_few_configs(tmp_path: Path, case: Case) -> None:
    holds(case, tmp_path / "case")


@pytest.mark.slow
@given(case=cases())
@of(500)
def test_500_configs(tmp_path: Path, case: Case) -> None:
    holds(case, tmp_path / "case")


@pytest.mark.parametrize("base", sorted(BASES))
def test_what_is_mutated_was_right(tmp_path: Path, base: str) -> None:
    """Or every example would end at the same mistake."""
    write_rows(tmp_path)
    (tmp_path / "config.yaml").write_bytes(dumped(BASES[base]))
    ended = command(tmp_path, "fit", "--config", "config.yaml", "--wandb", "disabled")
    assert ended.code == 0, ended.err + ended.raised
