"""What was written and would have no effect: keys that a link overwrites, keys written twice, flags that a file overrides."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sft_lightning.ablation.plan import Plan
from sft_lightning.ablation.study import make_study, read_study
from sft_lightning.cluster.profile import made
from sft_lightning.config.files import check_yaml
from sft_lightning.config.given import from_arguments, in_users_words, links_of, overridden, refuse_linked
from sft_lightning.config.parser import command_parser
from sft_lightning.config.resolve import resolve, resolve_arguments
from sft_lightning.core import plain_yaml
from sft_lightning.core.errors import UserError
from sft_lightning.report.read import Notes, RunFiles
from tests.cli.conftest import ROOT, Command
from tests.refused import check_printed, refused

DISTILL = "experiments/digits/distill.yaml"


def base() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / DISTILL).read_text())
    return content


# ---- keys that a link overwrites ----

LINKED: dict[str, tuple[list[str], str, str]] = {
    "in full": (
        ["--model.init_args.network.init_args.pretrained", "X"],
        "model.init_args.network.init_args.pretrained",
        "network.init_args.pretrained",
    ),
    "in short": (["--model.network.hidden=[3]"], "model.network.hidden", "network.init_args.hidden"),
    "as a class": (["--model.network", "LeNet"], "model.network", "network"),
    "within a mapping": (
        ["--model.init_args", "{network: {class_path: LeNet}}"],
        "model.init_args.network.class_path",
        "network.class_path",
    ),
    "within the whole block": (
        ["--model={class_path: PlainSFT, init_args: {network: MLP}}"],
        "model.init_args.network",
        "network",
    ),
}
"""The arguments, the key that has no effect, the key to use"""


@pytest.mark.parametrize("case", LINKED)
def test_a_flag_that_the_link_from_network_would_overwrite_is_refused(case: str) -> None:
    flags, key, use = LINKED[case]
    with refused(key, "model.init_args.network") as error:
        resolve_arguments(["--config", str(ROOT / DISTILL), *flags])
    assert error.value.fix == f"set {use}", "it does not name the key to use"


def test_every_link_of_the_parser_is_looked_at() -> None:
    """A second link that somebody adds is guarded by the same code."""
    assert links_of(command_parser("fit")[0]) == [(("network",), "model.init_args.network")], (
        "a new link: say here what it links"
    )
    links = [(("data.init_args.a", "data.init_args.b"), "model.init_args.c")]
    with refused("model.c", "set data.init_args.a and data.init_args.b"):
        refuse_linked(from_arguments(["--model.c", "3"]), links)
    refuse_linked(from_arguments(["--model.cc", "3", "--network.c", "3"]), links)


def test_a_linked_key_in_a_file_is_refused_and_leaves_nothing(command: Command, tmp_path: Path) -> None:
    content = base()
    content["model"]["init_args"]["network"] = {"class_path": "MLP", "init_args": {"pretrained": "X"}}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(content))
    done = command("fit", "--config", file, "--wandb", "disabled")
    assert done.code == 2, done.err
    check_printed(done.err, "model.init_args.network.class_path", file, "set network.class_path")
    assert not done.runs.exists(), "a run was begun"


@pytest.mark.parametrize(
    "part",
    [{"set": {"model.network.hidden": [3]}}, {"tune": {"model.init_args.network.init_args.dropout": [0.0, 0.5]}}],
)
def test_a_linked_key_in_a_studys_arm_is_refused_before_anything_is_planned(
    part: dict[str, Any],
) -> None:
    study = make_study({"base": base(), "arms": {"plain": {}, "other": part}, "seeds": [0]}, ROOT, "s")
    with pytest.raises(UserError) as error:
        Plan(study, resolve).check()
    assert error.value.key.startswith("arms.other")
    assert error.value.fix == f"set network.init_args.{'hidden' if 'set' in part else 'dropout'}"


def test_a_linked_key_on_a_studys_axis_is_refused() -> None:
    axes = {"model.network.dropout": [0.0, 0.5]}
    study = make_study({"base": base(), "arms": {"plain": {}}, "axes": axes, "seeds": [0]}, ROOT, "s")
    with refused("arms.plain (dropout=0.0)", "set network.init_args.dropout"):
        Plan(study, resolve).check()


# ---- arguments that another one leaves unused ----


def test_an_argument_that_another_one_leaves_unused_is_refused() -> None:
    def parsed(*flags: str) -> dict[str, Any]:
        return resolve_arguments(["--config", str(ROOT / DISTILL), *flags])

    with refused("model.init_args.temperature", "4.0", "distance mse", "distance kl"):
        parsed("--model.temperature=4")
    with refused("data.init_args.crop_padding", "2", "augment null", "augment [crop]"):
        parsed("--data.crop_padding=2")
    assert parsed("--model.temperature=4", "--model.distance=kl")["model"]["init_args"]["temperature"] == 4
    assert parsed("--data.crop_padding=2", "--data.augment=[crop]")["data"]["init_args"]["crop_padding"] == 2


# ---- a key twice ----

DOUBLED: dict[str, tuple[str, str]] = {
    "a block": ("trainer:\n  max_epochs: 3\nmodel: A\ntrainer:\n  min_epochs: 1\n", "'trainer' .* lines 1 and 4"),
    "a key within a block": ("a:\n  b:\n    c: 1\n    d: 2\n    c: 3\n", "'a.b.c' .* lines 3 and 5"),
    "a key with and without quotes": ('a: 1\n"a": 1\n', "'a' .* lines 1 and 2"),
    "one number in two spellings": ("a: {1: x, 0x1: y}\n", "'a.0x1' .* both in line 1"),
    "on, a word of YAML, in two spellings": ("on: 1\nYes: 2\n", "'Yes' .* lines 1 and 2"),
    "on as a boolean and as a text": ("on: 1\n'on': 2\n", "'on' .* lines 1 and 2"),
    "a key of a mapping in a list": ("a:\n- b: 1\n- c: 1\n  c: 2\n", "'a.1.c' .* lines 3 and 4"),
    "a merge twice": ("x: &x {a: 1}\ny: &y {b: 1}\nz:\n  <<: *x\n  <<: *y\n", "'z.<<' .* lines 4 and 5"),
}


@pytest.mark.parametrize("case", DOUBLED)
@pytest.mark.parametrize("loader", [plain_yaml.Strict, plain_yaml.FastStrict])
def test_yaml_with_a_key_twice_is_refused_with_both_lines(case: str, loader: Any) -> None:
    text, said = DOUBLED[case]
    with pytest.raises(plain_yaml.DoubledKey, match=said):
        yaml.load(text, loader)


@pytest.mark.parametrize(
    "text",
    [
        "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  a: 3\n",
        "a: {b: 1}\nc: {b: 1}\n",
        "- a: 1\n- a: 1\n",
        "'1': a\n1: b\n",
        "x: &x {a: 1}\ny: [*x, *x]\nz: {<<: *x, a: 2}\nw: {<<: *x, b: 2}\n",
        "",
    ],
)
def test_yaml_whose_keys_only_look_alike_is_read_as_pyyaml_reads_it(text: str) -> None:
    assert plain_yaml.load(text) == yaml.safe_load(text)
    assert yaml.load(text, plain_yaml.FastStrict) == yaml.safe_load(text)


def test_every_reader_of_yaml_files_refuses_a_key_twice(tmp_path: Path) -> None:
    """fit's configs, study files and their base, blocks in files of their own, values of flags, Slurm profiles, runs."""
    file = tmp_path / "config.yaml"
    file.write_text("partition: gpu\ntime: '1'\npartition: cpu\n")
    for read in (check_yaml, read_study, made):
        with refused("--profile" if read is made else "--config", file, "'partition'", "lines 1 and 3"):
            read(file)
    (tmp_path / "study.yaml").write_text("base: config.yaml\narms: {plain: {}}\n")
    with refused("--config", file, "'partition'"):
        read_study(tmp_path / "study.yaml")
    (tmp_path / "model.yaml").write_text("class_path: PlainSFT\ninit_args:\n  lr: 0.1\n  lr: 0.2\n")
    for flags in (["--model", str(tmp_path / "model.yaml")], ["--model.optimizer_args={eps: 1, eps: 2}"]):
        with refused("model", "'init_args.lr'" if flags[0] == "--model" else "'eps'"):
            resolve_arguments(["--config", str(ROOT / DISTILL), *flags])
    notes = Notes()
    assert RunFiles(tmp_path, {}, notes).config() == {}
    assert "'partition' is given twice" in notes[0]


def test_no_shipped_yaml_file_has_a_key_twice() -> None:
    files = [f for folder in ("experiments", "slurm") for f in (ROOT / folder).rglob("*.yaml")]
    assert len(files) > 10
    for file in files:
        plain_yaml.load_file(file)


# ---- flags that something later overrides ----


def test_a_flag_before_config_that_the_file_overrides_is_said_with_the_value_that_won(command: Command) -> None:
    data = ("--data", "Digits", "--data.batch_size", 10)
    before = ("--trainer.max_epochs", 3, *data, "--model", "PlainSFT", "--trainer.min_epochs", 1)
    done = command("fit", *before, "--config", DISTILL, "--wandb", "disabled", "--trainer.max_epochs", 1)
    assert done.code == 0, done.err
    notes = [line for line in done.err.splitlines() if line.startswith("sft-lightning: note: ")]
    assert len(notes) == 3, done.err
    assert (
        f"--trainer.max_epochs 3 has no effect: {DISTILL}, which comes later, sets trainer.max_epochs to 80" in notes[0]
    )
    assert "--data.batch_size 10 has no effect" in notes[1]
    assert "sets data.init_args.batch_size to 20; write flags after --config" in notes[1]
    assert "--model PlainSFT has no effect" in notes[2]


def test_the_note_is_of_flags_alone_that_lost() -> None:
    def notes(*arguments: str) -> list[str]:
        words = [a.replace("FILE", str(ROOT / DISTILL)) for a in arguments]
        return overridden(list(from_arguments(words)), command_parser("fit")[0].parse_args(words))

    assert notes("--config", "FILE", "--trainer.max_epochs", "3") == []
    assert notes("--trainer.max_epochs", "80", "--config", "FILE") == [], "both say the same"
    assert notes("--trainer.min_epochs=1", "--config", "FILE") == [], "the file does not set it"
    assert notes("--config", "FILE", "--model.lr=1e-3", "--model.init_args.lr", "0.001") == []
    (line,) = notes("--config", "FILE", "--model.lr=0.1", "--model.init_args.lr", "0.2")
    assert line == "--model.lr 0.1 has no effect: the same flag again sets it to 0.2"
    stop = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss")
    assert notes("--config", "FILE", *stop, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=x") == []


# ---- keys in errors ----


@pytest.mark.parametrize(
    ("arguments", "key", "wanted"),
    [
        (["--model.lr", "1"], "model.init_args.lr", "model.lr"),
        (["--model.init_args.lr", "1"], "model.lr", "model.init_args.lr"),
        (["--model.lr=1", "--model.init_args.lr=2"], "model.lr", "model.init_args.lr"),
        (["--model.optimizer_args.betas", "[1]"], "model.init_args.optimizer_args", "model.optimizer_args"),
        (["--model", "PlainSFT"], "model.lr", "model.init_args.lr"),
        (["--model", "PlainSFT"], "model.safetensors", "model.safetensors"),
        (["--model", "PlainSFT"], "data.lr", "data.lr"),
        (["--model", "PlainSFT"], "model", "model"),
        (["--model.init_args.network.class_path", "MLP"], "model.init_args.network.class_path", None),
        (["--trainer.max_epochs", "1"], "trainer.max_epochs", None),
    ],
)
def test_an_error_names_a_key_as_it_was_written_else_in_full(
    arguments: list[str], key: str, wanted: str | None
) -> None:
    error = UserError(key, "must be 1, got 2", f"set {key} 1, or correct ./{key}")
    config = {"model": {"class_path": "PlainSFT", "init_args": {"lr": 0.1}}, "retention": None}
    named = in_users_words(error, list(from_arguments(arguments)), config)
    wanted = wanted or key
    assert (named.key, named.problem, named.fix) == (wanted, error.problem, f"set {wanted} 1, or correct ./{key}")


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    for value in (1, 2, 1):
        file.write_text(f"model: {{init_args: {{lr: {value}}}}}\n")
        assert [(g.key, g.value) for g in from_arguments(["--config", str(file)])] == [("model.init_args.lr", value)]
