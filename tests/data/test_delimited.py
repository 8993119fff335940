"""CSV and TSV as they lie on disk: quoting, delimiters, column names, encodings; pandas and datasets as the second opinion."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from sft_lightning.data.text.files import Table, read_table
from tests.data.text_files import write_parquet, write_text
from tests.refused import refused


def rows(table: Table) -> list[list[str]]:
    return [list(row) for row in zip(*table.columns.values(), strict=True)]


TSV = [
    'text\tlabel\n"He said\ta\nplain\tb\nand left"\ta\n',  # GLUE: a text begins with a mark, a later one ends with one
    'text\tlabel\n"whole"\ta\nin "the" middle\tb\n',
    'text\tlabel\n"doubled ""marks"" inside"\ta\nb\tb\n',
    'text\tlabel\n"\ta\n""\tb\n',
]


@pytest.mark.parametrize("content", TSV)
def test_a_quotation_mark_in_a_tsv_file_is_a_character(tmp_path: Path, content: str) -> None:
    file = write_text(tmp_path / "a.tsv", content)
    frame = pd.read_csv(file, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False, dtype=str)
    table = read_table(file)
    assert rows(table) == frame.to_numpy().tolist()
    assert bool(table.notes) == ('""marks""' in content), f"said: {table.notes}"


def test_a_tsv_file_that_only_quoting_explains_is_read_so_and_that_is_said(tmp_path: Path) -> None:
    frame = pd.DataFrame({"text": ["two\nlines", 'a "mark"', "plain"], "label": ["a", "b", "a"]})
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    table = read_table(tmp_path / "a.tsv")
    assert rows(table) == frame.to_numpy().tolist()
    assert len(table.notes) == 1 and "is quoted" in table.notes[0]


def test_a_stray_mark_does_not_swallow_rows_of_a_tsv_file_that_has_another_fault(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.tsv", 'text\tlabel\n"begins\ta\nshort\nends"\ta\n')
    with refused("data", "a.tsv line 3", "1 field ", "2"):
        read_table(file)


CSV = [
    'text,label\n"commas, and ""marks""",a\n"two\nlines",b\nplain,a\n',
    'text,label\r\n"one, two",a\r\nthree,b\r\n',
    "\ufefftext,label\na,x\n\nb,y\n",
]


@pytest.mark.parametrize("content", CSV)
def test_csv_is_read_as_pandas_and_datasets_read_it(tmp_path: Path, content: str) -> None:
    from datasets.packaged_modules.csv.csv import Csv

    file = tmp_path / "a.csv"
    file.write_bytes(content.encode())
    ours = rows(read_table(file))
    assert ours == pd.read_csv(file, keep_default_na=False, dtype=str).to_numpy().tolist()
    builder = Csv(cache_dir=str(tmp_path / "cache"), data_files=str(file), keep_default_na=False)
    theirs = [
        list(r.values()) for _, t in builder._generate_tables([[str(file)]], [[str(file)]]) for r in t.to_pylist()
    ]
    assert ours == theirs


def test_a_text_that_swallows_rows_is_refused_with_its_line(tmp_path: Path) -> None:
    from sft_lightning.data import TextTable

    good = 'text,label\na,x\n"A letter:\nDear Sir, thanks",y\nb,x\n'
    samples = TextTable(train=write_text(tmp_path / "good.csv", good)).load().train
    assert len(samples) == 3
    for name, content in (
        ("a.csv", 'text,label\na,x\n"b,y\nc,x\nd",y\ne,x\n'),
        ("b.csv", 'label,text\nx,a\ny,"b\nx,c\ny,d"\nx,e\n'),
    ):
        with refused("data", f"{name} line 3", "column 'text'", "3 lines"):
            TextTable(train=write_text(tmp_path / name, content)).load()
    with refused("data", "c.csv line 3"):
        read_table(write_text(tmp_path / "c.csv", 'text,label\na,x\n"b,y\nc,x\n'))


@pytest.mark.parametrize(
    ("name", "delimiter", "word"),
    [("a.csv", ";", "semicolons"), ("a.csv", "\t", "tabs"), ("a.csv", "|", "bars"), ("a.tsv", ",", "commas")],
)
def test_another_delimiter_than_the_files_name_says_is_taken_and_said(
    tmp_path: Path, name: str, delimiter: str, word: str
) -> None:
    frame = pd.DataFrame({"text": ["one, two", "three", "four; five"], "label": ["a", "b", "a"]})
    frame.to_csv(tmp_path / name, sep=delimiter, index=False)
    table = read_table(tmp_path / name)
    assert rows(table) == frame.to_numpy().tolist()
    usual = "tabs" if name.endswith(".tsv") else "commas"
    assert table.notes == [f"{tmp_path / name} is separated by {word}, not by {usual}"]
    frame.to_csv(tmp_path / name, sep=delimiter)  # with pandas' index, which has no name
    table = read_table(tmp_path / name)
    assert [row[1:] for row in rows(table)] == frame.to_numpy().tolist() and len(table.notes) == 1
    renamed = frame.rename(columns={"label": "label, or class"})
    renamed.to_csv(tmp_path / name, sep=delimiter, index=False)
    table = read_table(tmp_path / name)
    assert list(table.columns) == ["text", "label, or class"] and rows(table) == renamed.to_numpy().tolist()
    alone = read_table(write_text(tmp_path / "one.csv", "text\na; b\n"))
    assert (rows(alone), alone.notes) == ([["a; b"]], [])


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    file = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_arrays([pa.array(["a"])] * 3, ["text", "label", "label"]), file)
    else:
        write_text(file, "text,label,label\na,b,c\n".replace(",", "\t" if kind == "tsv" else ","))
    with refused("data", f"rows.{kind}", "2 columns 'label'"):
        read_table(file)
    assert (
        len(read_table(write_text(tmp_path / "a.csv", "text,label,,\na,b,,\n"))) == 1
    )  # a spreadsheet's empty columns
    assert len(read_table(write_parquet(tmp_path / "a.parquet", {"text": ["a"]}))) == 1


@pytest.mark.parametrize("skip", [False, True])
def test_a_file_in_another_encoding_is_refused_with_the_place_of_the_byte(tmp_path: Path, skip: bool) -> None:
    head = b"text,label\n" + b"plain,a\n" * 200_000
    (tmp_path / "a.csv").write_bytes(head + "café,b\n".encode("cp1252"))
    if not skip:
        with pytest.raises(UnicodeDecodeError) as pythons:
            (tmp_path / "a.csv").read_bytes().decode()
        with refused("data", "a.csv", f"byte {pythons.value.start}", "line 200002", "0xe9", "'é' in Windows-1252"):
            read_table(tmp_path / "a.csv")
    else:
        table = read_table(tmp_path / "a.csv", skip=True)
        assert table.bad == {200_000: "malformed: not UTF-8"}
    (tmp_path / "b.csv").write_bytes("text,label\né,a\n".encode("utf-16"))
    with refused("data", "b.csv", "iconv -f UTF-16 -t UTF-8"):
        read_table(tmp_path / "b.csv", skip=skip)
    (tmp_path / "c.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\n{"text": "\xe9"}\n')
    if not skip:
        with refused("data", "c.jsonl", "byte 27", "line 2"):
            read_table(tmp_path / "c.jsonl")
