"""A command ends as Python's own exit would, and leaves the search for garbage on."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft_lightning.cli.main import main

ROOT = Path(__file__).parents[2]
ENDING = """
import atexit, sys, threading, time
from sft_lightning.core.interpreter import leave
atexit.register(lambda: print("registered first, runs last"))
atexit.register(lambda: print("registered last, runs first"))
threading.Thread(target=lambda: (time.sleep(0.2), print("a thread that had work left"))).start()
sys.stdout.write("no newline yet; ")
leave(5)
"""


def ends(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_threads_are_waited_for_then_exit_functions_run_then_all_is_written() -> None:
    done = ends("-c", ENDING)
    said = ["no newline yet; a thread that had work left", "registered last, runs first", "registered first, runs last"]
    assert (done.returncode, done.stdout.splitlines()) == (5, said), done.stderr


def test_output_that_nobody_reads_any_longer_is_said_by_the_exit_code_alone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    script = "import sys; from sft_lightning.core.interpreter import leave; sys.stdout.write('text'); leave(0)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (120, "")


def test_a_log_handler_that_closes_its_stream_at_the_end_leaves_the_exit_code_alone() -> None:
    """absl, which rouge-score imports, does so: every run that measured ROUGE ended with code 120."""
    script = """
import atexit, sys
from sft_lightning.core.interpreter import leave
from sft_lightning.core.redaction import guarded_streams
with guarded_streams():
    atexit.register(sys.stderr.close)
    import absl.logging
leave(0)
"""
    done = ends("-c", script)
    assert done.returncode == 0, done.stderr


def test_a_command_has_its_exit_code() -> None:
    assert ends("-m", "sft_lightning", "--version").returncode == 0
    assert ends("-m", "sft_lightning", "nothing").returncode == 2


def test_after_its_imports_each_command_searches_for_garbage_again() -> None:
    script = """
import gc, sys, types
from sft_lightning.core import interpreter
from sft_lightning.cli.main import COMMANDS, ELSEWHERE, main
begun = []
def begins(*args):
    begun.append(gc.isenabled() and gc.get_freeze_count() > 1000)
    return 0
for name in ("sft_lightning.cli.fit", "sft_lightning.cli.predict", *ELSEWHERE.values()):
    sys.modules[name] = types.ModuleType(name)  # importing them all would take long
    sys.modules[name].main = sys.modules[name].run = begins
for command in [*COMMANDS, "predict MODEL"]:
    interpreter.begin()
    assert not gc.isenabled()
    assert main(command.split()) == 0, command
    assert begun.pop(), command
"""
    done = ends("-c", script)
    assert done.returncode == 0, done.stderr


def test_a_command_called_as_a_function_leaves_the_callers_garbage_alone() -> None:
    gc.disable()
    try:
        main(["runs", "list", "--runs_dir", "no such folder"])
        assert not gc.isenabled() and not gc.get_freeze_count()
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_command_imports_no_library_that_it_does_not_use() -> None:
    script = """
import sys
from sft_lightning.core.interpreter import begin
begin()
from sft_lightning.cli.main import main
assert main(["fit", "--config", "experiments/digits/plain.yaml", "--model.learning_rate", "1"]) == 2
assert "torch" not in sys.modules, "a wrong key is found without it"
assert main(["fit", "--config", "experiments/digits/plain.yaml", "--print_config"]) == 0
heavy = ("transformers", "timm", "torchvision", "sklearn", "scipy", "pandas", "wandb", "datasets", "matplotlib")
print([name for name in heavy if name in sys.modules])
import torchmetrics
assert torchmetrics._waits is not None
from torchmetrics import Accuracy, Metric
from torchmetrics.text import BERTScore
assert issubclass(Accuracy(task="binary").__class__, Metric) and issubclass(BERTScore, Metric)
assert torchmetrics._waits is None
"""
    done = ends("-c", script)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["[]"]), done.stderr
