"""Infers a data block from pairs of a source and a target text: parallel text files, or a table with a column for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.autoconfig import infer_columns as columns
from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, fits
from sft_lightning.autoconfig.one_load import settings_of
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.text.cells import missing, numbers
from sft_lightning.data.text.files import DELIMITED, FORMATS, Table
from sft_lightning.data.text.pair_rows import PairRows
from sft_lightning.data.text.pairs import TextPairs
from sft_lightning.data.text.parallel import (
    SOURCE,
    TARGET,
    languages_of,
    pair_table,
    reads_like_texts,
    repeats_its_names,
    with_languages,
)

KNOWN = (
    *(("source", "target"), ("src", "tgt"), ("src", "trg"), ("input", "target"), ("input_text", "target_text")),
    *(("article", "highlights"), ("document", "summary"), ("article", "summary"), ("dialogue", "summary")),
    *(("text", "summary"), ("source", "translation"), ("en", "de"), ("en", "fr"), ("en", "es")),
)
"""Columns of source and target texts that are known as such"""
SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
SUMMARIES, TRANSLATED = {"summary", "highlights", "abstract", "headline", "title", "tldr"}, {"translation"}
"""Columns of target texts that are known as summaries, and as translations"""
ROUGE = ["rouge1", "rouge2", "rougeL"]
SHORT = 0.5
"""Target texts are summaries if they have fewer than this share of the source texts' words and of their bytes: bytes alone
would take a text in a script of several bytes a letter for longer, and words alone one of a language without spaces for shorter
"""
FEW_BAD = 0.05
"""Largest share of pairs without a text that is left out; more are an error"""


def parallel_files(folder: Path, said: Overrides) -> dict[str, list[str]]:
    """Files of each split, [SOURCE, TARGET], of a folder with train.en and train.de; empty if it is none.

    Of two languages, English is the source, or else the first by name, unless `--text_column de,en` says otherwise.
    """
    ends = sorted(p.suffix[1:] for p in folder.glob("train.*") if p.is_file() and p.suffix.lower() not in FORMATS)
    if len(ends) != 2:
        return {}
    order = sorted(ends, key=lambda end: (end != "en", end))
    if said.text_column is not None:
        order = [part.strip() for part in said.text_column.split(",")]
        if sorted(order) != ends:
            raise UserError(
                "--text_column", f"{folder} has train.{ends[0]} and train.{ends[1]}", f"name {','.join(ends)}"
            )
    found = {}
    for split, names in SPLITS.items():
        for name in names:
            files = [folder / f"{name}.{end}" for end in order]
            if split not in found and all(file.is_file() for file in files):
                found[split] = [str(file) for file in files]
    return found


def pair_columns(table: Table, said: Overrides, only: bool) -> tuple[str, str] | None:
    """Columns of source and target texts; None if the table has no such pair, or if it may have labels.

    Args:
        table: The table, in which columns of a `translation` may become columns.
        said: The user's columns, `--text_column SOURCE,TARGET`.
        only: Whether the network takes nothing but pairs, so that two columns of texts are taken for one.
    """
    languages = languages_of(table)
    names, sure = list(with_languages(table).columns), said.task == "seq2seq"
    known = {name.lower().strip(): name for name in names}
    found = next(((known[one], known[other]) for one, other in KNOWN if one in known and other in known), None)
    if found is None and len(languages) == 2:  # the hub's name for such an object says that it is a pair
        first, second = sorted(languages, key=lambda name: name.lower() != "en")
        found = first, second
    if said.text_column is not None:
        return given_columns(table, said.text_column, found, only or sure)
    texts = [name for name in names if columns.is_text(table.columns[name])]
    if found is not None or len(texts) != 2 or not (only or sure):
        return found
    return (texts[0], texts[1]) if sure or not may_have_labels(table, texts) else None


def headless(file: Path, table: Table, said: Overrides, only: bool) -> Table | None:
    """The table with its first line as a pair, if that names no columns; None if it does.

    `--set data.header=false` says so; else the line's two fields must read like texts, or one of them must occur again below.
    A table with more columns may have labels, unless the user names the task.

    Args:
        file: A .csv or .tsv.
        table: The table, read with a header.
        said: The user's options.
        only: Whether the network takes nothing but pairs.
    """
    given, sure = said.settings.get("header"), only or said.task == "seq2seq"
    like_texts = (sure and repeats_its_names(table)) or ((sure or len(table.columns) == 2) and reads_like_texts(table))
    if given is not False and not (given is None and like_texts):
        return None
    return pair_table(file, "--data", True, header=False)


def given_columns(table: Table, given: str, found: tuple[str, str] | None, sure: bool) -> tuple[str, str] | None:
    """The user's columns SOURCE,TARGET in this order; None if they may be texts with labels.

    Args:
        table: The table.
        given: What `--text_column` names.
        found: Columns of source and target texts that are known as such.
        sure: Whether nothing but pairs can be meant.
    """
    parts = [given] if given in table.columns else [part.strip() for part in given.split(",")]
    named = [columns.check_given(table, part, "text_column") for part in parts]
    sure = sure or {name.lower().strip() for name in named} in map(set, KNOWN)
    if not sure and (len(named) > 2 or may_have_labels(table, named)):
        return None
    if len(named) == 2 and named[0] != named[1]:
        if numbers(value for value in with_languages(table).columns[named[0]] if not missing(value)) is not None:
            problem = f"column '{named[0]}' of {table.where} holds numbers, not source texts"
            raise UserError("--text_column", problem, "name two columns of texts, SOURCE,TARGET")
        return named[0], named[1]
    if not sure and found is None:
        return None
    names = "the same column twice" if len(named) == 2 else plural(len(named), "column")
    raise UserError("--text_column", f"names {names}", "name two, SOURCE,TARGET")


def may_have_labels(table: Table, texts: Sequence[str]) -> bool:
    """Whether a column beside the texts is named like labels, or has few different values."""
    others = [name for name in table.columns if name not in texts]
    return bool(columns.named(others, columns.LABELS)) or any(columns.few_values(table.columns[c]) for c in others)


def no_pairs(table: Table, kinds: tuple[str, ...], network: str) -> UserError:
    """The error for a table without source and target texts, or for a network that does not take them."""
    fits(kinds, ("pairs",), network, f"{table.where} is data for --task seq2seq")
    return UserError(
        "--data",
        f"{table.where}: of its columns {columns.listed(list(table.columns))}, it is unclear which are source and target",
        f"set --text_column SOURCE,TARGET and --task seq2seq{if_headless(table)}",
    )


def if_headless(table: Table) -> str:
    """The part of a fix that says how to read the first line of a delimited file as a pair; empty for other files."""
    bare = Path(table.where).suffix.lower() in DELIMITED and len(table.columns) > 1
    return ", or, if its first line is a pair, --set data.header=false" if bare else ""


def headless_plan(files: dict[str, Any], table: Table, said: Overrides) -> DataPlan:
    """Plans pairs of tables without a header, in the columns source and target unless the user names others."""
    pair = given_columns(table, said.text_column, None, True) if said.text_column else None
    source, target = pair or (SOURCE, TARGET)
    guessed = said.settings.get("header") is None
    plan = pair_plan(files, said, source, target, header=False)
    if guessed:
        plan.lines.insert(
            1, "its first line reads like a pair, not like names of columns (--set data.header=true says otherwise)"
        )
    return plan


def pair_plan(
    files: dict[str, Any],
    said: Overrides,
    source: str | None = None,
    target: str | None = None,
    header: bool = True,
) -> DataPlan:
    """Plans `TextPairs` data, read by the class that `fit` uses, so that errors and counts are those of `fit`."""
    init: dict[str, Any] = {**files, **({} if header else {"header": False})}
    if (source, target) != (None, None):
        init |= {"source_column": source, "target_column": target}
    init |= settings_of(TextPairs, said)
    chosen = "on_bad_sample" in init
    loaded = TextPairs(**{"on_bad_sample": "skip", **init}).load()
    train = loaded.train
    assert isinstance(train, PairRows)
    plan = DataPlan(
        "pairs", "seq2seq", {"class_path": "TextPairs", "init_args": init}, len(train) - len(train.bad_rows())
    )
    for split, samples in (("train", train), ("val", loaded.val), ("test", loaded.test)):
        if samples is None:
            continue
        bad = samples.bad_rows()
        if not chosen and len(bad) > FEW_BAD * len(samples):
            row, why = next(iter(bad.items()))
            raise UserError(
                "--data",
                f"{samples.name(row)}: {why.partition(';')[0]}; {len(bad):,} of {len(samples):,} pairs cannot be used",
                "mend or remove them, or name other columns",
            )
        if bad:
            init["on_bad_sample"] = "skip"
            plan.lines.append(f"{plural(len(bad), 'pair')} of {split} left out (--data.on_bad_sample skip)")
        if split != "train":
            setattr(plan, split, len(samples) - len(bad))
    rows = np.linspace(0, len(train) - 1, min(len(train), columns.LOOKED_AT))
    if "metrics" not in init and init.get("generate_samples") != 0:
        plan.lines.insert(0, scored(init, train, target, [int(row) for row in rows]))
    plan.texts = [train.prefix + train.sources[int(row)] for row in rows]
    where = files["train"] if isinstance(files["train"], str) else files["train"][0]
    ways = (source, target) if source is not None else tuple(Path(file).name for file in files["train"])
    plan.lines.insert(0, f"{where}: {plan.train:,} pairs, source texts in {ways[0]}, target texts in {ways[1]}")
    named = header and source is not None and Path(where).suffix.lower() in DELIMITED
    if named and (str(source).lower(), str(target).lower()) not in KNOWN:
        plan.lines.insert(1, "line 1 names the columns (--set data.header=false reads it as a pair)")
    plan.lines[1:1] = columns.unused(train.table, [source, target]) if source and target else []
    plan.lines += loaded.notes
    return plan


def scored(init: dict[str, Any], train: PairRows, target: str | None, rows: list[int]) -> str:
    """A line on the scores of generated texts: ROUGE for summaries, which is set, else BLEU and chrF.

    Args:
        init: Arguments of the data.
        train: The training pairs.
        target: The column of target texts; None for text files.
        rows: Some of the pairs.
    """
    assert train.references is not None
    pairs = [(train.sources[row], train.references[row][0]) for row in rows if train.references[row]]
    words = float(np.median([len(b.split()) / max(1, len(a.split())) for a, b in pairs]))
    sizes = float(np.median([len(b.encode()) / max(1, len(a.encode())) for a, b in pairs]))
    name = (target or "").lower().strip()
    why = f"the median one has {words:.0%} of its source text's words and {sizes:.0%} of its bytes"
    if name in SUMMARIES | TRANSLATED:
        why = f"column '{target}'"
    if name in SUMMARIES or (name not in TRANSLATED and max(words, sizes) < SHORT):
        init["metrics"] = list(ROUGE)
        return f"target texts are taken for summaries ({why}): ROUGE (--set data.metrics=[bleu,chrf] says otherwise)"
    return (
        f"target texts are taken for translations ({why}): BLEU and chrF (--set data.metrics=[rougeL] says otherwise)"
    )
