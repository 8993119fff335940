"""What is said of data: classes a split lacks, repeated samples, names that look alike; and lone rows are trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from sft_lightning.data import ImageFolder, TextTable
from sft_lightning.data.findings import in_training
from sft_lightning.data.subset import cut, share, strata
from sft_lightning.data.text import TextRows
from sft_lightning.data.vision.image_folder import FileImages
from tests.data.text_files import write_jsonl
from tests.data.vision_files import write_folder


def table(path: Path, rows: list[tuple[str, str]]) -> str:
    return write_jsonl(path, [{"text": t, "label": v} for t, v in rows])


def counts(data: Any) -> dict[str, list[int]]:
    n = len(data.task_info.labels)
    return {name: np.bincount(split.targets, minlength=n).tolist() for name, split in data.splits.items()}


@pytest.mark.parametrize("seed", range(20))
def test_where_every_class_has_two_rows_the_draw_is_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.repeat(np.arange(4), rng.integers(2, 30, 4)))
    rows = np.arange(len(targets))
    size = max(4, round(len(rows) * 0.2))
    rest, part = train_test_split(rows, test_size=size, stratify=targets, random_state=0)
    ours = cut(rows, strata(targets, rows), 0.2, "data")
    assert [a.tolist() for a in ours] == [sorted(rest), sorted(part)]
    keep = max(4, round(len(rows) * 0.5))
    kept = train_test_split(rows, train_size=keep, stratify=targets, random_state=seed)[0]
    assert share(rows, strata(targets, rows), keep / len(rows), seed, 4).tolist() == sorted(kept)


@pytest.mark.parametrize("at", [0, 57, 113, 200])
def test_one_lone_row_is_trained_on_and_the_others_stay_stratified(tmp_path: Path, at: int) -> None:
    rows = [(f"text {i}", "aaaaaaabbc"[i % 10]) for i in range(200)]
    rows.insert(at, ("the only one", "d"))
    data = TextTable(train=table(tmp_path / "a.jsonl", rows), test_fraction=0.2, val_fraction=0.2)
    data.setup()
    found = counts(data)
    assert [c[3] for c in found.values()] == [1, 0, 0], f"the lone row is set aside: {found}"
    for name, of_class in found.items():
        shares = np.array(of_class[:3]) / sum(of_class[:3])
        assert np.abs(shares - [0.7, 0.2, 0.1]).max() < 0.03, f"{name} is not stratified: {of_class}"
    assert "no validation sample of class 'd'; no test sample of class 'd'" in data.remarks()
    half = TextTable(train=data.files["train"], train_fraction=0.3, subset_seed=at)
    half.setup()
    assert counts(half)["train"][3] == 1


def test_one_lone_image_is_trained_on(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": 9, "b": 9, "c": 1})
    data = ImageFolder(str(tmp_path))
    data.setup()
    found = counts(data)
    assert found["train"][2] == 1, f"class c is never trained: {found}"
    assert all(c[0] and c[1] for c in found.values())
    assert any("no test sample of class 'c'" in line for line in data.remarks())


def test_samples_that_occur_twice_are_counted_within_and_across_splits_and_with_two_labels(tmp_path: Path) -> None:
    train = [(f"text {i}", "ab"[i % 2]) for i in range(40)] + [("text 3", "b"), ("text 4", "b")]
    test = [("text 1", "b"), ("text 2", "a"), ("new", "a"), ("new", "a")]
    files = [table(tmp_path / f"{name}.jsonl", rows) for name, rows in (("train", train), ("test", test))]
    val = table(tmp_path / "val.jsonl", [("other", "a"), ("another", "b")])
    data = TextTable(train=files[0], val=val, test=files[1])
    data.setup()
    found = data.found()
    assert found["repeats_within"] == {"train": 2, "test": 1}
    assert found["repeats_across"] == {"test in train": 2}
    assert found["repeats_example"] == f"{files[1]} line 1 is {files[0]} line 2"
    assert found["repeats_with_two_labels"] == 1
    line = next(line for line in data.remarks() if "are in train too" in line)
    assert line.startswith("2 of 4 test samples are in train too (")
    assert "1 sample occurs with two labels" in line


def test_images_are_compared_by_their_bytes(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_folder(tmp_path / split, {"a": 4, "b": 4}, seed=len(split))
    (tmp_path / "test/a/0.png").write_bytes((tmp_path / "train/b/2.png").read_bytes())
    data = ImageFolder(str(tmp_path), val_fraction=0.25)
    data.setup()
    held: dict[str, list[bytes]] = {}
    for name, split in data.splits.items():
        assert isinstance(split.samples, FileImages)
        held[name] = [split.samples.paths[row].read_bytes() for row in split.rows]
    again = {
        f"{a} in {b}": sum(x in held[b] for x in held[a])
        for a, b in (("test", "train"), ("val", "train"), ("test", "val"))
    }
    assert sum(again.values()) >= 1
    found = data.found()
    assert found["repeats_across"] == {pair: count for pair, count in again.items() if count}
    of_picture: dict[bytes, set[int]] = {}
    for name, split in data.splits.items():
        assert split.targets is not None
        for picture, target in zip(held[name], split.targets.tolist(), strict=True):
            of_picture.setdefault(picture, set()).add(target)
    assert found["repeats_with_two_labels"] == sum(len(targets) > 1 for targets in of_picture.values()) >= 1


def test_class_names_that_look_alike_are_said_with_their_counts(tmp_path: Path) -> None:
    rows = [(f"text {i}", ("Spam", "spam ", "ham", "caf\u00e9", "cafe\u0301")[i % 5]) for i in range(50)]
    data = TextTable(train=table(tmp_path / "a.jsonl", rows))
    data.setup()
    assert data.found()["look_alike_classes"] == [{"Spam": 10, "spam ": 10}, {"cafe\u0301": 10, "caf\u00e9": 10}]
    assert any("'Spam' 10; 'spam ' 10" in line for line in data.remarks())
    clean = TextTable(train=table(tmp_path / "b.jsonl", [(f"text {i}", "ab"[i % 2]) for i in range(20)]))
    clean.setup()
    assert (clean.found(), clean.remarks()) == ({}, [])


def test_predictions_carry_the_row_of_the_users_file(tmp_path: Path) -> None:
    """Blank lines count for no reader, rows that are left out keep their number."""
    import json

    import pandas as pd

    from sft_lightning.callbacks import WritePredictions
    from sft_lightning.modules import PlainSFT
    from sft_lightning.networks import LSTM, spec
    from tests.support import fit, quiet_trainer

    train = TextTable(
        train=table(tmp_path / "a.jsonl", [(f"word{i % 2} " * (1 + i % 5), "ab"[i % 2]) for i in range(60)])
    )
    module = PlainSFT(spec(LSTM, min_count=1), lr=0.05)
    fit(module, train, max_epochs=8)
    rows = [f"word{i * 7 % 3 % 2} " * (1 + i * 5 % 7) for i in range(30)]
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        lines = [f"{i}{separator}{'' if i in (4, 11) else text}" for i, text in enumerate(rows)]
        lines[9] += "\n"  # a blank line
        file = tmp_path / f"new{suffix}"
        file.write_text(f"id{separator}text\n" + "\n".join(lines) + "\n")
        data = TextTable(predict=str(file), on_bad_sample="skip", batch_size=7)
        trainer = quiet_trainer(callbacks=[WritePredictions(tmp_path / "predictions.jsonl")])
        trainer.predict(module, data, return_predictions=False)
        found = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
        frame = pd.read_csv(file, sep=separator, keep_default_na=False)
        wanted = [i for i in range(30) if i not in (4, 11)]
        assert [row["index"] for row in found] == wanted
        for row in found:
            said = "ab"[int(frame["text"][row["index"]].split()[0][-1])]
            assert row["label"] == said, f"row {row['index']} of {file.name} has another row's prediction"


def test_source_samples_that_the_target_trains_on_are_counted(tmp_path: Path) -> None:
    source = TextTable(
        train=table(tmp_path / "a.jsonl", [(f"text {i}", "ab"[i % 2]) for i in range(40)]), val_fraction=0.25
    )
    target = TextTable(train=table(tmp_path / "b.jsonl", [(f"text {i * 3}", "cd"[i % 2]) for i in range(40)]))
    source.setup()
    target.setup()
    held, trained = source.splits["val"], target.splits["train"]
    assert isinstance(held.samples, TextRows) and isinstance(trained.samples, TextRows)
    texts = {trained.samples.texts[row] for row in trained.rows}
    wanted = sum(held.samples.texts[row] in texts for row in held.rows)
    assert wanted > 0
    assert in_training(source.splits, target.splits) == {"val": wanted}
