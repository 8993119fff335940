"""What is installed is what was locked: every requirement with its hashes, and no release that is known to be bad."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.version import Version

from tests.cli.conftest import ROOT

LOCK = (ROOT / "requirements-lock.txt").read_text()


def locked() -> dict[str, str]:
    """Name to the whole entry."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", LOCK, flags=re.MULTILINE).strip())
    return {re.split(r"[=<>@\s\[]", entry)[0]: entry for entry in entries}


def floors() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {r.name: r for r in map(Requirement, project["dependencies"])}


def test_every_locked_requirement_has_one_version_and_hashes() -> None:
    entries = locked()
    assert {"torch", "lightning", "transformers", "wandb", "pytest"} <= set(entries) and len(entries) > 50
    for name, entry in entries.items():
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+", entry), f"{name} is locked to no single version: {entry[:80]}"
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry), f"{name} has no hash: run make lock"


def test_setup_installs_nothing_without_its_hash() -> None:
    (line,) = [x for x in (ROOT / "scripts/setup").read_text().splitlines() if "-r requirements-lock.txt" in x]
    assert "--require-hashes" in line


def test_the_floors_that_security_set_are_kept() -> None:
    """lightning 2.6.2 and 2.6.3 were compromised; before torch 2.6 a pickle was unpickled whole."""
    for name, refused, least in (
        ("lightning", ("2.6.1", "2.6.2", "2.6.3", "2.6.5"), "2.6.6"),
        ("torch", ("2.5.1",), "2.6.0"),
        ("datasets", ("3.6.0",), "4.0.0"),
    ):
        allowed = floors()[name].specifier
        for version in refused:
            assert not allowed.contains(version), f"pyproject.toml allows {name} {version}"
        version = re.match(rf"{name}==([\w.+]+)", locked()[name])
        assert version is not None and Version(version[1]) >= Version(least), f"{name} is locked below {least}"


def test_make_audit_looks_all_of_them_up() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile[makefile.index("\naudit:") :]
    for word in ("## ", "pip-audit@", "requirements-lock.txt", "--require-hashes", "--strict"):
        assert word in recipe, f"make audit lacks {word}: without --strict, what cannot be looked up passes for safe"
