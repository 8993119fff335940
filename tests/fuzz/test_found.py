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

__all__ = ["place"]  # a fixture
NAN, HUGE = float("nan"), 10**30
VALUES: dict[str, list[tuple[Any, str]]] = {
    "model.init_args.lr": [
        (None, "model.init_args.lr: must be a number, got null"),
        (NAN, "model.init_args.lr: must be a finite number"),
        (1e300, "lr must be at most"),
    ],
    "model.init_args.warmup": [(NAN, "warmup: must be a finite number"), (float("inf"), "warmup"), (HUGE * 1.0, "")],
    "model.init_args.layer_decay": [(1e300, "layer_decay must be at most")],
    "model.init_args.freeze": [([1], "model.init_args.freeze: must be text or a list of texts")],
    "model.init_args.optimizer": [
        ("..", "optimizer: no '..'"),
        ("SparseAdam", "SparseAdam cannot take a step"),
        (None, "must be text, got null"),
        ("Optimizer", "refuses to be without arguments"),
    ],
    "model.init_args.optimizer_args": [
        ([], "model.init_args.optimizer_args: must be names and values"),
        ({"betas": [0.9]}, "AdamW refuses"),
        ({1: 2}, "has no '1'"),
        ({"capturable": True}, "cannot take a step"),
        ({"differentiable": True}, "cannot take a step"),
    ],
    "model.init_args.task": [({"name": "x"}, "task: needs name and num_outputs")],
    "model.class_path": [(None, "model: ")],
    "model.init_args": [(None, "model")],
    "model.dict_kwargs": [({"x": 1}, "DistillSFT has no argument 'x'")],
    "network": [({}, "network: class_path must name one of"), (None, "network must be given")],
    "network.init_args.hidden": [
        ([-1], "network: MLP cannot be built"),
        ([HUGE], "network.init_args.hidden[0]"),
        (None, "must be a list of whole numbers, got null"),
        (5, "network.init_args.hidden: must be a list"),
        ([10**9], "out of memory"),
    ],
    "network.init_args.in_features": [(-1, "network: MLP"), (None, "must be a whole number, got null")],
    "network.init_args.dropout": [(2, "dropout")],
    "network.init_args.pretrained": [([1], "must be text, got [1]"), ("x" * 5000, "x…x")],
    "data.init_args.classes": [
        ([], "at least 2"),
        ([5], "at least 2"),
        ([True, False], "data.init_args.classes: must be a list of texts or whole numbers"),
        ("5", "data.init_args.classes"),
    ],
    "data.init_args.batch_size": [(None, "must be a whole number, got null"), (HUGE, "batch_size")],
    "data.init_args.num_workers": [(HUGE, "num_workers"), (10**6, "num_workers must be 0 to")],
    "data.init_args.image_size": [(0, "image_size must be"), (10**9, "image_size must be")],
    "data.init_args.subset_seed": [(-1, "subset_seed must be")],
    "trainer": [(None, "trainer: must be names and values"), ([], "trainer"), (3, "trainer")],
    "trainer.accumulate_grad_batches": [(0, "at least 1"), (-1, "at least 1")],
    "trainer.fast_dev_run": [(HUGE, "trainer.fast_dev_run")],
    "trainer.precision": [("x", "trainer.precision: must be 64, 32, 16")],
    "trainer.accelerator": [([], "trainer.accelerator: must be text")],
    "trainer.callbacks": [
        ("x", "trainer.callbacks: no class 'x'"),
        ({"class_path": "EarlyStopping"}, "EarlyStopping needs monitor"),
        (
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "mode": "x"}},
            "trainer.callbacks: `mode`",
        ),
        ({"class_path": "BackboneFinetuning"}, "trainer.callbacks: "),
        ({"class_path": "Timer", "init_args": {"duration": "00:00:10:00"}}, ""),  # its default is an Enum
    ],
    "wandb_tags": [(3, "wandb_tags: must be a list of texts, got 3")],
    "quiet": [(None, "quiet: must be true or false, got null")],
    "print_config": [(1, "cannot be set in a config")],
    "": [(1, "a key has no name")],
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


def expect(tmp_path: Path, content: bytes, told: str, *flags: str) -> None:
    """`told` is in the one line; empty where the run succeeds."""
    write_rows(tmp_path)
    (tmp_path / "config.yaml").write_bytes(content)
    ended = command(tmp_path, "fit", "--config", "config.yaml", *flags, "--wandb", "disabled")
    check(
        ended, tmp_path, {"config.yaml", "import", "print_config", "task", "path", "has no '1'", "layer_decay", *flags}
    )
    assert ended.code == (2 if told else 0), ended
    assert told in ended.line


@pytest.mark.parametrize(("key", "value", "told"), SET, ids=[f"{k} {str(v)[:30]}" for k, v, _ in SET])
def test_a_value(tmp_path: Path, key: str, value: Any, told: str) -> None:
    expect(tmp_path, with_value(key, value), told)


RAW: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "must hold keys and values"),
    "a list": (b"- a\n", "it holds a list"),
    "not UTF-8": (b"model: caf\xe9\n", "not UTF-8 at byte 10"),
    "a list within itself": (b"model: &a [*a]\n", "within themselves"),
    "deep": (b"model: " + b"[" * 3000, "too deeply"),
    "laughing": (
        b"a: &a [x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 8)) for i in range(8)),
        "too many",
    ),
    "a date that is none": (b"model: 2020-99-99\n", "month must be"),
    "a number of 5,000 digits": (b"seed_everything: " + b"9" * 5000, "a value cannot be read"),
    "a number for a key": (b"1: 2\n", "a key must be text, got 1"),
    "a control character": (b'model: "\\x1b[31m"\n', "not valid YAML"),
    "half a character": (b'model: "\\ud800"\n', "not valid YAML"),
}


@pytest.mark.parametrize("name", RAW)
def test_a_config_file(tmp_path: Path, name: str) -> None:
    content, told = RAW[name]
    expect(tmp_path, content, told)


FLAGS: list[tuple[list[str], str]] = [
    (["--model.lr", "[1"], "--model.lr: not valid YAML"),
    (["--model.lr=*a"], "--model.lr: not valid YAML"),
    (["--model.lr", ""], "model.init_args.lr: must be a number, got nothing"),
    (["--model", ""], "model: no class ''"),
    (["--import", "."], "--import: '.' is no module's name"),
    (["--import="], "--import: '' is no module's name"),
    (["--config", "/dev/full"], "is a device"),
    (["--trainer", "null"], "trainer: null is no file"),
    (["extra"], "which is no option"),
    (["--model.init_args.lr.x", "1"], "must be a number, got a key 'x'"),
]


@pytest.mark.parametrize(("flags", "told"), FLAGS, ids=[" ".join(f) for f, _ in FLAGS])
def test_an_option(tmp_path: Path, flags: list[str], told: str) -> None:
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


@pytest.mark.parametrize(("subject", "file", "edit", "arguments"), DAMAGED)
def test_a_file(place: Path, subject: str, file: str, edit: Edit, arguments: list[str]) -> None:
    shutil.rmtree(place / "case", ignore_errors=True)
    holds(Case(subject, [(file, edit)], arguments), place / "case")
