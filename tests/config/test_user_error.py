"""UserError keeps its parts where errors are copied, pickled, passed on by a data worker, or belong to another block."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch._utils import ExceptionWrapper

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.bad_samples import BadSample
from tests.cli.conftest import Command, command  # noqa: F401
from tests.refused import check_message, check_printed

ERRORS = {
    "plain": UserError("data", "a.png cannot be read", "replace it"),
    "with a class's name in it": UserError("data", "the file UserError: x.png cannot be read", "replace it"),
    "of a sample": BadSample("data", "x: y cannot be read", "replace it", {3: "damaged"}),
}


def test_a_suggestion_before_a_fix_leaves_the_form_of_a_message() -> None:
    error = UserError("command", f"there is no 'fot'{nearest('fot', ['fit'])}", "choose fit or test")
    check_message(str(error), "command", "'fot'", "'fit'?")
    assert str(error).count("; ") == 1 and "?;" not in str(error), error


@pytest.mark.parametrize("case", ERRORS)
def test_copies_are_equal(case: str) -> None:
    error = ERRORS[case]
    for other in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is type(error) and str(other) == str(error) and vars(other) == vars(error)


@pytest.mark.parametrize("case", ERRORS)
def test_a_data_worker_passes_key_and_text_on(case: str) -> None:
    error = ERRORS[case]
    try:
        raise error
    except UserError:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(type(error)) as found:
        wrapped.reraise()
    assert str(found.value) == str(error) and found.value.key == error.key


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--retention.batch_size", "0"], "retention.batch_size"),
        (["--retention.classes", "[77]"], "retention.classes"),
        (["--data.batch_size", "0"], "data.batch_size"),
    ],
)
def test_errors_of_the_source_tasks_data_are_at_retention(command: Command, arguments: list[str], key: str) -> None:  # noqa: F811
    done = command("fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", *arguments)
    assert done.code == 2
    check_printed(done.err, key)


def damaged_images(tmp_path: Path) -> list[str]:
    """Arguments of retention data of which no image can be read."""
    for number in range(5):
        folder = tmp_path / "old" / str(number)
        folder.mkdir(parents=True)
        for sample in range(8):
            damaged = folder / f"{sample}.png"
            Image.fromarray(np.full((8, 8), 25 * sample, np.uint8)).save(damaged)
            damaged.write_bytes(damaged.read_bytes()[:-30])
    return ["--retention", "ImageFolder", "--retention.root", str(tmp_path / "old"), "--retention.image_size", "8"]


def test_an_unreadable_sample_of_the_source_task_is_at_retention(command: Command, tmp_path: Path) -> None:  # noqa: F811
    retention = damaged_images(tmp_path)
    done = command("fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", *retention)
    assert done.code == 2
    check_printed(done.err, "retention", tmp_path / "old", "retention.init_args.on_bad_sample skip")


def test_no_sample_that_is_left_out_already_is_to_be_left_out(command: Command, tmp_path: Path) -> None:  # noqa: F811
    retention = [*damaged_images(tmp_path), "--retention.on_bad_sample", "skip"]
    done = command("fit", "--config", "experiments/digits/distill.yaml", "--wandb", "disabled", *retention)
    assert done.code == 2
    check_printed(done.err, "retention", tmp_path / "old")
    assert "on_bad_sample" not in done.err
