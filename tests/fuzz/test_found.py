"""What fuzzing found: each was a traceback, a hang, or a line that named nothing."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.configs import BASES, dumped, write_rows
from tests.fuzz.files import Case, Edit
from tests.fuzz.runner import check, command
from tests.fuzz.test_files import holds, place
from tests.refused import check_message

__all__ = ["place"]  # a fixture
NAN, HUGE = float("nan"), 10**30
Told = tuple[object, ...]
"""The error's key and what else it must name; empty if the run succeeds"""
VALUES: dict[str, list[tuple[Any, Told]]] = {
    "model.init_args.lr": [
        (None, ("model.init_args.lr", "null")),
        (NAN, ("model.init_args.lr", "nan")),
        (1e300, ("model.init_args.lr", "1e+30,", "1e+300")),
    ],
    "model.init_args.warmup": [
        (NAN, ("model.init_args.warmup", "nan")),
        (float("inf"), ("model.init_args.warmup", "inf")),
        (HUGE * 1.0, ()),
    ],
    "model.init_args.layer_decay": [(1e300, ("model.init_args.layer_decay", "1e+30,", "1e+300"))],
    "model.init_args.freeze": [([1], ("model.init_args.freeze", "[1]"))],
    "model.init_args.optimizer": [
        ("..", ("model.init_args.optimizer", "'..'")),
        ("SparseAdam", ("model.init_args.optimizer", "SparseAdam")),
        (None, ("model.init_args.optimizer", "null")),
        ("Optimizer", ("model.init_args.optimizer_args", "Optimizer", "'defaults'")),
    ],
    "model.init_args.optimizer_args": [
        ([], ("model.init_args.optimizer_args", "[]")),
        ({"betas": [0.9]}, ("model.init_args.optimizer_args", "AdamW", "{'betas': [0.9]}")),
        ({1: 2}, ("model.init_args.optimizer_args", "AdamW", "'1'")),
        ({"capturable": True}, ("model.init_args.optimizer", "AdamW", "capturable=True")),
        ({"differentiable": True}, ("model.init_args.optimizer", "AdamW")),
    ],
    "model.init_args.task": [({"name": "x"}, ("task", "num_outputs", "{'name': 'x'}"))],
    "model.class_path": [(None, ("model", "class_path"))],
    "model.init_args": [(None, ("model.init_args", "DistillSFT"))],
    "model.dict_kwargs": [({"x": 1}, ("model", "DistillSFT", "'x'"))],
    "network": [({}, ("network", "class_path", "MLP, LeNet")), (None, ("network", "--config FILE", "--network NAME"))],
    "network.init_args.hidden": [
        ([-1], ("network", "MLP", "[-1, 64]")),
        ([HUGE], ("model.init_args.network.init_args.hidden[0]", HUGE)),
        (None, ("network.init_args.hidden", "null")),
        (5, ("network.init_args.hidden", "got 5")),
        ([10**9], ("machine", "memory")),
    ],
    "network.init_args.in_features": [
        (-1, ("network", "MLP", "[128, -1]")),
        (None, ("network.init_args.in_features", "null")),
    ],
    "network.init_args.dropout": [(2, ("network", "MLP", "dropout", "2.0"))],
    "network.init_args.pretrained": [
        ([1], ("network.init_args.pretrained", "[1]")),
        ("x" * 5000, ("x" * 100 + "…" + "x" * 40,)),
    ],
    "data.init_args.classes": [
        ([], ("data.init_args.classes", "at least 2")),
        ([5], ("data.init_args.classes", "(5)", "at least 2")),
        ([True, False], ("data.init_args.classes", "[True, False]")),
        ("5", ("data.init_args.classes", "got 5")),
    ],
    "data.init_args.batch_size": [
        (None, ("data.init_args.batch_size", "null")),
        (HUGE, ("data.init_args.batch_size", HUGE)),
    ],
    "data.init_args.num_workers": [
        (HUGE, ("data.init_args.num_workers", HUGE)),
        (10**6, ("data.init_args.num_workers", "0 to 1024", 10**6)),
    ],
    "data.init_args.image_size": [
        (0, ("data.init_args.image_size", "1 to 16384", "got 0")),
        (10**9, ("data.init_args.image_size", "1 to 16384", 10**9)),
    ],
    "data.init_args.subset_seed": [(-1, ("data.init_args.subset_seed", "0 to 4294967295", "got -1"))],
    "trainer": [
        (None, ("trainer", "max_epochs", "null")),
        ([], ("trainer", "max_epochs", "[]")),
        (3, ("trainer", "max_epochs", "got 3")),
    ],
    "trainer.accumulate_grad_batches": [
        (0, ("trainer.accumulate_grad_batches", "at least 1", "got 0")),
        (-1, ("trainer.accumulate_grad_batches", "at least 1", "got -1")),
    ],
    "trainer.fast_dev_run": [(HUGE, ("trainer.fast_dev_run", HUGE))],
    "trainer.precision": [("x", ("trainer.precision", "64, 32, 16", "got x"))],
    "trainer.accelerator": [([], ("trainer.accelerator", "[]"))],
    "trainer.callbacks": [
        ("x", ("trainer.callbacks", "'x'")),
        ({"class_path": "EarlyStopping"}, ("trainer.callbacks", "EarlyStopping", "monitor")),
        (
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "mode": "x"}},
            ("trainer.callbacks", "`mode`", "min, max", "got x"),
        ),
        ({"class_path": "BackboneFinetuning"}, ("trainer.callbacks", "BackboneFinetuning", "LPFT")),
        ({"class_path": "Timer", "init_args": {"duration": "00:00:10:00"}}, ()),  # its default is an Enum
    ],
    "wandb_tags": [(3, ("wandb_tags", "got 3"))],
    "quiet": [(None, ("quiet", "null"))],
    "print_config": [(1, ("print_config",))],
    "": [(1, ("--config",))],
}
SET = [(key, value, told) for key, values in VALUES.items() for value, told in values]


def with_value(key: str, value: Any) -> bytes:
    """The distillation's config with one value set."""
    tree = copy.deepcopy(BASES["distill"])
    *way, last = key.split(".")
    holder = tree
    for name in way:
        holder = holder[name]
    holder[last] = value
    return dumped(tree)


def expect(tmp_path: Path, content: bytes, told: Told, *flags: str) -> None:
    """Runs `fit` with a config file, and compares its one line of error with `told`."""
    write_rows(tmp_path)
    (tmp_path / "config.yaml").write_bytes(content)
    ended = command(tmp_path, "fit", "--config", "config.yaml", *flags, "--wandb", "disabled")
    check(
        ended, tmp_path, {"config.yaml", "import", "print_config", "task", "path", "has no '1'", "layer_decay", *flags}
    )
    assert ended.code == (2 if told else 0), ended
    if told:
        check_message(ended.line, *told)


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("key", "value", "told"), SET, ids=[f"{k} {str(v)[:30]}" for k, v, _ in SET])
def test_a_value(tmp_path: Path, key: str, value: Any, told: Told) -> None:
    expect(tmp_path, with_value(key, value), told)


RAW: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("config.yaml", "model, network, data")),
    "a list": (b"- a\n", ("config.yaml", "model, network, data", "a list")),
    "not UTF-8": (b"model: caf\xe9\n", ("config.yaml", "byte 10")),
    "a list within itself": (b"model: &a [*a]\n", ("config.yaml",)),
    "deep": (b"model: " + b"[" * 3000, ("config.yaml",)),
    "laughing": (
        b"a: &a [x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 8)) for i in range(8)),
        ("config.yaml",),
    ),
    "a date that does not exist": (b"model: 2020-99-99\n", ("config.yaml", "month")),
    "a number of 5,000 digits": (b"seed_everything: " + b"9" * 5000, ("config.yaml", "5000 digits")),
    "a number for a key": (b"1: 2\n", ("got 1",)),
    "half a character": (b'model: "\\ud800"\n', ("Unicode",)),
}


def test_a_control_character_is_shown_as_an_escape(tmp_path: Path) -> None:
    expect(tmp_path, b'model: "\\x1b[31m"\n', ("model", "\\x1b[31m", "choose"))


@pytest.mark.parametrize("name", RAW)
def test_a_config_file(tmp_path: Path, name: str) -> None:
    content, told = RAW[name]
    expect(tmp_path, content, ("--config", *told))


FLAGS: list[tuple[list[str], Told]] = [
    (["--model.lr", "[1"], ("model.lr", "number", "[1")),
    (["--model.lr=*a"], ("model.lr", "number", "*a")),
    (["--model.lr", ""], ("model.lr", "nothing")),
    (["--model", ""], ("model", "''")),
    (["--import", "."], ("--import", "'.'")),
    (["--import="], ("--import", "''")),
    (["--config", "/dev/full"], ("--config", "/dev/full", "device")),
    (["--trainer", "null"], ("trainer", "null")),
    (["extra"], ("command line", "'extra'", "--")),
    (["--model.init_args.lr.x", "1"], ("model.init_args.lr", "'x'")),
]


@pytest.mark.parametrize(("flags", "told"), FLAGS, ids=[" ".join(f) for f, _ in FLAGS])
def test_an_option(tmp_path: Path, flags: list[str], told: Told) -> None:
    expect(tmp_path, dumped(BASES["distill"]), told, *flags)


FIT, SKIP = ["fit", "--config", "config.yaml"], ["fit", "--config", "config.yaml", "--data.on_bad_sample", "skip"]
RESUME, TEST = ["fit", "--resume", "run/it"], ["test", "--run", "run/it"]
LAST = "run/it/checkpoints/last.ckpt"
DAMAGED: list[tuple[str, str, Edit, list[str]]] = [
    ("jsonl", "rows.jsonl", ("whole", 0.0, b"null"), FIT),
    ("jsonl", "rows.jsonl", ("whole", 0.0, b"[" * 100_000), SKIP),
    ("jsonl", "rows.jsonl", ("row", 3, "\ud800", False), FIT),
    ("jsonl", "rows.jsonl", ("row", 3, "\ud800", True), SKIP),
    ("json", "rows.json", ("whole", 0.0, b"null"), FIT),
    ("weights", "net/config.json", ("whole", 0.0, b"null"), FIT),
    ("weights", "net/config.json", ("whole", 0.0, b'{"sft_lightning": 3}'), FIT),
    ("weights", "net/config.json", ("whole", 0.0, b'{"sft_lightning": {"input": {"mean": true}}}'), FIT),
    ("weights", "net/config.json", ("whole", 0.0, b'{"sft_lightning": {"task": {"labels": 3}}}'), FIT),
    ("bert", "net/config.json", ("whole", 0.0, b'{"model_type": "bert", "vocab_size": null}'), FIT),
    ("bert", "net/config.json", ("whole", 0.0, b'{"model_type": "bert", "num_hidden_layers": 1%s}' % (b"0" * 30)), FIT),
    ("bert", "net/config.json", ("whole", 0.0, b'{"model_type": "bert", "hidden_dropout_prob": NaN}'), FIT),
    ("bert", "net/tokenizer.json", ("whole", 0.0, b"null"), FIT),
    ("run", "run/it/run.json", ("whole", 0.0, b"["), TEST),
    ("run", "run/it/run.json", ("whole", 0.0, b"[]"), TEST),
    ("run", "run/it/metrics.jsonl", ("whole", 0.0, b"null\n"), RESUME),
    ("run", LAST, ("to folder",), RESUME),
    ("run", "run/it/run.json", ("to folder",), RESUME),
    ("run", LAST, ("checkpoint weights", "text"), RESUME),
    *[
        ("run", LAST, ("checkpoint key", i / 40, junk, False), RESUME)
        for i in range(1, 40, 4)
        for junk in (3, {"a": 1})
    ],
    *[("run", LAST, ("checkpoint key", i / 40, None, True), RESUME) for i in range(1, 40, 6)],
]


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("subject", "file", "edit", "arguments"), DAMAGED)
def test_a_file(place: Path, subject: str, file: str, edit: Edit, arguments: list[str]) -> None:
    shutil.rmtree(place / "case", ignore_errors=True)
    holds(Case(subject, [(file, edit)], arguments), place / "case")
