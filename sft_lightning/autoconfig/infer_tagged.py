"""Infers a data block from tagged words: columns (CoNLL), CoNLL-U, or tables with lists of words and of tags."""

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from sft_lightning.autoconfig import infer_columns as columns
from sft_lightning.autoconfig.data_plan import LEAST, DataPlan, Overrides
from sft_lightning.autoconfig.data_settings import with_columns
from sft_lightning.autoconfig.infer_table import VALIDATIONS
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.base import DATA_MODULES
from sft_lightning.data.text.cell_lists import as_lists, list_of
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.delimited import first_rows, separator
from sft_lightning.data.text.files import DELIMITED
from sft_lightning.data.text.own_texts import first_lines, holds_texts
from sft_lightning.data.text.sentences import BLANK, is_comment
from sft_lightning.data.text.tagged import check_several
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.data.text.utf8 import open_text
from sft_lightning.tasks.schemes import OUTSIDE, is_prefixed, types_of

COLUMNS = (".conll", ".conll03", ".iob", ".iob1", ".iob2", ".bio", ".bioes", ".iobes", ".bilou", ".ner", ".pos", ".txt")
"""Suffixes of files in columns; .txt may also be plain text"""
CONLL_2003 = {".train": "train", ".testa": "val", ".testb": "test", ".dev": "val", ".test": "test"}
"""Suffixes of files in columns that name their split: eng.train, eng.testa, eng.testb"""
OCCURRENCES = 10
"""A tag occurs so often in a .txt file, on average, if it is not one of a known scheme"""
UD, TABLES = ".conllu", (".jsonl", ".json", ".parquet", *DELIMITED)
KNOWN = (*COLUMNS, *CONLL_2003, UD, *TABLES)
WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "upos", "pos_tags", "chunk_tags", "tag", "ner")
"""Names of lists of words, and of lists of tags, the likeliest first"""
LOOKED_AT = 200
"""Lines of a .csv or .tsv, of which the first ten rows tell whether it has a tag for each word"""
FORM = {"CoNLL": "columns", "CoNLLU": "conllu", "TaggedTable": "lists"}
AS = {"CoNLL": "words and tags in columns", "CoNLLU": "CoNLL-U", "TaggedTable": "lists of words and tags"}


def tagged_files(where: Path, kinds: tuple[str, ...], said: Overrides) -> tuple[str, dict[str, Path]] | None:
    """(name of the data module, files by split) if a file or folder holds tagged words; None if not. Raises UserError if a
    split has several files.
    """
    if said.task not in (None, "token_classification"):
        return None
    found = {"train": [where]} if where.is_file() else split_files(where)
    if not found.get("train"):
        return None
    train, kind = next(((path, of) for path in found["train"] if (of := kind_of(path, kinds, said))), (None, None))
    if train is None or kind is None:
        return None
    alike = CONLL_2003 if train.suffix in CONLL_2003 else (train.suffix,)
    files = {split: [p for p in paths if p.suffix in alike] for split, paths in found.items()}
    for split, paths in files.items():
        if len(paths) > 1:
            problem = f"{where} has {paths[0].name} and {paths[1].name} for {split}"
            raise UserError("--data", problem, "name one file, or keep one")
    return kind, {split: paths[0] for split, paths in files.items() if paths}


def split_files(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder by split: train.conll, en_ewt-ud-dev.conllu, test-00000-of-00001.parquet. A file named after its
    split alone comes without others.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in KNOWN or not path.is_file():
            continue
        stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem.lower())
        name = re.split(r"[-_.]", stem)[-1]
        split = CONLL_2003.get(path.suffix.lower()) or ("val" if name in VALIDATIONS else name)
        if split in ("train", "val", "test"):
            found.setdefault(split, []).append(path)
    exact = {split: [p for p in paths if p.stem.lower() in (split, *VALIDATIONS)] for split, paths in found.items()}
    return {split: exact[split] or paths for split, paths in found.items()}


def kind_of(path: Path, kinds: tuple[str, ...], said: Overrides) -> str | None:
    """The data module that reads a file of tagged words; None if it holds none."""
    suffix = path.suffix.lower()
    if suffix == UD:
        return "CoNLLU"
    if suffix in TABLES:
        said = with_columns(said, FORM["TaggedTable"])
        if suffix in DELIMITED:
            return "TaggedTable" if in_cells(path, said) is not None else None
        return "TaggedTable" if columns_of(first_row(path), said, path) is not None else None
    if suffix != ".txt" and suffix not in CONLL_2003:
        return "CoNLL" if suffix in COLUMNS else None
    return "CoNLL" if has_tags(path, kinds, said) else None


def has_tags(path: Path, kinds: tuple[str, ...], said: Overrides) -> bool:
    """Whether a .txt file, or one of CoNLL-2003's, is words and tags in columns, and not plain text whose lines have equally
    many words.

    Tags of entities say so. Others must be few, unless the network takes nothing else, or the user names the task.
    """
    if holds_texts(str(path)):
        return False
    full = [line.strip(BLANK) for line in first_lines(str(path), "--data") if line.strip(BLANK)]
    if not all(len(line.split()) > 1 for line in full):
        return False
    tags = [line.split("\t" if "\t" in line else None)[-1].strip() for line in full if not is_comment(line, tabs=True)]
    if all(is_prefixed(tag) or tag == OUTSIDE for tag in tags):
        return True
    few = "words" in kinds and len(set(tags)) * OCCURRENCES <= len(tags)
    return few or kinds == ("words",) or said.task is not None


def in_cells(path: Path, said: Overrides) -> tuple[str, str] | None:
    """(column of words, column of tags) of a .csv or .tsv, by its first rows: cells with equally many items, some several.

    Tags are in a column with the name of tags, one that the user names, or one of lists written as texts. Words are in a
    column with the name of words, or one that the user names; beside such lists, any other column whose cells fit, if a
    list has a tag twice, as no set of labels has.
    """
    try:
        delimiter, skip = separator(path, "\t" if path.suffix.lower() == ".tsv" else ",", strict=False)
        with open_text(path, strict=False) as file:
            rows = first_rows(list(islice(file, skip, skip + LOOKED_AT)), delimiter)
    except OSError:  # the reader of tables says it better
        return None
    header = rows[0] if rows else []
    full = [row for row in rows[1:] if len(row) == len(header) and not any(map(missing, row))]
    cells = {name: [row[place] for row in full] for place, name in enumerate(header)} if full else {}
    lists = [name for name, held in cells.items() if all(list_of(one) is not None for one in held)]
    twice = any(len({*map(str, row)}) < len(row) for name in lists for row in as_lists(cells[name])[0])
    known = {of: [n for name in of for n in cells if n.strip().lower() == name] for of in (WORDS, TAGS)}
    of_tags = [said.label_column] if said.label_column else dict.fromkeys([*known[TAGS], *lists])
    of_words = [said.text_column] if said.text_column else known[WORDS]
    for tag in (name for name in of_tags if name in cells):
        tags = as_lists(cells[tag])[0]
        for word in (name for name in (*of_words, *(cells if tag in lists else ())) if name in cells and name != tag):
            words = as_lists(cells[word])[0]
            sizes = {len(w) if len(w) == len(t) else 0 for w, t in zip(words, tags, strict=True)}
            if 0 not in sizes and max(sizes) > 1 and (twice or word in of_words):
                return word, tag
    return None


def first_row(path: Path) -> dict[str, Any]:
    """The first row of a table; empty if it cannot be read, which the table's own reader will say."""
    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet  # type: ignore[import-untyped]

            with parquet.ParquetFile(path) as file:
                wanted = [f.name for f in file.schema_arrow if str(f.type).startswith(("list", "large_list"))]
                rows = next(file.iter_batches(1, columns=wanted)).to_pylist() if wanted else []
        elif path.suffix.lower() == ".jsonl":
            with path.open(encoding="utf-8-sig") as lines:
                rows = [json.loads(next(line for line in lines if line.strip()))]
        else:
            rows = json.loads(path.read_text(encoding="utf-8-sig"))
        row = rows[0]
    except Exception:  # of json, pyarrow or the file system: whatever it is, the reader of tables says it better
        return {}
    return row if isinstance(row, dict) else {}


def columns_of(row: dict[str, Any], said: Overrides, where: Path) -> tuple[str, str] | None:
    """(column of words, column of tags) by a row: lists of equal length, of texts, and of texts or numbers.

    None if a column that the user names is no such list. Raises UserError if the row has lists, but lacks that column.
    """
    for flag, name in (("text_column", said.text_column), ("label_column", said.label_column)):
        if name is None or name in row or columns_of(row, Overrides(), where) is None:
            continue
        if not name.endswith("*") and not any(part.strip() in row for part in name.split(",")):
            here = ", ".join(row)
            raise UserError(f"--{flag}", f"{where} has no column '{name}'{nearest(name, row)}", f"use one of {here}")
        return None
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    of_words = WORDS if said.text_column is None else (said.text_column,)
    words = next((n for n in of_words if n in lists and all(isinstance(w, str) for w in lists[n])), None)
    if words is None:
        return None
    of_tags = (*TAGS, *lists) if said.label_column is None else (said.label_column,)
    likely = [n for n in of_tags if n in lists and n != words]
    tags = next((n for n in likely if len(lists[n]) == len(lists[words]) and not any(map(is_nested, lists[n]))), None)
    return None if tags is None else (words, tags)


def is_nested(value: Any) -> bool:
    """Whether a value cannot be a tag."""
    return isinstance(value, list | dict)


def tagged_plan(kind: str, files: dict[str, Path], said: Overrides) -> DataPlan:
    """Plans tagged words; reads them as `fit` does, so that errors and counts are those of `fit`."""
    init: dict[str, Any] = {split: str(file) for split, file in files.items()}
    how, said = AS[kind], with_columns(said, FORM[kind])
    if kind == "TaggedTable":
        file = files["train"]
        delimited = file.suffix.lower() in DELIMITED
        names = in_cells(file, said) if delimited else columns_of(first_row(file), said, file)
        assert names is not None
        init |= {"token_column": names[0], "tag_column": names[1]}
        how = f"words in column '{names[0]}', tags in column '{names[1]}'"
    elif kind == "CoNLLU":
        if said.text_column is not None:
            problem = f"has no effect: {files['train']} is CoNLL-U, which has one column of words"
            raise UserError("--text_column", problem, "leave it out")
        init |= {} if said.label_column is None else {"tags": said.label_column}
        how += f", tags {said.label_column or 'upos'}"
    else:
        for option, name in (("text_column", "word_column"), ("label_column", "tag_column")):
            if (column := getattr(said, option)) is not None:
                init[name] = number(column, f"--{option}")
        how += f", word {init.get('word_column', 0)} and tag {init.get('tag_column', -1)} (-1 is the last)"
    plan = DataPlan("words", "token_classification", {"class_path": kind, "init_args": init}, 0)
    loaded = load_as_fit_does(plan, DATA_MODULES.find(kind), said)
    train = loaded.train
    assert isinstance(train, TaggedRows)
    if plan.train >= LEAST:  # fewer sentences are refused as such
        check_several(loaded, said.fewest_classes)
    counts = Counter(tag for tags in train.sentences.tags for tag in tags)
    plan.counts = {label: counts[label] for label in loaded.labels}
    plan.texts = [" ".join(train.sentences.words[row]) for row in columns.spread(len(train))]
    types = types_of(loaded.labels)
    tags = f"{plural(len(types), 'type')} of entities in {train.scheme}: {', '.join(types[:8])}" if train.scheme else ""
    tags = tags or f"{plural(len(plan.counts), 'tag')}: {', '.join(loaded.labels[:8])}"
    some = ", …" if len(types if train.scheme else loaded.labels) > 8 else ""
    plan.lines.insert(0, f"{files['train']}: {plan.train:,} sentences ({how}), {tags}{some}")
    return plan


def number(column: str, option: str) -> int:
    """The number of a column. Raises UserError if it is not one."""
    if not re.fullmatch(r"-?\d+", column):
        raise UserError(option, f"'{column}' is not the number of a column, from 0", "give a number")
    return int(column)
