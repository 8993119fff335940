"""Packages whose `__init__` waits until something of it is used."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from sft_lightning.core.waiting import PACKAGES, Finder


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package with a light module, a module that `__init__` alone imports, and a finder that makes it wait."""
    folder = tmp_path / "waits_here"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from waits_here.light import Light\nfrom waits_here.heavy import Heavy\n__all__ = ['Heavy', 'Light']\n"
    )
    (folder / "light.py").write_text("class Light: ...\n")
    (folder / "heavy.py").write_text("from waits_here.light import Light\nclass Heavy(Light): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [Finder({"waits_here": {"Light": "waits_here.light"}}), *sys.meta_path])
    yield "waits_here"
    for name in [n for n in sys.modules if n.partition(".")[0] == "waits_here"]:
        del sys.modules[name]


def test_light_names_and_modules_do_not_run_the_init(package: str) -> None:
    held, light = import_module(package), import_module(f"{package}.light")
    assert held.Light is light.Light
    assert not hasattr(held, "__wrapped__")
    assert f"{package}.heavy" not in sys.modules


def test_any_other_name_runs_it_and_classes_stay_the_same(package: str) -> None:
    held = import_module(package)
    light = held.Light
    assert issubclass(held.Heavy, light) and held.Light is light
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = held.nothing


def test_a_star_import_and_dir_see_all_names(package: str) -> None:
    names: dict[str, object] = {}
    exec(f"from {package} import *", names)
    assert "Heavy" in names and "Heavy" in dir(import_module(package))


def test_an_init_that_fails_says_so_each_time(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "heavy.py").write_text("raise ImportError('no such library')\n")
    held = import_module(package)
    for _ in range(2):
        with pytest.raises(ImportError, match="no such library"):
            _ = held.Heavy


@pytest.mark.parametrize("package", PACKAGES)
def test_light_names_are_those_of_the_package_itself(package: str) -> None:
    real = import_module(package)
    for name, home in PACKAGES[package].items():
        assert (getattr(import_module(home), name) if isinstance(home, str) else home) == getattr(real, name)
