"""The command line in one process: what it returns, prints, and leaves on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sft_lightning.cli.main import main
from sft_lightning.runs import Run, load

ROOT = Path(__file__).parents[2]


@dataclass
class Result:
    """One command's end."""

    code: int
    out: str
    err: str
    runs: Path

    @property
    def run(self) -> Run:
        """The run whose path was printed last."""
        lines = [line for line in self.out.splitlines() if line.startswith("run  ")]
        assert lines, f"no run's path was printed:\n{self.out}\n{self.err}"
        return load(lines[-1].split(maxsplit=1)[1])


Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`command("fit", "--config", …)` runs it in the project's folder, runs under a temporary one, W&B's home too."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SFT_RUNS_DIR", str(tmp_path / "runs"))
    for variable in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "wandb"))

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err, tmp_path / "runs")

    return run
