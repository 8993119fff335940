"""Finds and loads tables of the `datasets` library, and reads their columns. Files that list images count as tables."""

import re
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.saved import is_saved, load_saved
from sft_lightning.data.split_names import one_of, split_within
from sft_lightning.data.text.cells import missing, whole
from sft_lightning.data.vision.walk import SUFFIXES

LISTS = (".csv", ".tsv", ".jsonl", ".json")
"""Suffixes of files that name images instead of holding them"""
SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""What `datasets` calls the splits"""


def load_tables(path: str | None, data_files: dict[str, str] | None, config_name: str | None) -> dict[str, Any]:
    """Split name to table, from `data_files`, or else from what `path` names here or on the hub."""
    if data_files is not None:
        found = {split: parquet_files(str(pattern)) for split, pattern in data_files.items()}
        for split, files in found.items():
            if not files:
                raise UserError("data.data_files", f"{split}: {data_files[split]} does not exist")
        lists = {split: load_list(files) for split, files in found.items() if is_list(files[0])}
        rest = {split: files for split, files in found.items() if split not in lists}
        tables = load_splits("data_files", rest)
        return {split: naming_images(lists.get(split) or tables[split]) for split in found}
    assert path is not None
    files = parquet_files(path)
    if files and is_list(files[0]):
        return {"train": naming_images(load_list(files))}
    if files:
        tables = load_splits(path, by_split(files, path))
        return {split: naming_images(table) for split, table in tables.items()}
    if is_saved(path):
        return {split: naming_images(table) for split, table in load_saved(path).items()}
    local = path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith(".parquet") or "*" in path
    if Path(path).expanduser().is_dir():
        problem = f"{path} is a folder without parquet files, and `datasets` did not save it"
        raise UserError("data.path", problem, "set it to another folder")
    if local:
        raise UserError("data.path", f"{path} does not exist")
    return load(path, path, name=config_name)


def is_list(file: str) -> bool:
    """Whether a file is text that names images."""
    return Path(file).suffix.lower() in LISTS


def load_list(files: list[str]) -> Any:
    """A CSV, TSV, JSON or JSONL file as a table."""
    import datasets

    from sft_lightning.data.text.files import read_table

    if len(files) > 1:
        raise UserError("data.data_files", f"{files[0]} and {files[1]} are both files of one split", "give one file")
    columns = read_table(files[0], "data.data_files").columns
    try:
        return datasets.Dataset.from_dict(columns)
    except (TypeError, ValueError, OverflowError) as error:  # pyarrow's: a column of different kinds
        raise UserError("data", f"{files[0]}: {str(error).splitlines()[0]}") from None


def naming_images(table: Any) -> Any:
    """The table, with its columns of image files' names turned into columns of images."""
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
    """All local parquet files that `load_tables` reads; empty if the table is on the hub."""
    patterns = [path] if data_files is None else data_files.values()
    return [file for pattern in patterns for file in parquet_files(str(pattern))]


def by_split(files: list[str], root: str) -> dict[str, list[str]]:
    """Groups files by the split in their names, or else in the names of their folders below `root`.

    Files without a split in their names are 'train'. Raises UserError if other files have train in their names.
    """
    splits: dict[str, list[str]] = {}
    silent = []
    top = Path(root).expanduser()
    for file in files:
        below = Path(file).relative_to(top).parts if top.is_dir() else (Path(file).name,)
        kinds = map(split_within, (Path(file).stem, *below[-2::-1]))
        kind = next((k for k in kinds if k is not None), None)
        if kind is None:
            silent.append(file)
        else:
            splits.setdefault(SPLITS[kind], []).append(file)
    if silent and "train" in splits:
        raise UserError(
            "data",
            f"{silent[0]} has no split in its name, {splits['train'][0]} has train",
            "name the files of each split in data.init_args.data_files",
        )
    if silent:
        splits["train"] = silent
    return splits


def load_splits(where: str, files: dict[str, list[str]]) -> dict[str, Any]:
    """Loads each split by itself: together, all would get the class names of the first."""
    return {split: load("parquet", where, data_files={split: some})[split] for split, some in files.items()}


def load(builder: str, where: str, **options: Any) -> dict[str, Any]:
    """As `datasets.load_dataset`, without progress bars, and with one-line errors."""
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return dict(datasets.load_dataset(builder, **options))
    except Exception as error:
        said = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        if re.search("connect|offline|resolve|Max retries", f"{type(error).__name__} {error}", re.IGNORECASE):
            said = ["no such file or folder here, and the hub cannot be reached to look there"]
        raise UserError("data", f"{where} cannot be loaded: {said[0]}") from None
    finally:
        if not bars:
            datasets.enable_progress_bars()


def pick(wanted: str, names: Iterable[str], what: str) -> str:
    """Returns `wanted`. Raises UserError if it is not one of `names`."""
    names = list(names)
    if wanted not in names:
        raise UserError("data", f"there is no {what} '{wanted}', only {', '.join(names)}{nearest(wanted, names)}")
    return wanted


def named_splits(tables: Iterable[str], train: str, val: str | None, test: str | None) -> dict[str, str]:
    """The name of the table of each split there is: the one given, or the one that means it, such as `Val` or `testing`.

    Raises:
        UserError: A name that was given is not there, or none is for training, or several mean one split.
    """
    names = list(tables)
    given = {"train": None if train == "train" and train not in names else train, "val": val, "test": test}
    found = {kind: name or one_of(names, kind, f"set data.init_args.{kind}_split") for kind, name in given.items()}
    found["train"] = found["train"] or train
    return {kind: pick(name, names, "split") for kind, name in found.items() if name}


def classes_of(tables: dict[str, Any], column: str, train: str) -> tuple[list[str], dict[Any, int]]:
    """Class names in order, and the number of each value of the column.

    The classes are the training table's. All tables together decide whether the values are numbers or names.
    """
    if names := names_of(tables[train], column):
        return names, {name: i for i, name in enumerate(names)} | {i: i for i in range(len(names))}
    held = {}
    for split, table in tables.items():
        values = table[column][:]
        if not all(v is None or isinstance(v, (int, str, float)) for v in values):
            feature = table.features[column]
            problem = f"column '{column}' of {split} holds {getattr(feature, 'dtype', feature)}, not classes"
            raise UserError("data.label_column", problem, "set it to a column of classes")
        held[split] = {v for v in values if not missing(v)}
    every = set().union(*held.values())
    if any(isinstance(v, float) for v in every) and not all(whole(v) is not None for v in every):
        problem = f"column '{column}' holds numbers with fractions, not classes"
        raise UserError("data.label_column", problem, "set it to a column of classes")
    keys: dict[Any, Any] = {v: as_number(v) for v in every}
    if None in keys.values():
        keys = {v: str(v) for v in every}
    ordered = sorted({keys[v] for v in held[train]})
    numbers = {key: i for i, key in enumerate(ordered)}
    return [str(key) for key in ordered], {v: numbers[key] for v, key in keys.items() if key in numbers}


def names_of(table: Any, column: str) -> list[str]:
    """The class names that the table itself has; empty if it has none."""
    return list(getattr(table.features[column], "names", None) or [])


def as_number(value: Any) -> int | None:
    """The whole number that a label means (1, 1.0, '1', '1.0'); None for others, such as '01' and true."""
    digits = whole(value)
    return None if digits is None else int(digits)


def targets_of(
    table: Any, column: str, numbers: dict[Any, int], split: str, skip: bool = False
) -> tuple[np.ndarray, dict[int, str]]:
    """(the class number of each row; the rows whose label is not a class of the training split, and why). The latter have
    number -1 with `skip`; otherwise the first raises UserError.
    """
    values, names, bad = table[column][:], names_of(table, column), dict[int, str]()
    if names:  # the number of a class is its own table's alone
        values = [names[v] if v is not None and 0 <= v < len(names) else v for v in values]
    for row, value in enumerate(values):
        if value not in numbers:
            unlabelled = missing(value)
            not_a_class = f"label {value!r} is not a class of the training split"
            bad[row] = f"no label (column '{column}' is {value!r})" if unlabelled else not_a_class
            if not skip:
                fix = f"{'fill' if unlabelled else 'correct'} it or remove the row, or set data.on_bad_sample skip"
                raise UserError("data", f"row {row} of split '{split}': {bad[row]}", fix)
    return np.array([numbers.get(v, -1) for v in values], dtype=np.int64), bad
