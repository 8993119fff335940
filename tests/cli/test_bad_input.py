"""What is the user's to mend: one line that names the cause, exit code 2, and nothing left behind."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.cli.conftest import ROOT, Command
from tests.refused import check_printed

Make = Callable[[Path], list[Any]]
DISTILL = ["--config", "experiments/digits/distill.yaml"]


def expect_one_line(command: Command, arguments: list[Any], key: str, *values: object) -> None:
    """Runs fit, and checks the exit code, the one line of error, and that no run directory is left."""
    done = command("fit", *arguments, "--wandb", "disabled")
    assert done.code == 2, f"exit code {done.code} instead of 2:\n{done.err[-3000:]}"
    check_printed(done.err, key, *values)
    left = [p for p in done.runs.rglob("*") if p.is_file()] if done.runs.exists() else []
    assert not left, f"a half-written run was left: {left}"


def config(tmp_path: Path, text: str) -> list[Any]:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return ["--config", file]


def altered(tmp_path: Path, **changes: Any) -> list[Any]:
    """The distill experiment with top-level keys replaced."""
    content = yaml.safe_load((ROOT / "experiments/digits/distill.yaml").read_text())
    content.update(changes)
    return config(tmp_path, yaml.safe_dump({k: v for k, v in content.items() if v is not None}))


def plain(
    tmp_path: Path, data: dict[str, Any], network: dict[str, Any] | None = None, after: bool = False
) -> list[Any]:
    """PlainSFT from scratch on some data."""
    net = network or {"class_path": "LeNet", "init_args": {"image_size": 16}}
    return altered(
        tmp_path, model={"class_path": "PlainSFT"}, network=net, data=data, retention=None, test_after_fit=after
    )


Refusal = tuple[str, ...]
"""The error's key, then values in its message"""
CONFIGS: dict[str, tuple[str, Refusal]] = {
    "malformed YAML": ("model: [unclosed\n  x: 1\n", ("--config", "config.yaml", "line 2", "YAML")),
    "YAML that is no mapping": ("just a text\n", ("--config", "config.yaml", "mapping")),
    "an unknown variant": ("model: DistilSFT\nnetwork: MLP\ndata: Digits\n", ("model", "'DistilSFT'", "'DistillSFT'")),
    "an unknown network": ("model: PlainSFT\nnetwork: MLPP\ndata: Digits\n", ("network", "'MLPP'", "'MLP'", "LeNet")),
    "an unknown data set": ("model: PlainSFT\nnetwork: MLP\ndata: Digts\n", ("data", "'Digts'", "'Digits'", "CIFAR10")),
    "an unknown key": ("modle: PlainSFT\nnetwork: MLP\ndata: Digits\n", ("modle", "'modle'", "'model'")),
    "no network": ("model: PlainSFT\ndata: Digits\n", ("network", "--config FILE", "--network NAME")),
    "a module that is not there": (
        "model: nowhere.My\nnetwork: MLP\ndata: Digits\n",
        ("model", "nowhere.My", "module 'nowhere'"),
    ),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_file_with(command: Command, tmp_path: Path, case: str) -> None:
    text, refusal = CONFIGS[case]
    expect_one_line(command, config(tmp_path, text), *refusal)


FLAGS: dict[str, tuple[list[Any], tuple[Any, ...]]] = {
    "an unknown argument": (["--model.init_args.anchor_wieght", 1], ("model", "'anchor_wieght'", "'anchor_weight'")),
    "an unknown argument of the network": (["--network.init_args.hiden", 1], ("network", "'hiden'", "'hidden'")),
    "an unknown trainer option": (["--trainer.maxepochs", 3], ("trainer.maxepochs", "'trainer.max_epochs'")),
    "text where a number belongs": (["--model.init_args.lr", "fast"], ("model.init_args.lr", "number", "fast")),
    "a distance that is none": (
        ["--model.init_args.distance", "l1"],
        ("model.init_args.distance", "'l1'", "mse, kl, cosine"),
    ),
    "a negative learning rate": (["--model.lr", -1], ("model.lr", "-1.0")),
    "a negative learning rate, its key in full": (["--model.init_args.lr", -1], ("model.init_args.lr", "-1.0")),
    "a short key of the wrong type": (["--model.lr", "fast"], ("model.lr", "fast")),
    "a short key without a value": (["--model.lr", "--model.on", "logits"], ("model.lr",)),
    "a key that is only in the file": (
        ["--trainer.accumulate_grad_batches", 3],
        ("data.init_args.batch_size", "20", "trainer.accumulate_grad_batches 3", "use 21"),
    ),
    "too few epochs": (["--trainer.max_epochs", -5], ("trainer.max_epochs", "-5")),
    "no devices": (["--trainer.devices", 0], ("trainer.devices", "0")),
    "devices that are none": (["--trainer.devices", "x"], ("trainer.devices", "CPUAccelerator")),
    "a strategy that is none": (["--trainer.strategy", "ddq"], ("trainer.strategy", "'ddq'")),
    "a time that is none": (["--trainer.max_time", "soon"], ("trainer.max_time", "'soon'")),
    "a share of batches above one": (["--trainer.limit_val_batches", 1.5], ("trainer.limit_val_batches", "1.5")),
    "validation after every 0 epochs": (
        ["--trainer.check_val_every_n_epoch", 0],
        ("trainer.check_val_every_n_epoch", "1"),
    ),
    "a negative seed": (["--seed_everything", -1], ("seed_everything", "-1", "4294967295")),
    "a seed that is too large": (["--seed_everything", 2**32], ("seed_everything", "4294967296", "4294967295")),
    "nodes that nothing starts": (["--trainer.num_nodes", 2], ("trainer.num_nodes", "2", "MASTER_ADDR", "torchrun")),
    "an optimizer that is none": (["--model.optimizer", "AdamX"], ("model.optimizer", "'AdamX'", "'Adam")),
    "an optimizer argument that is none": (
        ["--model.init_args.optimizer_args", "{momentum: 0.9}"],
        ("model.init_args.optimizer_args", "AdamW", "'momentum'"),
    ),
    "a config file that is not there": (["--config", "nowhere.yaml"], ("--config", "nowhere.yaml")),
    "more shots than a class has": (
        ["--data.shots_per_class", 500],
        ("data.shots_per_class", "500", "class '5'", "103"),
    ),
    "a class that is not there": (["--data.classes", "[5, 77]"], ("data.classes", "'77'")),
    "a batch size that does not divide": (
        ["--data.batch_size", 7, "--trainer.accumulate_grad_batches", 2],
        ("data.batch_size", "7", "trainer.accumulate_grad_batches 2", "use 8"),
    ),
    "no GPU where one is asked for": (["--trainer.accelerator", "gpu"], ("trainer.accelerator", "cpu")),
    "a pretrained net that is not there": (
        ["--network.init_args.pretrained", "./nowhere"],
        ("network.init_args.pretrained", "./nowhere"),
    ),
    "a builtin net that is not there": (
        ["--network.init_args.pretrained", "builtin:digits"],
        ("network.init_args.pretrained", "'builtin:digits'", "'builtin:digits-0-4'"),
    ),
    "nothing pretrained to anchor to": (
        ["--network.init_args.pretrained", "null"],
        ("network.init_args.pretrained", "DistillSFT", "PlainSFT"),
    ),
    "retention without a source head": (
        ["--model", "PlainSFT", "--network.init_args.keep_source_head", "false"],
        ("retention", "keep_source_head"),
    ),
    "retention data of other classes": (
        ["--retention.classes", "[5, 6, 7, 8, 9]"],
        ("retention", ["0", "1", "2", "3", "4"], ["5", "6", "7", "8", "9"]),
    ),
    "a network of another shape": (
        ["--network.init_args.in_features", 784],
        ("network.init_args.pretrained", "encoder.1.weight", "[128, 64]", "[128, 784]"),
    ),
    "another architecture": (["--network.class_path", "LeNet"], ("network.init_args.pretrained", "MLP", "LeNet")),
    "features compared by kl": (
        ["--model.on", "features", "--model.distance", "kl"],
        ("model.distance", "kl", "features", "mse", "cosine"),
    ),
    "a metric that is never logged": (["--select_by", "val/acuracy"], ("select_by", "'val/acuracy'", "'val/accuracy'")),
    "an experiment name with a slash": (["--experiment", "a/b"], ("experiment", "'a/b'")),
    "a checkpoint that is not there": (["--ckpt_path", "nowhere.ckpt"], ("ckpt_path", "nowhere.ckpt")),
    "a module to import that is not there": (["--import", "nowhere_at_all"], ("--import", "nowhere_at_all")),
    "a run to resume that is not there": (["--resume", "runs/nowhere"], ("--resume", "runs/nowhere", "config.yaml")),
    "a selecting metric that this run does not measure": (
        ["--select_by", "retention/acuracy"],
        ("select_by", "'retention/acuracy'", "'retention/accuracy'"),
    ),
    "a checkpoint of a run that only begins": (
        ["--ckpt_path", "last"],
        ("ckpt_path", "'last'", "--resume", "--run_id"),
    ),
    "optimizer arguments that torch refuses": (
        ["--model.init_args.optimizer_args", "{betas: [2.0, 0.9]}"],
        ("model.init_args.optimizer_args", "AdamW", "{'betas': [2.0, 0.9]}"),
    ),
    "a decoupled pull beyond the start": (
        ["--model", "L2SPSFT", "--model.how", "decoupled", "--model.lr", 0.3, "--model.decoupled_weight", 10],
        ("model.decoupled_weight", "10", "0.3", "3"),
    ),
    "an evaluation batch of none": (["--data.init_args.eval_batch_size", 0], ("data.init_args.eval_batch_size", "0")),
    "frozen parts that match nothing": (
        ["--model.freeze", "['^decoder']"],
        ("model.freeze", "'^decoder'", "head.bias"),
    ),
}


@pytest.mark.parametrize("case", FLAGS)
def test_a_command_line_with(command: Command, case: str) -> None:
    flags, refusal = FLAGS[case]
    expect_one_line(command, [*DISTILL, *flags], *refusal)


def test_an_unknown_command(command: Command) -> None:
    done = command("fot")
    assert done.code == 2
    check_printed(done.err, "command", "'fot'", "'fit'")


def test_a_runs_folder_that_cannot_be_written(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    expect_one_line(command, [*DISTILL, "--runs_dir", tmp_path / "file"], "runs_dir", tmp_path / "file")


def image(path: Path, size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)).save(path)


def no_folder(tmp: Path) -> None:
    pass


def empty_folder(tmp: Path) -> None:
    (tmp / "images").mkdir()


def class_without_images(tmp: Path) -> None:
    for i in range(8):
        image(tmp / f"images/cat/{i}.png")
    (tmp / "images/dog").mkdir(parents=True)


def broken_image(tmp: Path) -> None:
    for label in ("cat", "dog"):
        for i in range(20):
            image(tmp / f"images/{label}/{i}.png")
    for i in range(20):
        (tmp / f"images/cat/{i}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")


FOLDERS: dict[str, tuple[Callable[[Path], None], Refusal]] = {
    "is absent": (no_folder, ("data.init_args.root", "images")),
    "is empty": (empty_folder, ("data", "images")),
    "has a class without images": (class_without_images, ("data", "images/dog")),
    "has an image that cannot be read": (broken_image, ("data", ".png")),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_an_image_folder_that(command: Command, tmp_path: Path, case: str) -> None:
    make, refusal = FOLDERS[case]
    make(tmp_path)
    data = {"class_path": "ImageFolder", "init_args": {"root": str(tmp_path / "images"), "batch_size": 4}}
    expect_one_line(command, plain(tmp_path, data), *refusal)


def table(tmp: Path, header: str, rows: list[str], **arguments: Any) -> dict[str, Any]:
    (tmp / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    return {"class_path": "TextTable", "init_args": {"train": str(tmp / "train.csv"), "batch_size": 4, **arguments}}


GOOD = [f"a film of kind {i},{'good' if i % 2 else 'bad'}" for i in range(40)]
TABLES: dict[str, tuple[Callable[[Path], dict[str, Any]], Refusal]] = {
    "without the text column": (
        lambda t: table(t, "txt,label", GOOD),
        ("data", "train.csv", "'text'", "'txt'", "data.init_args.text_column"),
    ),
    "without the label column": (
        lambda t: table(t, "text,lable", GOOD),
        ("data", "train.csv", "'label'", "'lable'", "data.init_args.label_column"),
    ),
    "with a label outside the classes": (
        lambda t: table(t, "text,label", [*GOOD, "a film,ugly"], labels=["good", "bad"]),
        ("data", "train.csv line 42", "'ugly'", "good, bad", "data.init_args.labels"),
    ),
    "with a text column of numbers": (
        lambda t: table(t, "text,label", [f"{i},{i % 2}" for i in range(40)]),
        ("data", "train.csv", "column 'text'", "data.init_args.text_column"),
    ),
    "with an empty text": (lambda t: table(t, "text,label", [*GOOD, ",good"]), ("data", "train.csv line 42", "'text'")),
    "that is absent": (
        lambda t: {"class_path": "TextTable", "init_args": {"train": str(t / "nowhere.csv")}},
        ("data.init_args.train", "nowhere.csv"),
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_csv(command: Command, tmp_path: Path, case: str) -> None:
    make, refusal = TABLES[case]
    expect_one_line(command, plain(tmp_path, make(tmp_path), {"class_path": "LSTM"}), *refusal)


def test_a_network_for_images_given_text(command: Command, tmp_path: Path) -> None:
    expect_one_line(command, plain(tmp_path, table(tmp_path, "text,label", GOOD)), "network", "LeNet", "TextTable")


def test_a_network_for_text_given_images(command: Command, tmp_path: Path) -> None:
    expect_one_line(
        command, plain(tmp_path, {"class_path": "Digits"}, {"class_path": "LSTM"}), "network", "LSTM", "Digits"
    )


class Evil:
    """What a pickle with code inside looks like."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("import pathlib; pathlib.Path('/tmp/sft_lightning_was_owned').touch()",))


def pickled_code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"encoder.1.weight": Evil()}))


def zipped_code(path: Path) -> None:
    torch.save({"encoder.1.weight": Evil()}, path)


def truncated(path: Path) -> None:
    torch.save({"encoder.1.weight": torch.zeros(128, 64)}, path)
    path.write_bytes(path.read_bytes()[:300])


def wrong_architecture(path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3, 3)}, path)


FILES: dict[str, tuple[Callable[[Path], None], str, Refusal]] = {
    "with pickled code inside": (pickled_code, "net.pth", (".safetensors",)),
    "with pickled code inside torch's own format": (zipped_code, "net.pth", (".safetensors",)),
    "that is truncated": (truncated, "net.pth", ()),
    "of another architecture": (wrong_architecture, "net.pth", ("conv.weight",)),
    "that is no safetensors": (lambda p: p.write_bytes(b"nothing"), "net.safetensors", ()),
}


@pytest.mark.parametrize("case", FILES)
def test_a_pretrained_file(command: Command, tmp_path: Path, case: str) -> None:
    make, name, values = FILES[case]
    owned = Path("/tmp/sft_lightning_was_owned")
    owned.unlink(missing_ok=True)
    make(tmp_path / name)
    flags = ["--network.init_args.pretrained", str(tmp_path / name)]
    expect_one_line(command, [*DISTILL, *flags], "network.init_args.pretrained", tmp_path / name, *values)
    assert not owned.exists(), "the pickled code was run"


def test_a_test_after_fit_without_a_test_split_is_said_before_training(command: Command, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label in ("cat", "dog"):
            for i in range(8):
                image(tmp_path / f"images/{split}/{label}/{i}.png")
    data = {"class_path": "ImageFolder", "init_args": {"root": str(tmp_path / "images"), "batch_size": 4}}
    expect_one_line(command, plain(tmp_path, data, after=True), "test_after_fit")


def test_a_checkpoint_that_is_none(command: Command, tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("nothing of the kind")
    expect_one_line(command, [*DISTILL, "--ckpt_path", tmp_path / "text.ckpt"], "ckpt_path", tmp_path / "text.ckpt")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    foreign = [*DISTILL, "--ckpt_path", tmp_path / "foreign.ckpt"]
    expect_one_line(command, foreign, "ckpt_path", "network.init_args.pretrained")


def test_a_checkpoint_with_pickled_code_is_refused(command: Command, tmp_path: Path) -> None:
    zipped_code(tmp_path / "evil.ckpt")
    expect_one_line(
        command, [*DISTILL, "--ckpt_path", tmp_path / "evil.ckpt"], "ckpt_path", tmp_path / "evil.ckpt", "exec"
    )
    assert not Path("/tmp/sft_lightning_was_owned").exists()
