"""Texts with sets of labels: every way to write them gives the same targets, and what is wrong is named by row."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft_lightning.core.structures import InputSpec
from sft_lightning.data import MultiLabelTable
from tests.data.text_files import write_jsonl, write_parquet, write_text
from tests.networks.tiny import wordpiece
from tests.refused import refused

SETS: list[list[str]] = [["b", "a"], [], ["c"], ["a", "c"], ["b"], ["a"]] * 4
EXPECTED = [[int(name in labels) for name in "abc"] for labels in SETS]


def csv(path: Path, header: str, cells: list[str]) -> str:
    return write_text(path, f"text,{header}\n" + "".join(f"text {i},{cell}\n" for i, cell in enumerate(cells)))


def written(root: Path, how: str) -> dict[str, Any]:
    """The sets on disk, and the arguments that name them."""
    if how == "lists in JSONL":
        return {"train": write_jsonl(root / "a.jsonl", [{"text": f"{i} x", "labels": s} for i, s in enumerate(SETS)])}
    if how == "lists in parquet":
        return {"train": write_parquet(root / "a.parquet", {"text": [f"{i} x" for i in range(24)], "labels": SETS})}
    if how == "JSON in CSV":
        return {"train": csv(root / "a.csv", "labels", ['"' + json.dumps(s).replace('"', '""') + '"' for s in SETS])}
    if how == "numpy's arrays in CSV":
        return {"train": csv(root / "a.csv", "labels", [f'"{np.array(s, dtype=object)}"' for s in SETS])}
    if how == "Python's lists in CSV":
        return {"train": csv(root / "a.csv", "labels", [f'"{s}"' for s in SETS])}
    if how == "columns of 0 and 1":
        rows = [",".join(map(str, row)) for row in EXPECTED]
        return {"train": csv(root / "a.csv", "a,b,c", rows), "label_columns": ["a", "b", "c"]}
    if how == "columns that begin alike":
        rows = [",".join("true" if v else "False" for v in row) for row in EXPECTED]
        return {"train": csv(root / "a.csv", "is_a,is_b,is_c", rows), "label_columns": ["is_*"]}
    separator = {"semicolons": ";", "bars": "|", "commas": ",", "given": " / "}[how]
    cells = [f'"{separator.join(s)}"' for s in SETS]
    return {"train": csv(root / "a.csv", "labels", cells), **({"label_separator": " / "} if how == "given" else {})}


WAYS = ("lists in JSONL", "lists in parquet", "JSON in CSV", "Python's lists in CSV", "semicolons", "bars", "commas")
MORE_WAYS = ("numpy's arrays in CSV", "given", "columns of 0 and 1", "columns that begin alike")


def table(**arguments: Any) -> MultiLabelTable:
    data = MultiLabelTable(**{"val_fraction": 0.25, "seed": 0, **arguments})
    data.setup()
    return data


@pytest.mark.parametrize("how", WAYS + MORE_WAYS)
def test_sets_are_the_same_however_they_are_written(tmp_path: Path, how: str) -> None:
    data = table(**written(tmp_path, how))
    assert data.task_info is not None
    assert (data.task_info.name, data.task_info.num_outputs) == ("multi_label", 3)
    assert [name[-1] for name in data.task_info.labels] == ["a", "b", "c"]
    assert data.splits["train"].samples.targets.tolist() == EXPECTED
    assert "3 labels (" in data.describe() and "training samples without any" in data.describe()
    if how in ("semicolons", "bars", "commas"):
        assert any("data.label_separator" in note for note in data.notes), "a separator was guessed in silence"


def test_a_batch_has_a_row_of_zeros_and_ones_for_each_sample(tmp_path: Path) -> None:
    data = table(**written(tmp_path, "semicolons"), folds=3, fold=0, train_fraction=0.9, classes=["c", 0])
    assert data.task_info is not None and data.task_info.labels == ["c", "a"]
    data.settle(InputSpec("text", tokenizer=wordpiece(), max_length=32, network="test"))
    split = data.splits["val"]
    batch = split[0]
    row = EXPECTED[int(split.rows[0])]
    assert batch["y"].tolist() == [[row[2], row[0]]] and batch["count"] == 1
    assert len(data.splits["train"]) + len(split) == round(0.9 * 18)


@pytest.mark.parametrize("labels", [[1, 0, 0], [0.0, 0.0], "[0, 1, 1]", [True, False, False]])
def test_a_list_of_0_and_1_is_refused_as_what_it_is(tmp_path: Path, labels: Any) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": f"{i} x", "labels": labels} for i in range(9)])
    with refused("data", "line 1", "a 0 or 1 for each label", "data.label_columns"):
        table(train=file)


def test_two_labels_as_0_and_1_are_refused_too_and_are_no_set_of_both(tmp_path: Path) -> None:
    """Each row was read as having both of the labels 0 and 1."""
    file = write_jsonl(tmp_path / "a.jsonl", [{"text": f"{i} x", "labels": [i % 2, 1 - i % 2]} for i in range(9)])
    with refused("data", "a 0 or 1 for each label", "data.label_columns"):
        table(train=file)


def rows_of(root: Path, labels: list[Any], name: str = "a") -> str:
    return write_jsonl(root / f"{name}.jsonl", [{"text": f"text {i}", "labels": v} for i, v in enumerate(labels)])


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        ([["a"], None, ["b"], ["a"]], ("line 2", "null", "[]")),
        ([["a"], ["b"], ["a", "a"], ["b"]], ("line 3", "'a'", "twice")),
        ([["a"], ["b", ""], ["b"], ["a"]], ("line 2", "empty")),
        ([["a"], [["b"]], ["b"], ["a"]], ("line 2", "['b']")),
        ([["a"], ["a", 1.5], ["a", float("nan")], ["b"]], ("line 3", "NaN")),
    ],
)
def test_a_wrong_set_is_named_by_its_line_or_left_out(
    tmp_path: Path, labels: list[Any], values: tuple[str, ...]
) -> None:
    file = rows_of(tmp_path, labels * 3)
    with refused("data", *values):
        table(train=file)
    data = table(train=file, on_bad_sample="skip")
    assert sum(len(split) for split in data.splits.values()) == 9
    assert data.skipped_report()["train"]["count"] == 3


def test_an_unknown_label_in_the_test_file_is_named_with_its_line(tmp_path: Path) -> None:
    train = rows_of(tmp_path, SETS)
    test = rows_of(tmp_path, [["a"], ["b", "d"]], "test")
    with refused("data", f"{test} line 2", "'d'", "a, b, c", "data.labels"):
        table(train=train, test=test)
    assert len(table(train=train, test=test, on_bad_sample="skip").splits["test"]) == 1
    data = table(train=train, test=test, labels=["d", "c", "b", "a"])
    assert data.splits["test"].samples.targets.tolist() == [[0, 0, 0, 1], [1, 0, 1, 0]]
    with refused("data", f"{train} line 1", "'b'"):
        table(train=train, labels=["a", "c"])


def test_a_label_that_a_split_lacks_is_said(tmp_path: Path) -> None:
    test = rows_of(tmp_path, [["a"], ["b"]], "test")
    data = table(train=rows_of(tmp_path, SETS), test=test)
    assert any("no test sample of class 'c'" in line for line in data.remarks())


def test_cells_without_labels_and_empty_pieces_are_counted(tmp_path: Path) -> None:
    data = table(train=csv(tmp_path / "a.csv", "labels", ["a;b;", "", "b;c", "c"] * 5))
    assert data.splits["train"].samples.targets[:4].tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1]]
    notes = " ".join(data.notes)
    assert "no labels (5 times" in notes and "left out (5 times" in notes


@pytest.mark.parametrize("cell", ["2", "", "yes"])
def test_a_cell_that_is_neither_0_nor_1_is_named(tmp_path: Path, cell: str) -> None:
    file = csv(tmp_path / "a.csv", "a,b", ["0,1", f"1,{cell}"] * 8)
    with refused("data", "line 3", "'b'", "0 or 1"):
        table(train=file, label_columns=["a", "b"])
    assert table(train=file, label_columns=["a", "b"], on_bad_sample="skip").skipped_report()["train"]["count"] == 8


@pytest.mark.parametrize("cell", ["[a, b]", "['a' 'b', 'c']", "['a''b']", "[a; b]"])
def test_a_list_whose_names_are_not_clear_is_refused(tmp_path: Path, cell: str) -> None:
    with refused("data", "line 2", "JSON"):
        table(train=csv(tmp_path / "a.csv", "labels", [f'"{cell}"', '"b"'] * 8))


def test_numbers_are_the_names_that_each_file_gives_them(tmp_path: Path) -> None:
    """Files of the hub may number the same labels in other orders."""
    train, test = (
        write_parquet(
            tmp_path / f"{names[0]}.parquet",
            {"text": [f"{i} x" for i in range(12)], "labels": [[0], [0, 1]] * 6},
            {"labels": names},
        )
        for names in (["zeta", "alpha"], ["alpha", "zeta"])
    )
    data = table(train=train, test=test)
    assert data.task_info is not None and data.task_info.labels == ["zeta", "alpha"]
    assert data.splits["train"].samples.targets[0].tolist() == [1, 0]
    assert data.splits["test"].samples.targets[0].tolist() == [0, 1]


def test_a_separator_that_no_cell_has_is_said(tmp_path: Path) -> None:
    data = table(train=csv(tmp_path / "a.csv", "labels", ["a;b", "b"] * 8), label_separator="|")
    assert any("'|' (given, but no cell" in note for note in data.notes)


def test_a_separator_has_no_effect_on_lists_and_is_refused(tmp_path: Path) -> None:
    rows = [{"text": f"text {i}", "labels": [i % 2, 2]} for i in range(16)]
    with refused("data.label_separator", "no effect", "'labels'", "lists"):
        table(train=write_jsonl(tmp_path / "a.jsonl", rows), label_separator="|")


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    file = csv(tmp_path / "a.csv", "labels", ['"a;b,c"', "b"] * 8)
    with refused("data", "';' and ','", "data.label_separator"):
        table(train=file)
    with refused("data", "1 label (a)", "TextTable"):
        table(train=rows_of(tmp_path, [["a"], []] * 8))
    with refused("data.labels", "data.label_columns"):
        MultiLabelTable(train=file, label_columns=["a"], labels=["a", "b"])
    with refused("data.label_columns", "'x_'", "labels"):
        table(train=file, label_columns=["x_*"])
    with refused("data.shots_per_class", "data.train_fraction"):
        MultiLabelTable(train=file, shots_per_class=3)


def test_predicting_needs_no_labels(tmp_path: Path) -> None:
    data = MultiLabelTable(predict=write_text(tmp_path / "a.csv", "text\none\ntwo\n"), seed=0)
    data.setup("predict")
    assert len(data.splits["predict"]) == 2 and data.splits["predict"].targets is None
