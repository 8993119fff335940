"""fit, test, validate, predict and resume, as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from sft_lightning.runs import load
from tests.cli.conftest import ROOT, Command
from tests.networks.tiny import tiny_folder
from tests.refused import check_printed

DISTILL = ("--config", "experiments/digits/distill.yaml", "--wandb", "disabled")
SHORT = ("--trainer.max_epochs", 20, "--test_after_fit", "false")


def test_quickstart_learns_the_new_digits_and_keeps_the_old_ones(command: Command) -> None:
    done = command("fit", "--config", "experiments/digits/distill.yaml")
    assert done.code == 0, done.err
    run = done.run
    assert run.status == "finished"
    assert run.metrics["val/accuracy"] >= 0.93
    assert run.metrics["retention/accuracy"] >= 0.98
    assert run.record["test"]["test/accuracy"] >= 0.93
    for told in ("metric", "before", "after", "at best.ckpt", "val/accuracy", "retention/accuracy", "drift/kl"):
        assert told in done.out, f"the output does not show {told}"
    for file in (
        run.files.config,
        run.files.metrics,
        run.files.last,
        run.files.best,
        run.files.model / "model.safetensors",
    ):
        assert file.is_file(), f"{file} is missing from the run directory"
    assert list((run.path / "wandb").glob("offline-run-*/*.wandb")), "no offline W&B file"
    assert run.record["schema"] == 1
    for key in (
        "git",
        "versions",
        "data",
        "retention",
        "teacher_hash",
        "device",
        "parameters",
        "seed",
        "command",
        "times",
    ):
        assert run.record[key] is not None, f"run.json says nothing of {key}"
    before = run.record["metrics"]["retention/accuracy"]["before"]
    assert run.metrics["retention/forgetting"] == pytest.approx(before - run.metrics["retention/accuracy"])


def test_a_run_says_of_how_many_samples_its_numbers_are(command: Command) -> None:
    few = ("--trainer.limit_val_batches", 0.5, "--trainer.limit_test_batches", 0.1, "--drift_rows", 20)
    done = command("fit", *DISTILL, "--trainer.max_epochs", 1, *few)
    assert done.code == 0, done.err
    record = done.run.record
    sizes = {name: record[name]["sizes"] for name in ("data", "retention")}
    wanted = {"val": round(sizes["data"]["val"] / 2), "retention": round(sizes["retention"]["val"] / 2), "drift": 20}
    wanted |= {"test": round(sizes["data"]["test"] / 10), "test/retention": round(sizes["retention"]["test"] / 10)}
    assert record["n"] == {**wanted, "test/drift": 20}
    assert not [m for m in (*record["metrics"], *record["test"]) if m.startswith("n/")], "counts among the metrics"
    for said in (f"val {wanted['val']} of {sizes['data']['val']}", "drift 20 of", "retention"):
        line = next((x for x in done.out.splitlines() if x.startswith("measured")), "")
        assert said in line, f"'{said}' is not said at the start: {line}"
    history = [json.loads(line) for line in done.run.files.metrics.read_text().splitlines()]
    counted = [h for h in history if "val/accuracy" in h and h["step"]]
    assert counted and all((h["n/val"], h["n/drift"]) == (wanted["val"], 20) for h in counted)
    for bad in (0, -3):
        refused = command("fit", *DISTILL, "--drift_rows", bad)
        assert refused.code == 2
        check_printed(refused.err, "drift_rows", bad)


def test_the_saved_config_alone_repeats_the_run_bit_for_bit(command: Command) -> None:
    first = command("fit", *DISTILL, *SHORT, "--seed_everything", 7).run
    again = command("fit", "--config", first.files.config).run
    assert again.path != first.path
    weights = [torch.load(r.files.last, weights_only=True)["state_dict"] for r in (first, again)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert first.metrics == again.metrics


def test_test_validate_and_predict_use_the_best_checkpoint_of_a_run(command: Command) -> None:
    run = command("fit", *DISTILL, *SHORT).run
    fitted = dict(run.record["metrics"])
    validated = command("validate", "--run", run.path, "--wandb", "disabled")
    assert validated.code == 0, validated.err
    record = load(run.path).record
    assert record["metrics"] == fitted, "validate changed what fit had recorded"
    assert record["validate"]["val/accuracy"] == pytest.approx(fitted["val/accuracy"]["best"])
    tested = command("test", "--run", run.path, "--wandb", "disabled")
    assert tested.code == 0, tested.err
    record = load(run.path).record
    assert record["test"]["test/accuracy"] > 0.5
    assert {"retention/accuracy", "retention/forgetting", "drift/kl"} <= record["test"].keys()
    predicted = command("predict", "--run", run.path)
    assert predicted.code == 0, predicted.err
    rows = [json.loads(line) for line in run.files.predictions.read_text().splitlines()]
    from sft_lightning.data import Digits

    data = Digits(classes=[5, 6, 7, 8, 9])
    data.setup()
    split = data.splits["test"]
    assert [r["index"] for r in rows] == split.rows.tolist(), "each test sample once, in order"
    assert split.targets is not None
    right = [r["label"] == str(t + 5) for r, t in zip(rows, split.targets, strict=True)]
    assert sum(right) / len(right) == pytest.approx(record["test"]["test/accuracy"])


STOPS = {"at the end of an epoch": ("--trainer.max_epochs", 10), "amid an epoch": ("--trainer.max_steps", 52)}


@pytest.mark.parametrize("stop", STOPS)
def test_resume_goes_on_where_the_run_stopped_and_ends_like_an_undisturbed_one(command: Command, stop: str) -> None:
    drawn = ("--network.init_args.dropout", 0.3, "--model.init_args.ema_decay", 0.9, "--model.lr_schedule", "constant")
    whole = command("fit", *DISTILL, *SHORT, *drawn, "--run_id", "whole").run
    half = command("fit", *DISTILL, *SHORT, *drawn, *STOPS[stop], "--run_id", "half").run
    resumed = command("fit", "--resume", half.path, "--trainer.max_epochs", 20, "--trainer.max_steps", -1)
    assert resumed.code == 0, resumed.err
    again = load(half.path)
    assert again.path == half.path
    assert again.record["resumed"] == 1
    assert again.config["trainer"]["max_epochs"] == 20, "config.yaml does not say what the run became"
    saved = [torch.load(r.files.last, weights_only=True) for r in (whole, again)]
    for part in ("state_dict", "raw_weights"):
        one, other = (s[part] for s in saved)
        assert all(torch.equal(one[k], other[k]) for k in one), f"the resumed {part} differs"
    assert whole.metrics == again.metrics
    steps = [row["step"] for row in again.history()]
    assert steps == sorted(set(steps)), "a step was logged twice"
    if stop == "at the end of an epoch":  # a run that stops elsewhere is measured there once more
        assert steps == [row["step"] for row in whole.history()]


def test_a_run_directory_is_never_reused_silently(command: Command) -> None:
    assert command("fit", *DISTILL, *SHORT, "--run_id", "mine", "--trainer.max_epochs", 1).code == 0
    again = command("fit", *DISTILL, *SHORT, "--run_id", "mine", "--trainer.max_epochs", 1)
    assert again.code == 2
    check_printed(again.err, "run_id", "mine", "--resume")


def test_another_variants_checkpoint_is_refused_instead_of_silently_training_that_variant(command: Command) -> None:
    run = command("fit", *DISTILL, *SHORT, "--trainer.max_epochs", 1).run
    other = command(
        "fit", "--config", "experiments/digits/plain.yaml", "--ckpt_path", run.files.last, "--wandb", "disabled"
    )
    assert other.code == 2
    check_printed(other.err, "ckpt_path", "DistillSFT", "PlainSFT")
    changed = command("fit", *DISTILL, *SHORT, "--ckpt_path", run.files.last, "--model.init_args.anchor_weight", 0.7)
    assert changed.code == 2
    check_printed(changed.err, "ckpt_path", "anchor_weight", "0.1", "0.7")


def test_the_command_line_wins_over_a_checkpoints_hyperparameters(command: Command) -> None:
    run = command("fit", *DISTILL, *SHORT, "--trainer.max_epochs", 1).run
    more = ("--trainer.max_epochs", 2, "--model.init_args.freeze_batchnorm_stats", "true")
    resumed = command("fit", *DISTILL, *SHORT, *more, "--ckpt_path", run.files.last)
    assert resumed.code == 0, resumed.err
    assert resumed.run.config["model"]["init_args"]["freeze_batchnorm_stats"] is True


def test_changing_the_optimizer_leaks_nothing_from_the_other_one(command: Command, tmp_path: Path) -> None:
    base, over = tmp_path / "base.yaml", tmp_path / "over.yaml"
    content = yaml.safe_load((ROOT / "experiments/digits/plain.yaml").read_text())
    content["model"]["init_args"] = {
        "optimizer": "AdamW",
        "optimizer_args": {"betas": [0.8, 0.9]},
        "weight_decay": 0.05,
    }
    base.write_text(yaml.safe_dump(content))
    over.write_text(yaml.safe_dump({"model": {"init_args": {"optimizer": "SGD", "optimizer_args": {"momentum": 0.9}}}}))
    shown = command("fit", "--config", base, "--config", over, "--print_config")
    assert shown.code == 0, shown.err
    arguments = yaml.safe_load(shown.out)["model"]["init_args"]
    assert arguments["optimizer"] == "SGD"
    assert arguments["optimizer_args"] == {"momentum": 0.9}, "AdamW's betas reached SGD"
    assert arguments["weight_decay"] == 0.05, "weight_decay is the variant's own argument and stays as the user set it"


def test_fast_dev_run_still_records_what_it_was(command: Command) -> None:
    done = command("fit", *DISTILL, "--trainer.fast_dev_run", "true")
    assert done.code == 0, done.err
    assert done.run.status == "finished"
    assert done.run.config["trainer"]["fast_dev_run"] is True


def test_short_names_dotted_paths_and_the_users_own_modules_resolve(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_variants.py").write_text(
        "from sft_lightning.modules import DistillSFT\n\n\nclass MyDistill(DistillSFT):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rest = (*DISTILL, *SHORT, "--trainer.max_epochs", 1, "--quiet", "true")
    dotted = command("fit", *rest, "--model", "my_variants.MyDistill")
    assert dotted.code == 0, dotted.err
    assert dotted.run.record["variant"] == "MyDistill"
    short = command("fit", *rest, "--import", "my_variants", "--model", "MyDistill")
    assert short.code == 0, short.err
    full = command("fit", *rest, "--model", "sft_lightning.modules.distill.DistillSFT", "--network.class_path", "MLP")
    assert full.code == 0, full.err


def test_early_stopping_follows_a_validation_metric(command: Command, tmp_path: Path) -> None:
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/accuracy", "mode": "max", "patience": 1}}
    extra = tmp_path / "stop.yaml"
    extra.write_text(
        yaml.safe_dump({"trainer": {"callbacks": [stop], "max_epochs": 400, "check_val_every_n_epoch": 5}})
    )
    done = command("fit", *DISTILL, "--config", extra, "--test_after_fit", "false")
    assert done.code == 0, done.err
    assert done.run.record["epochs"] < 400


def test_a_constant_run_id_is_the_wandb_id_and_the_config_holds_everything(command: Command) -> None:
    run = command(
        "fit", "--config", "experiments/digits/distill.yaml", "--run_id", "given", "--trainer.max_epochs", 10
    ).run
    folder = next((run.path / "wandb").glob("offline-run-*-given"))
    tool = Path(sys.executable).with_name("wandb")
    shown = subprocess.run(
        [tool, "leet", "inspect", "--summary", "--json", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    told = json.loads(shown.stdout)
    config, summary = told["config"], told["summary"]
    assert config["model"]["init_args"]["anchor_weight"] == 0.1
    assert config["network"]["init_args"]["pretrained"] == "builtin:digits-0-4"
    assert config["retention"]["class_path"].endswith("Digits")
    assert config["data"]["fingerprint"] == run.record["data"]["fingerprint"]
    assert config["git"]["commit"] == run.record["git"]["commit"]
    for metric in ("val/accuracy", "retention/accuracy", "drift/kl", "train/loss"):
        assert metric in summary, f"{metric} did not reach W&B"
    assert summary["val/accuracy"] == pytest.approx(run.metrics["val/accuracy"])
    assert "val/confusion_matrix_table" in summary
    assert "val/samples" in summary


def test_quiet_prints_the_path_alone(command: Command) -> None:
    done = command("fit", *DISTILL, *SHORT, "--trainer.max_epochs", 1, "--quiet", "true")
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines() if line] == ["run"]


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys; from sft_lightning.cli.main import main\n"
        "for a in (['--help'], ['--version'], ['fit', '--help'], ['test', '--help']): assert main(a) == 0, a\n"
        "heavy = {'torch', 'lightning', 'transformers', 'numpy', 'jsonargparse'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--network" in done.stdout
    assert "sft-lightning 0" in done.stdout


def test_a_run_that_ends_between_validations_is_measured_and_saved_at_its_end(command: Command) -> None:
    run = command("fit", *DISTILL, "--trainer.max_steps", 7, "--test_after_fit", "false").run
    assert run.record["steps"] == 7
    assert run.metrics["val/accuracy"] > 0
    assert run.metrics["drift/weights_l2"] > 0
    saved = torch.load(run.files.last, weights_only=True)
    assert saved["global_step"] == 7
    assert run.record["metrics"]["drift/kl"]["before"] == 0.0
    assert run.files.best.is_file()
    assert (run.files.model / "model.safetensors").is_file()
    assert run.history()[-1]["step"] == 7


def test_predict_needs_no_labels_and_no_training_data(command: Command, tmp_path: Path) -> None:
    rows = [f"a {('good', 'bad')[i % 2]} film number {i},{('glad', 'sad')[i % 2]}" for i in range(40)]
    train = tmp_path / "train.csv"
    train.write_text("\n".join(["text,label", *rows]) + "\n")
    content = {
        "model": "PlainSFT",
        "network": {"class_path": "LSTM", "init_args": {"hidden": 8, "embedding_dim": 8}},
        "data": {"class_path": "TextTable", "init_args": {"train": str(train), "batch_size": 8}},
        "trainer": {"max_epochs": 1},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    run = command("fit", "--config", tmp_path / "c.yaml", "--wandb", "disabled").run
    train.unlink()
    (tmp_path / "new.csv").write_text("text\na good one\na bad one\nanother\n")
    done = command("predict", "--run", run.path, "--data.init_args.predict", tmp_path / "new.csv")
    assert done.code == 0, done.err
    rows_out = [json.loads(line) for line in run.files.predictions.read_text().splitlines()]
    assert [r["index"] for r in rows_out] == [0, 1, 2]
    assert all(r["label"] in ("glad", "sad") for r in rows_out)


def test_the_anchors_key_on_needs_no_quotes(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "on.yaml"
    file.write_text("model:\n  class_path: DistillSFT\n  init_args:\n    on: features\n")
    shown = command("fit", *DISTILL, "--config", file, "--print_config")
    assert shown.code == 0, shown.err
    assert yaml.safe_load(shown.out)["model"]["init_args"]["on"] == "features"


def test_sets_of_labels_and_choices_are_predicted_for_the_users_own_rows_in_their_order(
    command: Command, tmp_path: Path
) -> None:
    labelled = "".join(f"a {'good' * (i % 2)} film {i},{'glad;' * (i % 2)}{'long' * (i % 3 > 0)}\n" for i in range(40))
    (tmp_path / "train.csv").write_text("text,labels\n" + labelled)
    network = {"class_path": "LSTM", "init_args": {"hidden": 8, "embedding_dim": 8}}
    data = {"class_path": "MultiLabelTable", "init_args": {"train": str(tmp_path / "train.csv"), "batch_size": 8}}
    sets = fitted(command, tmp_path, network, data)
    (tmp_path / "new.csv").write_text('text\na good long text of words\n""\nshort\n')
    said = command(
        "predict", "--run", sets, "--data.init_args.predict", tmp_path / "new.csv", "--data.on_bad_sample", "skip"
    )
    assert said.code == 0, said.err
    rows = predicted(sets)
    assert [row["index"] for row in rows] == [0, 2], "the empty text is left out"
    assert all(len(row["probabilities"]) == 2 and set(row["labels"]) <= {"glad", "long"} for row in rows)

    asked = "".join(f"what is {i},one {i},two {i},{'AB'[i % 2]}\n" for i in range(40))
    (tmp_path / "train.csv").write_text("question,a,b,label\n" + asked)
    network = {
        "class_path": "TransformersChoice",
        "init_args": {"pretrained": tiny_folder(tmp_path / "bert", "bert", "none")},
    }
    init = {"train": str(tmp_path / "train.csv"), "choice_columns": ["a", "b"], "batch_size": 8}
    choices = fitted(command, tmp_path, network, {"class_path": "MultipleChoice", "init_args": init})
    (tmp_path / "new.csv").write_text("question,a,b\nwhy is it so long that it comes first,x,y\nwhat,no,yes\n")
    said = command("predict", "--run", choices, "--data.init_args.predict", tmp_path / "new.csv")
    assert said.code == 0, said.err
    rows = predicted(choices)
    assert [row["index"] for row in rows] == [0, 1]
    for row, texts in zip(rows, (["x", "y"], ["no", "yes"]), strict=True):
        assert row["text"] == texts[row["choice"]] and row["choice"] == row["probabilities"].index(
            max(row["probabilities"])
        )
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)


def fitted(command: Command, tmp_path: Path, network: dict[str, object], data: dict[str, object]) -> Path:
    """A run of one epoch."""
    content = {"model": "PlainSFT", "network": network, "data": data, "trainer": {"max_epochs": 1}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    done = command("fit", "--config", tmp_path / "c.yaml", "--wandb", "disabled")
    assert done.code == 0, done.err
    return Path(done.run.path)


def predicted(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
