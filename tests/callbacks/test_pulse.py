"""Off a terminal a command that takes long says each minute what it is at."""

import re
import time

import pytest

from sft_lightning.callbacks import Pulse
from sft_lightning.callbacks.pulse import spoken
from sft_lightning.data.vision.digits import Digits
from tests.cli.conftest import Command, command  # noqa: F401  a fixture

FIT = ("fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", "--trainer.max_epochs", 2)


def signs(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("…")]


def test_a_fit_says_where_it_is_how_fast_and_its_loss(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a minute of 0.2 s, and a step that takes half of that."""
    monkeypatch.setattr(Pulse, "EVERY", 0.2)
    finish = Digits.device_transform

    def slowly(self: Digits, batch: dict[str, object]) -> object:
        time.sleep(0.1 if batch["train"] else 0)
        return finish(self, batch)

    monkeypatch.setattr(Digits, "device_transform", slowly)
    done = command(*FIT)
    assert done.code == 0, done.err
    said = [line for line in signs(done.out) if "training, step" in line]
    assert said, f"training went by in silence:\n{done.out}"
    assert any(re.search(r"step \d+ of 10, [\d.]+ a second, train/loss_task \d+\.\d{4}$", line) for line in said), said
    quiet = command(*FIT, "--quiet", "true")
    assert not signs(quiet.out), "a quiet run is not quiet"


@pytest.mark.parametrize("name", ["test", "validate", "predict"])
def test_so_do_the_other_commands_also_while_data_is_read(
    command: Command,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    run = command(*FIT).run
    assert not signs(command("test", "--run", run.path).out), "there was no silence of a minute"
    monkeypatch.setattr(Pulse, "EVERY", 0.1)
    load = Digits.load
    monkeypatch.setattr(Digits, "load", lambda self: (time.sleep(0.3), load(self))[1])
    done = command(name, "--run", run.path)
    assert done.code == 0, done.err
    assert any("preparing data and network" in line for line in signs(done.out)), f"it read in silence:\n{done.out}"


def test_time_is_told_in_words() -> None:
    assert [spoken(s) for s in (61, 119.6, 180, 4000)] == ["61 s", "120 s", "3 min", "67 min"]
