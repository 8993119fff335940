"""The Dockerfile's lines, checked without docker: what it copies is there, and what it runs works here.

`docker build` itself is not run: it needs docker and the network.
"""

import json
import re
import tomllib
from pathlib import Path

import pytest

from sft_lightning.cli.main import COMMANDS
from sft_lightning.cli.serve import NEEDED, make_parser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def lines() -> list[tuple[str, str]]:
    """(instruction, its arguments) of each line."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found = [line.partition(" ")[::2] for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(name, rest.strip()) for name, rest in found]


def of(lines: list[tuple[str, str]], name: str) -> list[str]:
    return [rest for instruction, rest in lines if instruction == name]


def test_it_knows_only_instructions_that_docker_has_and_begins_from_a_supported_python(
    lines: list[tuple[str, str]],
) -> None:
    known = {
        "FROM",
        "ENV",
        "WORKDIR",
        "COPY",
        "RUN",
        "USER",
        "EXPOSE",
        "HEALTHCHECK",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
    }
    assert {name for name, _ in lines} <= known and lines[0][0] == "FROM"
    least = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert of(lines, "FROM") == [f"python:{least}-slim"]


def test_all_that_it_copies_is_there_and_is_not_ignored(lines: list[tuple[str, str]]) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [name for rest in of(lines, "COPY") for name in rest.split()[:-1]]
    assert {"requirements-lock.txt", "sft_lightning", "LICENSE"} == set(copied)
    for name in copied:
        assert (ROOT / name).exists() and f"!{name}" in ignored, f"{name} cannot be copied"
    assert [rest.split()[-1] for rest in of(lines, "COPY")] == ["./", "./", "./sft_lightning"]
    assert (ROOT / "sft_lightning" / "__main__.py").is_file() and "PYTHONPATH=/app" in of(lines, "ENV")
    assert of(lines, "WORKDIR") == ["/app"], "python finds the package where it is copied to"


def test_it_installs_the_lock_file_with_hashes_and_that_has_what_serve_needs(lines: list[tuple[str, str]]) -> None:
    installs = [rest for rest in of(lines, "RUN") if "pip install" in rest]
    assert len(installs) == 1 and installs[0].endswith("--require-hashes -r requirements-lock.txt")
    lock = (ROOT / "requirements-lock.txt").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.split(r"[<>=\[]", package)[0] for name in ("serve", "onnx") for package in extras[name]}
    for module in {*NEEDED, *wanted}:
        package = {"python_multipart": "python-multipart", "prometheus_client": "prometheus-client"}.get(module, module)
        pinned = re.search(rf"^{package}==[^\n]*\\\n\s+--hash=sha256:", lock, re.MULTILINE)
        assert pinned, f"the lock file lacks {package} with its hashes"


def test_it_starts_serve_as_a_user_without_rights(lines: list[tuple[str, str]]) -> None:
    (entry,), (command,) = of(lines, "ENTRYPOINT"), of(lines, "CMD")
    program, *module, name = json.loads(entry)
    rest = json.loads(command)
    assert [program, *module] == ["python", "-m", "sft_lightning"] and name in COMMANDS
    given = make_parser().parse_args(rest)
    assert str(given.run) == "/model" and [str(given.port)] == of(lines, "EXPOSE")
    names = [name for name, _ in lines]
    user = of(lines, "USER")[0]
    assert any(f" {user}" in rest for rest in of(lines, "RUN")) and names.index("USER") > names.index("RUN")
    health = of(lines, "HEALTHCHECK")[0].partition("CMD ")[2]
    assert f":{given.port}/ready" in compile(json.loads(health)[2], "health", "exec").co_consts[2]
