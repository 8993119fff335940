"""What README promises, run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.runs import load
from tests.cli.conftest import Command, command  # noqa: F401  the fixture

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_python_script_learns_and_keeps_and_the_command_repeats_it(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    run = load(names["run"].path)
    assert run.metric("val/accuracy") > 0.85
    assert run.metric("retention/accuracy") > 0.95
    exec(blocks("python")[1].replace("runs/digits-distill/RUN_ID", str(run.path)), {})
    again = command("fit", "--config", run.path / "config.yaml")
    assert again.code == 0, again.err
    assert again.run.record["metrics"] == run.record["metrics"], "`fit --config config.yaml` does not repeat the run"


def test_the_yaml_and_the_way_a_run_is_read_back(command: Command, tmp_path: Path) -> None:  # noqa: F811
    content = yaml.safe_load(blocks("yaml")[0])
    content["trainer"]["max_epochs"] = 2
    (tmp_path / "readme.yaml").write_text(yaml.safe_dump(content))
    done = command("fit", "--config", tmp_path / "readme.yaml", "--model.anchor_weight", 0.3, "--wandb", "disabled")
    assert done.code == 0, done.err
    exec(blocks("python")[1].replace("runs/digits-distill/RUN_ID", str(done.run.path)), {})


def test_every_file_and_class_it_names_exists() -> None:
    import sft_lightning.data
    import sft_lightning.modules
    import sft_lightning.networks

    known = {
        *sft_lightning.data.DATA_MODULES,
        *sft_lightning.modules.VARIANTS,
        *sft_lightning.networks.NETWORKS,
    }
    table = "\n".join(line for line in README.splitlines() if line.startswith("| `"))
    for name in re.findall(r"`([A-Z][A-Za-z0-9]+)`", table):
        assert name in known, f"README names {name}, which is not there"
    for path in re.findall(r"(?:experiments|benchmarks|docs)/[\w/]+\.\w+", README):
        assert (Path(__file__).parents[1] / path).is_file(), f"README names {path}, which is not there"
