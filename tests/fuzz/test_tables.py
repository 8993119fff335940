"""Made-up tables of many kinds, read by us and by pandas with the rules of docs/decisions.md: equal, or refused in one line.

A table is written by rules of this file, so that it is known which rows it has and where they begin. pandas reads it back
(json, for JSON), and the rules for missing cells, numbers and classes are applied anew here, by other means.
"""

import csv
import json
import math
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from sft_lightning.core.errors import UserError
from sft_lightning.data import TextTable
from sft_lightning.data.text.base import TextRows
from tests.exactness import figures

NAN = float("nan")
TEXTS = (
    *("plain words", "one, two", 'a "marked" word', '"whole"', '"', '""', "semi; colon", "a|b", "tab\tinside", "#hash"),
    *(
        "two\nlines",
        "dos\r\nlines",
        "\nlines\n",
        " padded ",
        "é",
        "e\u0301",
        "漢字 🙂",
        "\u200bx",
        "x\u2028y",
        "a\x0bb",
    ),
    *(
        "NA",
        "nan",
        "None",
        "null",
        "true",
        "-1",
        "12",
        "1e3",
        "'single'",
        "back\\slash",
        'ends"',
        "=SUM(A1)",
        "{}",
        "[1]",
    ),
)
FAMILIES: tuple[tuple[Any, ...], ...] = (
    *((0, 1), (1, 2, 3), (0, 1, 2), (5, 10, 7), (-1, 0, 1), (1.0, 2.0, 3.0), (0.0, 1.0), (0.5, 1.0, 1.5)),
    *(("1", "2", "10"), ("1.0", "2.0"), (True, False), ("true", "false"), ("True", "False"), ("001", "01", "1")),
    *(
        ("007", "008"),
        ("1_1", "1_2", "11"),
        ("nan", "inf", "None"),
        ("NA", "null", "no"),
        ("no", "yes"),
        ("1e3", "1e4"),
    ),
    *(
        ("²", "2"),
        ("caf\u00e9", "th\u00e9"),
        ("a", "B", "b"),
        ("1", "2", "b"),
        ("1.10", "1.9", "2.0"),
        ("one, two", 'a "b"'),
    ),
    *(
        ("[deleted]", "(a)"),
        ("a b", "a  b"),
        ("-", "--"),
        (2**53, 2**53 + 1),
        ("1,5", "2,5"),
        ("0x1f", "0x2f"),
        ("٣", "3"),
    ),
)
LACKING = (None, NAN, "", " \t")
LISTS = (["a", "b"], {"a": 1}, "['a', 'b']", "[1 0 1]")
WRITTEN_LISTS = [str(value) for value in LISTS]


@dataclass
class File:
    """A table as it is to be read: the values of each row, in the order of the columns, and the lines where they begin."""

    columns: list[str]
    rows: list[list[Any]]
    lines: list[int] = field(default_factory=list)


# ---- writing ----


def write_delimited(path: Path, file: File, rng: random.Random) -> File:
    """CSV or TSV in one of the ways it is written; what each cell is as text is what must be read."""
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    delimiter = rng.choice((usual, usual, usual, ";", "|", ",", "\t"))
    cells = [["" if absent(v) and not isinstance(v, str) else str(v) for v in row] for row in file.rows]
    columns = list(file.columns)
    if delimiter == "\t" and usual in "".join(columns):
        delimiter = usual  # what is not quoted could be two names
    plain = delimiter == "\t"  # not quoted: no tabs or line ends in a cell
    if plain:
        cells = [[c.replace("\t", " ").replace("\r", " ").replace("\n", " ") for c in row] for row in cells]
    elif rng.random() < 0.3:  # as pandas writes its index
        columns, cells = ["", *columns], [[str(i), *row] for i, row in enumerate(cells)]
    marks = delimiter + usual + '"\r\n'
    always, end = rng.random() < 0.2 and not plain, rng.choice(("\n", "\r\n"))
    text, lines = "", []
    if not plain and delimiter in ",;" and rng.random() < 0.1:
        text = f"sep={delimiter}{end}"
    for number, row in enumerate([columns, *cells]):
        if number and rng.random() < 0.1:
            text += end  # an empty line is none
        lines.append(text.count("\n") + 1)
        written = [f'"{c.replace(chr(34), chr(34) * 2)}"' if quotes(c, marks, plain, always) else c for c in row]
        text += delimiter.join(written) + (end if number < len(cells) or rng.random() < 0.8 else "")
    path.write_bytes((b"\xef\xbb\xbf" if rng.random() < 0.3 else b"") + text.encode())
    quoting: Any = csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL
    frame = pd.read_csv(
        path,
        sep=delimiter,
        dtype=str,
        keep_default_na=False,
        encoding="utf-8-sig",
        quoting=quoting,
        skiprows=int(text.startswith("sep=")),
        index_col=False,
        engine="c" if not plain else "python",
    )
    read = frame[file.columns].to_numpy().tolist()
    mine = [row[len(columns) - len(file.columns) :] for row in cells]
    assert read == mine, "pandas reads another table than was written"
    return File(file.columns, read, lines[1:])


def quotes(cell: str, marks: str, plain: bool, always: bool) -> bool:
    return not plain and (always or any(c in cell for c in marks))


def write_json(path: Path, file: File, rng: random.Random) -> File:
    """Objects, one a line or in a list; what is absent is null, NaN, or no key at all."""
    objects = []
    for row in file.rows:
        one = dict(zip(file.columns, row, strict=True))
        if rng.random() < 0.5:
            one = {k: v for k, v in one.items() if v is not None}
        objects.append(one)
    ascii_only = rng.random() < 0.5
    if path.suffix == ".json" and rng.random() < 0.5:
        path.write_text(json.dumps(objects, indent=rng.choice((None, 2)), ensure_ascii=ascii_only), encoding="utf-8")
        return File(file.columns, [[o.get(c) for c in file.columns] for o in objects])
    text, lines = "", []
    for one in objects:
        text += "\n" * (rng.random() < 0.1)
        lines.append(text.count("\n") + 1)
        text += json.dumps(one, ensure_ascii=ascii_only) + "\n"
    path.write_bytes((b"\xef\xbb\xbf" if rng.random() < 0.3 else b"") + text.encode())
    return File(file.columns, file.rows, lines)


def write_parquet(path: Path, file: File, rng: random.Random) -> File:
    """A column of one type, as parquet has it; what pandas reads, null and NaN alike, must be read."""
    columns = [list(c) for c in zip(*file.rows, strict=True)]
    if any(len({type(v) for v in c if v is not None and v == v}) > 1 for c in columns):
        columns = [[v if v is None or v != v else str(v) for v in c] for c in columns]
    columns = [
        [None if isinstance(v, float) and v != v and any(isinstance(w, str) for w in c) else v for v in c]
        for c in columns
    ]
    arrays = [pa.array(c) for c in columns]
    if rng.random() < 0.3:
        arrays = [a.dictionary_encode() if pa.types.is_string(a.type) else a for a in arrays]
    parquet.write_table(pa.Table.from_arrays(arrays, file.columns), path)
    frame = pd.read_parquet(path, dtype_backend="pyarrow").astype(object)
    rows = [[None if v is pd.NA else v for v in row] for row in frame.to_numpy(dtype=object).tolist()]
    return File(file.columns, rows)


def write(path: Path, file: File, rng: random.Random) -> File:
    if path.suffix.lower() in (".csv", ".tsv"):
        return write_delimited(path, file, rng)
    return (write_parquet if path.suffix == ".parquet" else write_json)(path, file, rng)


# ---- the rules, anew ----


def absent(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and value.strip() == "")


def value_of(value: Any) -> Decimal | None:
    """A number as pandas and JSON write one, without exponent."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return Decimal(str(value)) if math.isfinite(value) else None
    text = value.strip()
    digits = text.lstrip("+-")
    if not digits.isascii() or set(digits) - set("0123456789.") or len(text) - len(digits) > 1:
        return None
    before, _, after = digits.partition(".")
    if "." in after or not (before or after) or (len(before) > 1 and before[0] == "0"):
        return None
    return Decimal(text)


def key(value: Any) -> str:
    """The class that a label is of, by its name: whole numbers as numbers, names as composed characters."""
    found = value_of(value)
    if found is not None and found == found.to_integral_value():
        return str(int(found))
    return normalize("NFC", str(value))


# ---- making ----


@dataclass
class Case:
    """Files of one data set, how they are to be read, and why they must be refused, if they must."""

    settings: dict[str, Any]
    files: dict[str, File]
    classes: list[str]
    refuse: str = ""
    skip: bool = False


def other_spelling(value: Any, rng: random.Random) -> Any:
    """The same label as another program writes it."""
    found = value_of(value)
    if isinstance(value, bool):
        return rng.choice((value, str(value), str(value).lower(), str(value).upper()))
    if found is not None and found == found.to_integral_value():
        n = int(found)
        return rng.choice((n, float(n) if abs(n) < 2**53 else n, str(n), f"{n}.0", f" {n}", f"{n}."))
    if isinstance(value, str):
        return rng.choice((value, normalize("NFD", value)))
    return rng.choice((value, str(value), f"{value}0"))


def make(root: Path, rng: random.Random) -> Case:
    """Writes the files of one case."""
    regression = rng.random() < 0.15
    family = FAMILIES[rng.randrange(len(FAMILIES))]
    text, label = rng.choice(
        (("text", "label"), ("sentence", "target"), ("Text", "class"), ("q u", "y,z"), ("label", "text"))
    )
    pair = rng.choice((None, None, "second"))
    case = Case({"text_column": text, "label_column": label, "pair_column": pair}, {}, [], skip=rng.random() < 0.4)
    if regression:
        case.settings["task"] = "regression"
    elif rng.random() < 0.2:
        case.settings["labels"] = [str(v) for v in rng.sample(family, len(family))]
    if case.skip:
        case.settings["on_bad_sample"] = "skip"
    names = ["train", *rng.sample(("val", "test"), rng.randint(0, 2))]
    suffixes = {n: rng.choice((".csv", ".csv", ".tsv", ".jsonl", ".json", ".parquet", ".CSV")) for n in names}
    trouble = rng.choice((None, None, None, "lacking", "lacking", "text", "list", "unknown"))
    where = rng.choice(names)
    for name in names:
        columns = [c for c in (text, pair, label) if c] + ["id"] * rng.randint(0, 1)
        rng.shuffle(columns)
        rows = []
        for number in range(rng.randint(40, 60)):
            value: Any = round(rng.uniform(-5, 5), rng.randint(0, 6)) if regression else family[number % len(family)]
            if not regression and name != "train":
                value = other_spelling(value, rng)
            cells = {
                text: rng.choice(TEXTS) + rng.choice(("", f" {number}")),
                "second": rng.choice(TEXTS),
                label: value,
            }
            rows.append([cells.get(c, number) for c in columns])
        if trouble and name == where:
            for row in rng.sample(rows, rng.randint(1, 3)):
                at = columns.index(text if trouble == "text" else label)
                row[at] = rng.choice({"list": LISTS, "unknown": ("zzz",)}.get(trouble, LACKING))
        if trouble == "list" and name == where and suffixes[name] == ".parquet":
            suffixes[name] = ".jsonl"
        path = root / f"{name}{suffixes[name]}"
        case.files[name] = write(path, File(columns, rows), rng)
        case.settings[name] = str(path)
    return case


def judged(case: Case) -> dict[str, dict[int, Any]]:
    """Of each file the usable rows and their classes or values; `case.refuse` where a row must stop the reading."""
    text, pair, label = (case.settings[k] for k in ("text_column", "pair_column", "label_column"))
    given = case.settings.get("labels")
    found: dict[str, dict[int, Any]] = {}
    for name, file in case.files.items():
        at = {c: i for i, c in enumerate(file.columns)}
        usable = {}
        for number, row in enumerate(file.rows):
            value = row[at[label]]
            wrong = [c for c in (text, pair) if c and absent(row[at[c]])]
            if wrong or absent(value) or isinstance(value, list | dict) or value in WRITTEN_LISTS:
                case.refuse = case.refuse or f"{name} row {number}"
            else:
                usable[number] = value
        if case.settings.get("task") == "regression":
            case.refuse = case.refuse or ("a name" if any(value_of(v) is None for v in usable.values()) else "")
            found[name] = {n: np.float32(float(v)) for n, v in usable.items() if value_of(v) is not None}
            continue
        keys = {n: key(v) for n, v in usable.items()}
        if name == "train":
            kinds = {key(v) for v in given} if given else set(keys.values())
            numbers = {k for k in kinds if k != "-1"}
            if not given and "-1" in kinds and len(numbers) > 2 and numbers == {str(i) for i in range(len(numbers))}:
                kinds = numbers
            case.classes = [key(v) for v in given] if given else sorted(kinds)
        keys = {n: spelled(k, usable[n], case.classes) for n, k in keys.items()}
        if any(k not in case.classes for k in keys.values()):
            case.refuse = case.refuse or f"{name} has an unknown label"
        found[name] = {n: k for n, k in keys.items() if k in case.classes}
    return found


def spelled(found: str, value: Any, classes: list[str]) -> str:
    """True and false in any letters; fractions by value where every class is a number."""
    if {c.lower() for c in classes} == {"true", "false"} and found not in classes:
        return next((c for c in classes if c.lower() == found.lower()), found)
    if found not in classes and value_of(value) is not None and all(value_of(c) is not None for c in classes):
        same = [c for c in classes if value_of(c) == value_of(value)]
        return same[0] if len(same) == 1 else found
    return found


# ---- reading ----


def holds(seed: int, root: Path) -> bool:
    """Whether the tables were read, equal to the independent reading; False where they were refused in one line."""
    case = make(root, random.Random(seed))
    wanted = judged(case)
    told = f"seed {seed}: {case.settings}"
    data = TextTable(**case.settings)
    if case.refuse and not case.skip:
        with pytest.raises(UserError):
            data.setup()
        return False
    try:
        data.setup()
    except UserError as error:
        raise AssertionError(f"{told}: refused, though nothing is wrong with it: {error}") from error
    assert data.task_info is not None
    labels = [key(name) for name in data.task_info.labels]
    same = labels == case.classes if "labels" in case.settings else sorted(labels) == sorted(case.classes)
    assert same, f"{told}: the classes are {labels}, to be {case.classes}"
    seen: dict[str, dict[int, Any]] = {name: {} for name in case.files}
    for split_name, split in data.splits.items():
        name = split_name if split_name in case.files else "train"
        file, samples = case.files[name], split.samples
        assert isinstance(samples, TextRows) and split.targets is not None
        for row, target in zip(split.rows.tolist(), split.targets.tolist(), strict=True):
            assert row not in seen[name], f"{told}: {name} row {row} is in two splits"
            seen[name][row] = labels[target] if labels else np.float32(target)
            cells = dict(zip(file.columns, file.rows[row], strict=True))
            assert samples.texts[row] == cells[case.settings["text_column"]], f"{told}: {name} row {row}: another text"
            if samples.pairs is not None:
                assert samples.pairs[row] == cells["second"], f"{told}: {name} row {row}: another second text"
            place = f"line {file.lines[row]}" if file.lines else f"row {row}"
            assert samples.name(row).endswith(f" {place}"), f"{told}: {samples.name(row)} is {place}"
    for name, rows in wanted.items():
        here, there = seen[name].items(), rows.items()
        assert here == there, f"{told}: {name}: {dict(here - there)}, to be {dict(there - here)}"
        left_out = data.skipped_report(gather=False).get(name, {}).get("count", 0)
        assert left_out == len(case.files[name].rows) - len(rows), (
            f"{told}: {name}: {left_out} rows said to be left out"
        )
    return True


def broken(path: Path, columns: list[str], rng: random.Random) -> bool:
    """Spoils a file as a whole; False where this kind of file cannot be so spoiled."""
    raw, kind = path.read_bytes().removeprefix(b"\xef\xbb\xbf"), rng.randrange(6)
    delimited = path.suffix.lower() in (".csv", ".tsv")
    if kind == 0:
        raw = b"" if rng.random() < 0.5 else b"\xef\xbb\xbf\n"
    elif kind == 1:
        raw = raw[: len(raw) // 2] + b"\xe9 \xff" + raw[len(raw) // 2 :]
    elif path.suffix == ".parquet":
        raw = raw[: len(raw) - rng.randint(1, 8)]
    elif kind == 2:
        raw = raw.decode().encode("utf-16")
    elif kind == 3 and delimited:
        raw += b'\n"a text that never ends'
    elif kind == 4 and delimited:
        raw = ",".join(columns).encode() + b"\n"  # a header alone
    elif kind == 5:
        names = f"{columns[0]},{','.join(columns)}"
        raw = f"{names}\n{names}\n".encode() if delimited else b'{"a": 1, "a": 2}\n'
    else:
        return False
    path.write_bytes(raw)
    return True


def refused(seed: int, root: Path) -> bool:
    """A file that is spoiled as a whole is refused in one line, also where bad rows are left out; False for other files."""
    rng = random.Random(seed)
    case = make(root, rng)
    name = rng.choice(list(case.files))
    path = Path(case.settings[name])
    if "y,z" in case.files[name].columns or not broken(path, case.files[name].columns, rng):
        return False
    with pytest.raises(UserError, match=re.escape(path.name)):
        TextTable(**{**case.settings, "on_bad_sample": "fail"}).setup()
    return True


@pytest.mark.slow
def test_spoiled_files_are_refused_in_one_line(tmp_path: Path) -> None:
    assert sum(refused(seed, folder(tmp_path, seed)) for seed in range(150)) > 80


@pytest.mark.slow
def test_300_tables_are_read_as_pandas_reads_them_or_refused_in_one_line(tmp_path: Path) -> None:
    read = Counter(holds(seed, folder(tmp_path, seed)) for seed in range(100, 400))
    assert read[True] > 150 and read[False] > 30, f"the tables are of one kind: {read}"
    figures.note("fuzzed tables: read in another way than by pandas", 0)


def test_a_few_tables_are_read_as_pandas_reads_them_or_refused_in_one_line(tmp_path: Path) -> None:
    read = Counter(holds(seed, folder(tmp_path, seed)) for seed in range(20))
    assert read[True] > 8 and read[False] > 1, f"the tables are of one kind: {read}"


def folder(root: Path, seed: int) -> Path:
    (root / str(seed)).mkdir()
    return root / str(seed)
