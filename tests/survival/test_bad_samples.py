"""Samples that cannot be read: the run fails and names the first, or goes on as if they were not there and counts them."""

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from sft_lightning.callbacks import Checkpoints, WritePredictions
from sft_lightning.core.environment_errors import machine_fault
from sft_lightning.data import IMDB, HubImages, ImageFolder, Instructions, SFTDataModule, TextTable
from sft_lightning.data.bad_samples import BadSample, report, skipped_lines
from sft_lightning.data.base import Samples, Split
from sft_lightning.data.sampler import Key
from sft_lightning.data.vision.base import Images
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import LeNet, spec
from sft_lightning.runs import load
from tests.cli.conftest import ROOT, Command, command  # noqa: F401  a fixture
from tests.data.text_files import write_jsonl, write_text
from tests.data.vision_files import table, write_folder
from tests.refused import check_printed, refused
from tests.support import fit, moved, quiet_trainer, settle, weights

NETWORK = spec(LeNet, image_size=16)
TRAIN, VAL, TEST = {"a": 8, "b": 8}, {"a": 4, "b": 4}, {"a": 3, "b": 3}


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])


def no_image(file: Path) -> None:
    file.write_text("not an image")


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def vanished(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, Callable[[Path], None]] = {
    "train/a/0.png": truncated,
    "train/a/1.png": no_image,
    "train/b/7.png": emptied,
    "val/a/2.png": a_folder,  # 2 and 3 are a whole batch of two
    "val/a/3.png": vanished,
}


def images(root: Path) -> Path:
    for split, classes in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        write_folder(root / split, classes, side=18, seed=len(split))
    return root


def damaged(root: Path) -> Path:
    images(root)
    for name, damage in DAMAGE.items():
        damage(root / name)
    return root


def without(root: Path) -> Path:
    images(root)
    for name in DAMAGE:
        (root / name).unlink()
    return root


def folder(root: Path, **settings: Any) -> ImageFolder:
    settings = {"batch_size": 16, "eval_batch_size": 2, "seed": 0, "on_bad_sample": "skip", **settings}
    return ImageFolder(str(root), **settings)


def trained(data: SFTDataModule, **settings: Any) -> tuple[Any, dict[str, float]]:
    """The module after three epochs, and the metrics of the last validation."""
    module = PlainSFT(NETWORK, lr=1e-3)
    trainer = fit(module, data, max_epochs=3, precision="64-true", **settings)
    return module, {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, float]]:
    """Trained on a folder that never had the bad files."""
    return trained(folder(without(tmp_path_factory.mktemp("without")), on_bad_sample="fail"))


# ---- skipping ----


@pytest.mark.parametrize("kept", [True, False], ids=["views kept in memory", "read each time"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_skips_is_the_run_without_those_samples(
    workers: int,
    kept: bool,
    reference: tuple[Any, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each step is on the whole training set, so that the order, which is of another number of samples, does not matter."""
    if not kept:
        monkeypatch.setattr(Images, "KEEP_BYTES", 0)
    data = folder(damaged(tmp_path), num_workers=workers)
    module, metrics = trained(data)
    assert moved(weights(module), weights(reference[0])) < 1e-9
    assert metrics == pytest.approx(reference[1], rel=1e-9)
    assert {s: e["count"] for s, e in data.skipped_report().items()} == {"train": 3, "val": 2}, "over three epochs"
    assert [s["name"] for s in data.skipped_report()["train"]["samples"]] == [
        str(tmp_path / n) for n in DAMAGE if n.startswith("train")
    ]
    warnings = [line for line in capfd.readouterr().err.splitlines() if "sft-lightning: warning" in line]
    assert len(warnings) == 1
    assert str(tmp_path) in warnings[0]


def test_a_micro_batch_of_nothing_but_bad_samples_adds_nothing(
    reference: tuple[Any, dict[str, float]], tmp_path: Path
) -> None:
    module, metrics = trained(folder(damaged(tmp_path)), accumulate_grad_batches=16)
    assert moved(weights(module), weights(reference[0])) < 1e-9
    assert metrics == pytest.approx(reference[1], rel=1e-9)


@pytest.mark.parametrize("split", ["train", "val"])
def test_all_ranks_do_as_many_batches_as_without_bad_samples(split: str, tmp_path: Path) -> None:
    data = ready(folder(damaged(tmp_path), batch_size=4, eval_batch_size=2))
    parts = [list(data.loader(split, rank, 2)) for rank in (0, 1)]
    whole = {"train": 16, "val": 8}[split]
    assert [len(part) for part in parts] == [whole // 4] * 2
    seen = [
        row
        for b in parts[0] + parts[1]
        for row, real in zip(b["rows"], b.get("real", [True] * 4), strict=False)
        if real
    ]
    names = {data.splits[split].samples.name(row) for row in seen}
    assert len(seen) == len(names) == whole - sum(n.startswith(split) for n in DAMAGE)
    assert not names & {str(tmp_path / n) for n in DAMAGE}
    assert all(b["count"] == len(b["y"]) and len(b["x"]["image"]) for part in parts for b in part)


def ready(data: ImageFolder | HubImages) -> Any:
    data.setup()
    assert data.task_info is not None
    settle(data, LeNet(data.task_info, image_size=16))
    return data


def test_predictions_leave_bad_samples_out_and_keep_the_others_numbers(tmp_path: Path) -> None:
    data = folder(images(tmp_path / "images"), predict_root=str(tmp_path / "images" / "test"))
    module, _ = trained(data, limit_val_batches=0)
    for name in ("a/1.png", "b/0.png", "b/1.png"):  # 1; 3 and 4
        no_image(tmp_path / "images" / "test" / name)
    data = folder(tmp_path / "images", predict_root=str(tmp_path / "images" / "test"))
    trainer = quiet_trainer(precision="64-true", callbacks=[WritePredictions(tmp_path / "predictions.jsonl")])
    trainer.predict(module, datamodule=data, return_predictions=False)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 2, 5]
    assert data.skipped_report()["predict"]["count"] == 3


def test_a_sample_that_can_be_read_again_takes_part_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Images, "KEEP_BYTES", 0)
    data = ready(folder(images(tmp_path)))
    file = tmp_path / "train" / "a" / "5.png"
    content = file.read_bytes()
    counts = []
    loader = data.loader("train", 0, 1)
    for damage in (content, b"gone", content, b"gone"):
        file.write_bytes(damage)
        (batch,) = [data.receive(b) for b in loader]
        counts.append(batch["count"])
    assert counts == [16, 15, 16, 15]
    assert data.skipped_report()["train"]["count"] == 1


def test_a_bad_image_is_never_kept_as_a_view(tmp_path: Path) -> None:
    data = ready(folder(damaged(tmp_path)))
    for _ in range(2):
        (batch,) = data.loader("train", 0, 1)
        assert batch["count"] == 13
    samples = data.splits["train"].samples
    bad = [row for row in range(len(samples)) if str(Path(samples.name(row)).relative_to(tmp_path)) in DAMAGE]
    assert samples._have[torch.tensor(bad)].tolist() == [0, 0, 0]


def test_what_is_counted_survives_a_resume_and_is_not_doubled(tmp_path: Path) -> None:
    first = ready(folder(damaged(tmp_path)))
    for batch in first.loader("train", 0, 1):
        first.receive(batch)
    second = ready(folder(tmp_path))
    second.load_state_dict(first.state_dict())
    assert second.skipped_report() == first.skipped_report()
    for split in ("train", "val"):
        for batch in second.loader(split, 0, 1):
            second.receive(batch)
    assert {s: e["count"] for s, e in second.skipped_report().items()} == {"train": 3, "val": 2}


def test_fingerprint_and_description_do_with_unreadable_files(tmp_path: Path) -> None:
    data = folder(damaged(tmp_path))
    data.setup()
    first = data.fingerprint()
    assert "16 train, 8 val, 6 test" in data.describe()
    (tmp_path / "val/a/3.png").unlink()
    (tmp_path / "val/a/3.png").write_bytes(b"unreadable, but with bytes")
    other = folder(tmp_path)
    other.setup()
    assert {n for n in first if other.fingerprint()[n] != first[n]} == {"val"}


def test_a_split_of_which_nothing_can_be_read_is_an_error_all_the_same(tmp_path: Path) -> None:
    data = ready(folder(images(tmp_path)))
    for file in (tmp_path / "val").rglob("*.png"):
        no_image(file)
    with refused("data", "val", ".png"):
        list(data.loader("val", 0, 1))


def test_images_of_another_size_are_a_setting_to_mend_and_not_skipped(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 8, "b": 8}, side=18)
    write_folder(tmp_path / "a", {"more": 8}, side=24)
    data = ImageFolder(str(tmp_path), on_bad_sample="skip")
    data.setup()
    for split in data.splits.values():
        split.samples.fit(None, 3)  # type: ignore[attr-defined]
    with refused("data", "data.init_args.image_size"):
        [list(data.loader(split, 0, 1)) for split in data.splits]


def test_too_many_open_files_are_no_damage_of_a_file(tmp_path: Path) -> None:
    data = ready(folder(images(tmp_path)))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        with suppress(OSError):
            while True:
                opened.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(OSError) as error:
            data.splits["train"].samples.read(3)
    finally:
        for number in opened:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert error.value.errno == errno.EMFILE
    assert "ulimit -n" in str(machine_fault(error.value))


class Fragile(Samples):
    """Someone's own samples: numbers, of which one cannot be had."""

    def __init__(self, skips: bool) -> None:
        self.targets, self.skips = np.arange(6), skips

    def __len__(self) -> int:
        return 6

    def fetch(self, rows: Any, keys: Any, train: bool) -> dict[str, Any]:
        for row in rows:
            if row in (2, 3, 5):
                raise BadSample.of(self, {row: "it was taken"})
        return {"x": torch.tensor(rows)}

    def digest(self) -> bytes:
        return b""


def test_samples_of_ones_own_say_what_cannot_be_read_one_by_one() -> None:
    split = Split(Fragile(True), np.arange(6), np.arange(6), False)
    batch = split.__getitems__([Key(p, 0) for p in (1, 2, 3, 4)])
    assert batch["rows"] == batch["y"].tolist() == [1, 4]
    assert batch["skipped"] == ("", {"sample 2": "it was taken", "sample 3": "it was taken"})
    batch = split.__getitems__([Key(p, 0) for p in (2, 3)])
    assert (batch["rows"], batch["count"], batch["real"].tolist()) == ([4], 0, [False])
    with refused("data", "sample 2", "it was taken"):
        Split(Fragile(False), np.arange(6), None, False).__getitems__([Key(2, 0)])


def test_a_report_names_the_first_twenty_and_the_console_three() -> None:
    told = report({"train": {f"/x/{i}.png": "damaged" for i in reversed(range(30))}, "val": {"one": "why"}, "test": {}})
    assert list(told) == ["train", "val"]
    assert told["train"]["count"] == 30
    assert [s["name"] for s in told["train"]["samples"]] == [f"/x/{i}.png" for i in range(20)]
    assert skipped_lines(told) == [
        "skipped 30 unreadable samples of train: /x/0.png, /x/1.png, /x/2.png, …",
        "skipped 1 unreadable sample of val: one",
    ]
    json.dumps(report({"train": {"bad\udcffname": "why"}})).encode()


# ---- tables ----


def test_bad_rows_of_parquet_images_are_left_out(tmp_path: Path) -> None:
    rows = table(12, 0).to_list()
    rows[3]["image"]["bytes"] = b"broken"
    rows[4]["image"] = None
    rows[5]["label"] = None
    from datasets import Dataset

    Dataset.from_list(rows, features=table(1, 0).features).to_parquet(tmp_path / "train.parquet")
    data = ready(HubImages(str(tmp_path), val_fraction=0.3, batch_size=12, on_bad_sample="skip"))
    assert sorted(set(range(12)) - set(data.splits["train"].rows) - set(data.splits["val"].rows)) == [5]
    for split in data.splits:
        for batch in data.loader(split, 0, 1):
            data.receive(batch)
    told = {s["name"]: s["reason"] for e in data.skipped_report().values() for s in e["samples"]}
    assert told.keys() == {f"row {row} of train" for row in (3, 4, 5)}
    assert "label" in told["row 5 of train"]
    with refused("data", "row 5 of split 'train'"):
        HubImages(str(tmp_path)).setup()


GOOD = [{"text": f"a film of kind {i}", "label": ("bad", "good")[i % 2]} for i in range(20)]
CSV = [f"{row['text']},{row['label']}" for row in GOOD]
TABLES: dict[str, tuple[str, str, str, dict[int, str]]] = {
    "jsonl": (
        "\n".join([json.dumps(r) for r in GOOD[:2]] + ["{oops", "[1]", '{"text": "no label"}', '{"label": "good"}'])
        + '\n{"text": "é", "label": "good"}\n{"text": 3, "label": "new"}\n\n'
        + "\n".join(json.dumps(r) for r in GOOD[2:]),
        ".jsonl",
        "latin-1",
        {
            3: "malformed: Expecting",
            4: "malformed: a list",
            5: "column 'label' is null",
            6: "column 'text' has no value",
            7: "malformed: not UTF-8",
            8: "column 'text' holds a number",
        },
    ),
    "csv": (
        "\n".join(["text,label", *CSV[:2], "one field", "a,b,c", ",good", "a film,", '"x"y,good', "ä,good", *CSV[2:]]),
        ".csv",
        "latin-1",
        {
            4: "malformed: 1 field",
            5: "malformed: 3 fields",
            6: "column 'text' is empty",
            7: "column 'label' is empty",
            8: "malformed: ',' expected",
            9: "malformed: not UTF-8",
        },
    ),
}


@pytest.mark.parametrize("kind", TABLES)
def test_bad_rows_of_a_table_are_left_out_and_named_by_line(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content, suffix, encoding, bad = TABLES[kind]
    file = tmp_path / f"train{suffix}"
    file.write_bytes(content.encode(encoding))
    clean = TextTable(train=write_jsonl(tmp_path / "clean.jsonl", GOOD), on_bad_sample="fail")
    data = TextTable(train=str(file), on_bad_sample="skip")
    texts = []
    for d in (clean, data):
        d.setup()
        texts.append({n: [s.samples.texts[r] for r in s.rows] for n, s in d.splits.items()})  # type: ignore[attr-defined]
        assert d.task_info is not None
        assert d.task_info.labels == ["bad", "good"]
    assert texts[0] == texts[1], "the good rows are split as if they were alone"
    assert all(
        (clean.splits[n].targets == data.splits[n].targets).all()  # type: ignore[union-attr]
        for n in ("train", "val")
    )
    entry = data.skipped_report()["train"]
    assert entry["count"] == len(bad)
    for (line, why), said in zip(bad.items(), entry["samples"], strict=True):
        assert said["name"] == f"{file} line {line}"
        assert why in said["reason"], said
    err = capfd.readouterr().err
    assert err.count("sft-lightning: warning") == 1
    assert f"{file} line" in err
    assert "and 5 more of train left out" in err
    with refused("data", file, "line"):
        TextTable(train=str(file)).setup()


def test_numbers_and_pairs_that_are_none_are_left_out(tmp_path: Path) -> None:
    rows = [{"a": f"one {i}", "b": f"two {i}", "y": i / 7} for i in range(20)]
    file = write_jsonl(tmp_path / "train.jsonl", [*rows, {**rows[0], "y": "much"}, {**rows[0], "b": ""}, {"b": "x"}])
    data = TextTable(
        train=file, text_column="a", pair_column="b", label_column="y", task="regression", on_bad_sample="skip"
    )
    data.setup()
    assert sorted([*data.splits["train"].rows, *data.splits["val"].rows]) == list(range(20))
    assert data.skipped_report()["train"]["count"] == 3
    assert np.isfinite(np.concatenate([s.targets for s in data.splits.values()])).all()  # type: ignore[arg-type]


def test_predictions_of_a_table_are_numbered_as_its_rows_are(tmp_path: Path) -> None:
    file = write_text(tmp_path / "new.jsonl", '{"text": "a"}\n{broken\n{"text": "b"}\n')
    data = TextTable(predict=file, on_bad_sample="skip")
    data.setup("predict")
    assert data.splits["predict"].rows.tolist() == [0, 2]
    assert data.skipped_report()["predict"]["samples"][0]["name"] == f"{file} line 2"


SETTINGS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "another text column": ("text,label\na,x\nb,y\n", {"text_column": "texts"}, ("'texts'", "text, label")),
    "a column of numbers": ("text,label\n1,x\n2,y\n", {}, ("'text'", "numbers", "data.text_column")),
    "a label column of words for a regression": ("text,label\na,x\nb,y\n", {"task": "regression"}, ("train", "'x'")),
    "a quote that is never closed": ('text,label\na,x\n"b,y\nc,y\n', {}, ("line 3", "unexpected end of data")),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_a_mistake_in_the_settings_is_not_skipped(case: str, tmp_path: Path) -> None:
    content, arguments, values = SETTINGS[case]
    with refused("data", "a.csv", *values):
        TextTable(train=write_text(tmp_path / "a.csv", content), on_bad_sample="skip", **arguments).setup()


def test_a_review_that_is_no_text_is_named_by_its_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label in ("pos", "neg"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(12):
                (tmp_path / split / label / f"{i}.txt").write_text(f"a review {i}")
    (tmp_path / "train" / "pos" / "7.txt").write_bytes(b"caf\xe9")
    with refused("data", "train/pos/7.txt", "UTF-8"):
        IMDB(root=str(tmp_path)).setup()
    data = IMDB(root=str(tmp_path), on_bad_sample="skip")
    data.setup()
    assert len(data.splits["train"]) + len(data.splits["val"]) == 23
    assert "pos/7.txt is not UTF-8" in data.skipped_report()["train"]["samples"][0]["reason"]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}),
        ({"instruction": "a", "output": "b"}, {"instruction": 3, "output": "b"}),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            {"messages": [{"role": "usr", "content": "a"}]},
        ),
    ],
    ids=["prompt and completion", "Alpaca", "messages"],
)
def test_bad_conversations_are_left_out(good: dict[str, Any], bad: dict[str, Any], tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "train.jsonl", [*[good] * 10, bad, bad])
    data = Instructions(train=file, on_bad_sample="skip")
    data.setup()
    assert sorted([*data.splits["train"].rows, *data.splits["val"].rows]) == list(range(10))
    assert data.skipped_report()["train"]["count"] == 2
    data.fingerprint()
    with refused("data", f"{file} line 11"):
        Instructions(train=file).setup()


# ---- failing: the default ----


def config(tmp_path: Path, **data: Any) -> list[Any]:
    content = {
        "model": {"class_path": "PlainSFT", "init_args": {"lr": 1e-3}},
        "network": {"class_path": "LeNet", "init_args": {"image_size": 16}},
        "data": {"class_path": "ImageFolder", "init_args": {"root": str(tmp_path / "images"), "batch_size": 4, **data}},
        "trainer": {"max_epochs": 3, "accelerator": "cpu", "devices": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    return ["fit", "--config", tmp_path / "config.yaml", "--wandb", "disabled"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_goes_bad_amid_the_run_fails_it_by_name_and_it_goes_on_once_mended(
    workers: int,
    command: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Images, "KEEP_BYTES", 0)  # as with more images than fit in memory
    fit = config(tmp_path, num_workers=workers)
    images(tmp_path / "images")
    whole = command(*fit, "--run_id", "whole")
    assert whole.code == 0, whole.err
    file = tmp_path / "images" / "train" / "b" / "3.png"
    content, saved = file.read_bytes(), Checkpoints.on_validation_end

    def then_damage(self: Any, trainer: Any, module: Any) -> None:
        saved(self, trainer, module)
        file.write_bytes(content[:150])

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "on_validation_end", then_damage)
        done = command(*fit, "--run_id", "hurt")
    assert done.code == 2
    (line,) = [x for x in done.err.splitlines() if x.strip()]
    check_printed(line, "data", file)
    run = load(next(done.runs.glob("*/hurt")))
    assert run.status == "failed"
    assert str(file) in run.record["reason"]
    assert run.files.last.is_file()
    file.write_bytes(content)
    again = command("fit", "--resume", run.path, "--wandb", "disabled")
    assert again.code == 0, again.err
    assert load(run.path).status == "finished"
    one, two = (torch.load(r.files.last, weights_only=True)["state_dict"] for r in (whole.run, load(run.path)))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_file_that_vanished_is_named_before_training(command: Command, tmp_path: Path) -> None:  # noqa: F811
    fit = config(tmp_path)
    vanished(images(tmp_path / "images") / "train" / "b" / "3.png")
    done = command(*fit)
    assert done.code == 2
    check_printed(done.err, "data", "train/b/3.png", "No such file or directory")


# ---- the whole command ----


def test_a_run_says_what_it_skipped_on_the_console_and_in_its_record(command: Command, tmp_path: Path) -> None:  # noqa: F811
    fit = config(tmp_path, num_workers=2, on_bad_sample="skip")
    damaged(tmp_path / "images")
    done = command(*fit, "--trainer.max_epochs", 2)
    assert done.code == 0, done.err
    check_said(done.out, done.run.path, tmp_path)
    again = command("fit", "--resume", done.run.path, "--trainer.max_epochs", 3, "--wandb", "disabled")
    assert again.code == 0, again.err
    check_said(again.out, done.run.path, tmp_path)


def check_said(out: str, path: Path, tmp_path: Path) -> None:
    said = [line for line in out.splitlines() if line.startswith("skipped")]
    names = [str(tmp_path / "images" / n) for n in DAMAGE if n.startswith("train")]
    assert said[0] == f"skipped 3 unreadable samples of train: {', '.join(names)}"
    assert said[1].startswith("skipped 2 unreadable samples of val: ")
    assert len(said) == 2
    record = load(path).record
    assert {s: e["count"] for s, e in record["data"]["skipped"].items()} == {"train": 3, "val": 2}
    assert [s["name"] for s in record["data"]["skipped"]["train"]["samples"]] == names
    assert record["data"]["fingerprint"], "the rest of what is said of the data is gone"


@pytest.mark.slow
def test_two_processes_skip_as_one_does(command: Command, tmp_path: Path) -> None:  # noqa: F811
    fit = [*config(tmp_path, on_bad_sample="skip", num_workers=2, eval_batch_size=2), "--data.batch_size", 16]
    damaged(tmp_path / "images")
    alone = command(*fit)
    assert alone.code == 0, alone.err
    two = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--run_id", "two")
    done = subprocess.run(
        [sys.executable, "-m", "sft_lightning", *map(str, fit), *two],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (path,) = alone.runs.glob("*/two")
    check_said(done.stdout, path, tmp_path)
    one, other = (torch.load(r.files.last, weights_only=True)["state_dict"] for r in (alone.run, load(path)))
    assert moved(one, other) < 1e-5
    for name, value in alone.run.metrics.items():
        if name.startswith("val/"):
            assert load(path).metrics[name] == pytest.approx(value, rel=1e-4), name
