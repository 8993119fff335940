"""Imports point one way: `scripts/imports` says so of this package, and would say otherwise of another."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "imports"


def said_of(root: Path) -> tuple[int, str]:
    done = subprocess.run([sys.executable, root / "scripts" / "imports"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def made(root: Path, **files: str) -> Path:
    """A package of these files, with the script beside it."""
    (root / "scripts").mkdir(parents=True)
    known = SCRIPT.read_text().partition("KNOWN_CIRCLES = ")
    (root / "scripts" / "imports").write_text(f"{known[0]}KNOWN_CIRCLES = []\n{known[2].partition(chr(10))[2]}")
    for name, text in files.items():
        path = root / "sft_lightning" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_imports_make_no_new_circle_and_point_downwards() -> None:
    code, said = said_of(ROOT)
    assert code == 0, f"see the list of layers in scripts/imports:\n{said}"


def test_a_circle_is_found_by_way_of_functions_and_of_type_checking_too(tmp_path: Path) -> None:
    late = "def f():\n    from sft_lightning.core import b\n"
    typing = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from sft_lightning.core.a import X\n"
    code, said = said_of(made(tmp_path, core__a=late, core__b=typing))
    assert code == 1
    assert "circle     core.a, core.b" in said


def test_an_import_from_a_higher_layer_is_found(tmp_path: Path) -> None:
    low, high = "import sft_lightning.cli.fit\n", "from sft_lightning.core.a import X\n"
    code, said = said_of(made(tmp_path / "one", core__a=low, cli__fit=""))
    assert (code, "upward     core.a imports cli.fit" in said) == (1, True)
    assert said_of(made(tmp_path / "two", core__a="", cli__fit=high))[0] == 0
    session, record = "from sft_lightning.runs.session import X\n", "from sft_lightning.runs.record import X\n"
    code, said = said_of(
        made(tmp_path / "three", callbacks__a=session, callbacks__b=record, runs__session="", runs__record="")
    )
    assert (code, said.count("upward")) == (1, 1)


def test_a_new_package_needs_a_layer(tmp_path: Path) -> None:
    code, said = said_of(made(tmp_path, attic__a=""))
    assert (code, "no layer   attic.a" in said) == (1, True)
