"""What a number, a missing cell and a class is: one rule for fit and the front door, against pandas where that reads too."""

import json
import math
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sft_lightning.autoconfig.infer_columns import task_of
from sft_lightning.data import TextTable
from sft_lightning.data.text.cells import missing, number, numbers, whole
from tests.data.text_files import write_jsonl, write_parquet, write_text
from tests.refused import check_printed, refused

NAN = float("nan")
WRITTEN = ["0", "7", "-3", "1.0", "2.50", ".5", "5.", "1e-05", "1E+20", "+4", " 12 "]
NAMES = [
    "1_1",
    "²",
    "٣",
    "nan",
    "inf",
    "-Infinity",
    "infinity",
    "007",
    "1.2.3",
    "0x1f",
    "True",
    "no",
    "NA",
    "1,5",
    "v2",
]


def labelled(path: Path, labels: list[Any]) -> str:
    return write_jsonl(path, [{"text": f"text {i}", "label": v} for i, v in enumerate(labels)])


def classes(path: str, test: str | None = None, **settings: Any) -> list[str | None]:
    """The class of each row of the test file, or else of the training file, by name."""
    loaded = TextTable(train=path, test=test, **settings).load()
    samples = loaded.train if test is None else loaded.test
    assert samples is not None and samples.targets is not None
    return [None if t < 0 else loaded.labels[t] for t in samples.targets]


@pytest.mark.parametrize("text", WRITTEN)
def test_a_number_is_what_pandas_reads_as_one(text: str) -> None:
    column = pd.read_csv(StringIO(f"a,b\n1,{text}\n"))["b"]
    assert pd.api.types.is_numeric_dtype(column), f"pandas reads {text!r} as {column.dtype}"
    assert number(text) == float(column[0]), f"{text!r} is read as {number(text)}"


@pytest.mark.parametrize("text", NAMES)
def test_what_looks_like_a_number_to_python_alone_is_a_name(text: str) -> None:
    assert number(text) is None, f"{text!r} is taken for the number {number(text)}"
    assert numbers([text, "1"]) is None


def test_whole_numbers_are_one_however_they_are_written() -> None:
    spellings = [1, 1.0, "1", "1.0", "1.", " 1", "+1.000"]
    assert {whole(v) for v in spellings} == {"1"}
    assert [whole(v) for v in (True, "01", 1.5, "x", NAN, None, -0.0)] == [None, None, None, None, None, None, "0"]


def test_a_sequence_of_thousands_of_digits_is_a_text(tmp_path: Path) -> None:
    sequences = ["10" * 2500, "11" * 2500]  # Python converts no more than 4,300 digits
    assert [whole(s) for s in sequences] == [None, None]
    assert classes(labelled(tmp_path / "a.jsonl", sequences * 2)) == sequences * 2


@pytest.mark.parametrize(
    ("value", "nothing"),
    [(None, True), (NAN, True), ("", True), (" \t", True), ("nan", False), ("None", False), (0, False), (False, False)],
)
def test_a_cell_is_missing_where_it_is_null_nan_or_blank(value: Any, nothing: bool) -> None:
    assert missing(value) == nothing


def test_codes_that_look_like_exponents_are_names_unless_the_column_has_decimal_points() -> None:
    assert numbers(["1e3", "2e5"]) is None
    assert numbers(["1e3", "2.5"]) == [1000.0, 2.5]
    assert numbers(["1e-05", "1"]) == [1e-05, 1.0]
    codes = [f"{i % 5}_{i % 6}" for i in range(180)]
    assert task_of(codes) == "classification", "codes with underscores are taken for numbers"


PAIRS: list[tuple[list[Any], list[Any], list[str]]] = [
    ([1.0, 2.0, 3.0], [1, 3], ["1", "3"]),
    (["1.0", "2.0", "10.0"], [10, "2"], ["10", "2"]),
    ([1, 2, 3], ["3.0", 1.0], ["3", "1"]),
    ([0.5, 1.0, 1.5], ["0.50", "1"], ["0.5", "1"]),
    ([True, False], [1, 0], ["True", "False"]),
    (["True", "False"], [True, "false"], ["True", "False"]),
    ([0, 1], [True, False], ["1", "0"]),
    (["007", "7"], ["007", 7, "7.0"], ["007", "7", "7"]),
    (["nan", "inf", "None", "NA", "no"], ["None", "nan"], ["None", "nan"]),
    (["caf\u00e9", "th\u00e9"], ["cafe\u0301"], ["caf\u00e9"]),
    (["2", "b"], ["2.0", "b"], ["2", "b"]),
    (["1", "1.10", "1.9"], ["1.10"], ["1.10"]),
]


@pytest.mark.parametrize(("train", "test", "wanted"), PAIRS)
def test_labels_of_two_files_are_compared_as_numbers_and_in_one_unicode_form(
    tmp_path: Path, train: list[Any], test: list[Any], wanted: list[str]
) -> None:
    found = classes(labelled(tmp_path / "a.jsonl", train * 2), labelled(tmp_path / "b.jsonl", test))
    assert found == wanted


@pytest.mark.parametrize(
    ("train", "test"),
    [(["neg", "pos"], 1), (["01", "02"], 1), ([2, 3, 4], 1), (["1_1", "1_2"], 11)],  # in no given order
)
def test_no_label_is_taken_for_the_place_of_a_class_in_silence(tmp_path: Path, train: list[Any], test: int) -> None:
    known = f"{len(train)} classes {', '.join(map(str, train))}"
    with refused("data", "b.jsonl line 1", f"label {test}", known, "data.labels"):
        classes(labelled(tmp_path / "a.jsonl", train), labelled(tmp_path / "b.jsonl", [test]))


def test_a_number_is_a_place_where_the_classes_were_given_in_order_and_a_name_wins(tmp_path: Path) -> None:
    file = labelled(tmp_path / "a.jsonl", [0, 1.0, "1", "neg", "pos"])
    assert classes(file, labels=["pos", "neg"]) == ["pos", "neg", "neg", "neg", "pos"]
    assert classes(labelled(tmp_path / "b.jsonl", [5, 1, "5.0"]), labels=["5", "1"]) == ["5", "1", "5"]
    hub = write_parquet(tmp_path / "a.parquet", {"text": ["a", "b"], "label": [1, 0]}, {"label": ["x", "y"]})
    assert classes(hub) == ["y", "x"]


LACKING: list[tuple[list[Any], int, str, list[str | None]]] = [
    ([0.0, NAN, 1.0, None], 1, "NaN", ["0", None, "1", None]),
    (["a", None, "None", "b"], 1, "null", ["a", None, "None", "b"]),
    (["a", "b", " ", ""], 2, "empty", ["a", "b", None, None]),
    ([0, 1, 2, -1], 3, "-1", ["0", "1", "2", None]),
]


@pytest.mark.parametrize(("labels", "row", "held", "wanted"), LACKING)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_without_a_label_is_named_or_left_out(
    tmp_path: Path, labels: list[Any], row: int, held: str, wanted: list[str | None], kind: str
) -> None:
    if kind == "jsonl":
        file, place = labelled(tmp_path / "a.jsonl", labels), f"a.jsonl line {row + 1}: "
    else:
        file = write_parquet(tmp_path / "a.parquet", {"text": list("abcd"), "label": labels})
        place = f"a.parquet row {row}: "
    with refused("data", place, "column 'label'", held, "data.on_bad_sample skip"):
        classes(file)
    assert classes(file, on_bad_sample="skip") == wanted


def test_minus_one_is_a_class_beside_zero_and_one_and_where_it_is_named(tmp_path: Path) -> None:
    assert classes(labelled(tmp_path / "a.jsonl", [-1, 0, 1, 1])) == ["-1", "0", "1", "1"]
    assert classes(labelled(tmp_path / "b.jsonl", [-1, 0, 1, 2]), labels=["-1", "0", "1", "2"]) == ["-1", "0", "1", "2"]
    hub = write_parquet(tmp_path / "a.parquet", {"text": ["a", "b"], "label": [1, -1]}, {"label": ["x", "y"]})
    assert classes(hub, on_bad_sample="skip") == ["y", None]


@pytest.mark.parametrize("label", [["a", "b"], {"a": 1}, "['a', 'b']", "[1 0 1]", '{"a": 1}'])
def test_several_labels_of_a_row_are_refused_as_multi_label(tmp_path: Path, label: Any) -> None:
    with refused("data", "line 2", repr(label), "MultiLabelTable", "data.label_column"):
        classes(labelled(tmp_path / "a.jsonl", ["a", label, "b"]))
    assert classes(labelled(tmp_path / "b.jsonl", ["[deleted]", "(a)"])) == ["[deleted]", "(a)"]


def test_true_and_numbers_in_one_column_are_refused(tmp_path: Path) -> None:
    with refused("data", "line 1", "column 'label'", True, "line 3"):
        classes(labelled(tmp_path / "a.jsonl", [True, False, 1]))


@pytest.mark.parametrize("content", ["id,text\n1,a\n", "id,text,label\n1,a,\n", "id,text,label\n1,a,-1\n"])
@pytest.mark.parametrize("split", ["test", "val"])
def test_a_file_without_labels_is_refused_before_anything_is_trained(tmp_path: Path, content: str, split: Any) -> None:
    train, other = labelled(tmp_path / "a.jsonl", ["a", "b"] * 9), write_text(tmp_path / "b.csv", content)
    with refused(f"data.{split}", other, "'label'", f"data.{split}_fraction"):
        TextTable(train=train, **{split: other}).setup()


def test_values_of_a_regression_are_numbers_and_missing_ones_are_named(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.csv", "text,label\na,1e-05\nb,2\nc,3.5\n")
    targets = TextTable(train=file, task="regression").load().train.targets
    assert targets is not None
    assert targets.tolist() == pytest.approx(pd.read_csv(file)["label"].tolist())
    for value, held in (("", ""), ("nan", "'nan'"), ("1_0", "'1_0'")):
        wrong = write_text(tmp_path / "b.csv", f"text,label\na,1\nb,{value}\n")
        with refused("data", "b.csv line 3", "column 'label'", held, "data.on_bad_sample skip"):
            TextTable(train=wrong, task="regression").load()


def test_a_class_may_be_called_no_in_a_config_and_is_never_false_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from sft_lightning.cli.main import main

    file = labelled(tmp_path / "a.jsonl", ["no", "yes", "NA"] * 10)
    config = tmp_path / "c.yaml"
    command = (
        f"fit --config {config} --model PlainSFT --network LSTM --trainer.fast_dev_run true --wandb disabled "
        f"--trainer.accelerator cpu --runs_dir {tmp_path}/runs"
    ).split()
    for labels, code in (("['no', 'yes', NA]", 0), ("[no, yes, NA]", 2)):
        config.write_text(f"data:\n  class_path: TextTable\n  init_args:\n    train: {file}\n    labels: {labels}\n")
        capfd.readouterr()
        assert main(command) == code
        said = capfd.readouterr()
        if code == 0:
            assert "3 classes (no, yes, NA)" in said.out
        else:
            assert len(said.err.strip().splitlines()) == 1
            check_printed(said.err, "data.init_args.labels", False)


def test_json_keeps_no_key_twice_in_silence(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.jsonl", '{"text": "a", "label": "x", "label": "y"}\n')
    with refused("data", "a.jsonl line 1", "'label'"):
        TextTable(train=file).load()
    assert math.isnan(json.loads("NaN"))  # what the rows above stand for


def test_chosen_classes_are_no_places_where_names_are_numbers(tmp_path: Path) -> None:
    file = labelled(tmp_path / "a.jsonl", [2, 3, 4] * 10)
    chosen = TextTable(train=file, classes=[4, 2])
    chosen.setup()
    assert chosen.task_info is not None
    assert chosen.task_info.labels == ["4", "2"]
    with refused("data.classes", "'1'", "2, 3, 4"):
        TextTable(train=file, classes=[1, 2]).setup()
