"""Tables of the `datasets` library: found, loaded, and their columns read. Files that are lists of images count as such."""

import re
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.data.vision.image_folder import SUFFIXES
from sft_lightning.errors import UserError, nearest

LISTS = (".csv", ".tsv", ".jsonl", ".json")
"""Suffixes of files that name images instead of holding them"""
SPLIT_WORD = re.compile(r"(?:^|[-_.])(train|test|validation|valid|val|dev)(?=[-_.\d]|$)")


def load_tables(path: str | None, data_files: dict[str, str] | None, config_name: str | None) -> dict[str, Any]:
    """Split name to table, from `data_files`, or else from what `path` names here or on the hub."""
    if data_files is not None:
        found = {split: parquet_files(str(pattern)) for split, pattern in data_files.items()}
        for split, files in found.items():
            if not files:
                raise UserError(f"data: data_files: {split}: {data_files[split]} does not exist")
        lists = {split: load_list(files) for split, files in found.items() if is_list(files[0])}
        rest = {split: files for split, files in found.items() if split not in lists}
        tables = load("parquet", "data_files", data_files=rest) if rest else {}
        return {split: naming_images(lists.get(split) or tables[split]) for split in found}
    assert path is not None
    files = parquet_files(path)
    if files and is_list(files[0]):
        return {"train": naming_images(load_list(files))}
    if files:
        tables = load("parquet", path, data_files=by_split(files))
        return {split: naming_images(table) for split, table in tables.items()}
    local = path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith(".parquet") or "*" in path
    if Path(path).expanduser().is_dir():
        raise UserError(f"data: path {path} is a folder without parquet files")
    if local:
        raise UserError(f"data: path {path} does not exist")
    return load(path, path, name=config_name)


def is_list(file: str) -> bool:
    """Whether a file is text that names images."""
    return Path(file).suffix.lower() in LISTS


def load_list(files: list[str]) -> Any:
    """A CSV, TSV, JSON or JSONL file as a table; columns that hold whole numbers alone are numbers."""
    import datasets

    from sft_lightning.data.text.files import read_table

    if len(files) > 1:
        raise UserError(f"data: {files[0]} and {files[1]}: one file of a split is expected")
    columns = read_table(files[0], "data.data_files").columns
    for name, values in columns.items():
        if all(isinstance(v, str) and re.fullmatch(r"-?(0|[1-9]\d{0,17})", v) for v in values):
            columns[name] = [int(v) for v in values]
    try:
        return datasets.Dataset.from_dict(columns)
    except (TypeError, ValueError, OverflowError) as error:  # pyarrow's: a column of different kinds
        raise UserError(f"data: {files[0]}: {str(error).splitlines()[0]}") from None


def naming_images(table: Any) -> Any:
    """The table, its columns of image files' names turned into columns of images."""
    from datasets import Image

    for name, feature in table.features.items():
        if getattr(feature, "dtype", None) not in ("string", "large_string") or not len(table):
            continue
        column = table.select_columns([name])  # a row of the whole table would decode its images
        if names_image(column[0][name]) and all(map(names_image, column[name][:])):
            table = table.cast_column(name, Image(decode=False))
    return table


def names_image(value: Any) -> bool:
    """Whether a value is a file name with an image's suffix."""
    return isinstance(value, str) and value.lower().endswith(SUFFIXES)


def parquet_files(path: str) -> list[str]:
    """The parquet files that a pattern or a folder stands for, or the one file of that name."""
    here = Path(path).expanduser()
    return sorted(map(str, here.rglob("*.parquet"))) if here.is_dir() else sorted(glob(str(here), recursive=True))


def local_files(path: str | None, data_files: dict[str, str] | None) -> list[str]:
    """All parquet files here that `load_tables` reads; none where the table is the hub's."""
    patterns = [path] if data_files is None else data_files.values()
    return [file for pattern in patterns for file in parquet_files(str(pattern))]


def by_split(files: list[str]) -> dict[str, list[str]]:
    """Files under the split that their names say; 'train' where they say nothing."""
    splits: dict[str, list[str]] = {}
    for file in files:
        word = SPLIT_WORD.search(Path(file).name)
        splits.setdefault(word[1] if word else "train", []).append(file)
    return splits


def load(builder: str, where: str, **options: Any) -> dict[str, Any]:
    """As `datasets.load_dataset`, without its bars, and with one-line errors."""
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return dict(datasets.load_dataset(builder, **options))
    except Exception as error:
        said = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        if re.search("connect|offline|resolve|Max retries", f"{type(error).__name__} {error}", re.IGNORECASE):
            said = ["no such file or folder here, and the hub cannot be reached to look there"]
        raise UserError(f"data: {where} cannot be loaded: {said[0]}") from None
    finally:
        if not bars:
            datasets.enable_progress_bars()


def pick(wanted: str, names: Iterable[str], what: str) -> str:
    """`wanted`, which must be one of `names`."""
    names = list(names)
    if wanted not in names:
        raise UserError(f"data: there is no {what} '{wanted}'{nearest(wanted, names)}; there are {', '.join(names)}")
    return wanted


def classes_of(table: Any, column: str) -> tuple[list[str], dict[Any, int]]:
    """Class names in order, and the number of each value of the column."""
    feature = table.features[column]
    if names := getattr(feature, "names", None):
        return list(names), {i: i for i in range(len(names))}
    values = set(table[column][:]) - {None}
    if not all(isinstance(v, (int, str)) for v in values):
        raise UserError(f"data: column '{column}' holds {getattr(feature, 'dtype', feature)}, not classes")
    ordered = sorted(values)
    return [str(v) for v in ordered], {v: i for i, v in enumerate(ordered)}


def targets_of(
    table: Any, column: str, numbers: dict[Any, int], split: str, skip: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """The class number of each row, which must be one of the training split's; and, with `skip`, rows of another: -1."""
    values, bad = table[column][:], dict[int, str]()
    for row, value in enumerate(values):
        if value not in numbers:
            bad[row] = f"{column} {value!r} is no class of the training split"
            if not skip:
                raise UserError(f"data: row {row} of split '{split}': {bad[row]}")
    return np.array([numbers.get(v, -1) for v in values], dtype=np.int64), bad
