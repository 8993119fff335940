"""Infers a data block from tables: texts with labels, images with labels, or instructions with answers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.autoconfig import infer_columns as columns
from sft_lightning.autoconfig import infer_listed as listed
from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, check_classes, classes_said, fits
from sft_lightning.autoconfig.data_settings import of_table
from sft_lightning.autoconfig.held_bytes import held_bytes
from sft_lightning.autoconfig.infer_choices import choices_of, choices_plan
from sft_lightning.autoconfig.infer_instructions import instruction_plan
from sft_lightning.autoconfig.infer_pairs import (
    headless,
    headless_plan,
    if_headless,
    no_pairs,
    pair_columns,
    pair_plan,
)
from sft_lightning.autoconfig.infer_plain import plain_column, plain_table_plan
from sft_lightning.autoconfig.infer_questions import holds_questions, question_plan
from sft_lightning.autoconfig.infer_sets import sets_of, sets_plan
from sft_lightning.autoconfig.one_load import settings_of
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.saved import is_saved
from sft_lightning.data.split_column import NAME, parts_of
from sft_lightning.data.split_names import split_within
from sft_lightning.data.text.cells import missing, numbers
from sft_lightning.data.text.files import FORMATS, Table, read_table
from sft_lightning.data.text.labels import all_unlabelled, class_names, class_numbers, unlabelled, wrong
from sft_lightning.data.text.layouts import layout_of, no_layout
from sft_lightning.data.text.local_copy import split_file
from sft_lightning.data.text.table import TextTable

VALIDATIONS = ("validation", "val", "valid", "dev")
FEW_MISSING = 0.05
"""Largest share of rows without text or label that is left out; more rows are an error"""


# ---- files ----


def files_of(path: Path) -> dict[str, Path]:
    """Returns files by split: the file itself as `train`, or the files of a folder."""
    if path.is_file():
        if path.suffix.lower() not in FORMATS:
            raise UserError("--data", f"{path} has an unknown format", f"give a folder, or one of {', '.join(FORMATS)}")
        return {"train": path}
    if is_saved(path):
        fix = "write each split of it as a file: load_from_disk(…)['train'].to_parquet('train.parquet')"
        raise UserError("--data", f"{path} is a folder that save_to_disk wrote, which only fit reads (data.path)", fix)
    found = {"train": split_file(path, "train"), "test": split_file(path, "test")}
    found["val"] = next((f for name in VALIDATIONS if (f := split_file(path, name)) is not None), None)
    if found["train"] is not None:
        return {split: file for split, file in found.items() if file is not None}
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in FORMATS and not p.name.startswith("."))
    if len(tables) == 1:
        return {"train": tables[0]}
    if "train" in (named := by_name(tables)):
        return named
    if tables:
        some = ", ".join(p.name for p in tables[:4])
        raise UserError("--data", f"{path} has {len(tables)} tables ({some}), but no train", "name one file")
    raise UserError(
        "--data",
        f"{path} has neither tables nor class folders of images",
        "put train.csv, or a folder of images for each class, into it",
    )


def by_name(tables: Sequence[Path]) -> dict[str, Path]:
    """The tables by the split that a word of their names tells, as in train-v2.0.json and dev-v2.0.json; empty unless each
    names another one.
    """
    found: dict[str, Path] = {}
    for table in tables:
        try:
            split = split_within(table.stem)
        except UserError:  # of two splits
            split = None
        if split is None or split in found:
            return {}
        found[split] = table
    return found


def read_sheet(path: Path, header: bool = True) -> tuple[Table, list[str]]:
    """Reads a table; returns (the table, names of columns with images). Images in parquet are not read."""
    if path.suffix.lower() != ".parquet":
        return read_table(path, "--data", header=header), []
    holds = held_bytes(path)
    embedded = [name for name, bytes_in in holds.items() if bytes_in]
    if embedded and len(embedded) == len(holds):
        problem = f"{path} holds images and nothing else, in columns {', '.join(embedded)}"
        raise UserError(
            "--data", problem, "call the masks' column mask, or set --set data.mask_column=NAME, or add labels"
        )
    return read_table(path, "--data", leave_out=embedded), embedded


# ---- their content ----


def table_plan(files: dict[str, Path], kinds: tuple[str, ...], network: str, said: Overrides) -> DataPlan:
    """Plans data on the files of the splits: texts with labels or sets of labels, questions, pairs, images,
    instructions, or plain text.
    """
    said = of_table(said)
    table, embedded = read_sheet(files["train"], header=said.settings.get("header") is not False)
    table.where = str(files["train"])
    if "image" in kinds:
        return image_plan(files, table, embedded, said)
    others: list[Table] = []
    if NAME not in (said.text_column, said.label_column):
        table, *others = parts_of(table).values()  # what is inferred is of the training rows
    if embedded and not any(columns.is_text(v) for v in table.columns.values()):
        fits(kinds, ("image",), network, f"{table.where} holds images")
    unlabelled_pairs = "pairs" in kinds and said.label_column is None and said.task in (None, "seq2seq")
    if unlabelled_pairs and (bare := headless(files["train"], table, said, kinds == ("pairs",))) is not None:
        return headless_plan({split: str(file) for split, file in files.items()}, bare, said)
    layout = layout_of(table)
    meant = said.task == "multiple_choice" or (said.label_column is None and layout is None)
    if ("choices" in kinds or meant) and (asked := choices_of(table, said, kinds == ("choices",))):
        of_texts = "choose another network, or set --label_column to take it for texts with labels"
        what = f"{table.where} holds questions with choices"
        fits(kinds, ("choices",), network, what, *([of_texts] if "text" in kinds and said.task is None else []))
        return choices_plan(files, table, asked, said)
    if holds_questions(table, said):
        return question_plan(files, kinds, network, said)
    if unlabelled_pairs and (pair := pair_columns(table, said, kinds == ("pairs",))) is not None:
        return pair_plan({split: str(file) for split, file in files.items()}, said, *pair)
    if said.task == "seq2seq" or kinds == ("pairs",):
        raise no_pairs(table, kinds, network)
    labels_wanted = said.label_column is not None or said.task in ("classification", "regression", "multi_label")
    if "tokens" in kinds and layout is None and (column := plain_column(table, said)) is not None:
        return plain_table_plan(files, table, column, said)
    if "tokens" in kinds and (said.task == "causal_lm" or (layout is not None and not labels_wanted)):
        return instruction_plan(files, table, layout, said)
    if "tokens" in kinds and not labels_wanted and (len(kinds) == 1 or {"chosen", "rejected"} <= set(table.columns)):
        raise no_layout(table)
    if said.task == "causal_lm":
        fits(kinds, ("tokens",), network, f"{table.where} is data for a language model (--task causal_lm)")
    if layout is not None and not labels_wanted and not columns.named(table.columns, columns.LABELS):
        fits(kinds, ("tokens",), network, f"{table.where} holds instructions ({', '.join(layout)})")
    if (labels := sets_of(table, said)) is not None:
        fits(kinds, ("text",), network, f"{table.where} holds texts with sets of labels")
        return sets_plan(files, table, labels, said)
    fits(kinds, ("text",), network, f"{table.where} is taken for texts with labels")
    return text_plan(files, table, said, no_labels(table, kinds), others)


def no_labels(table: Table, kinds: tuple[str, ...]) -> str:
    """What to do about a table without labels: two columns of texts may be meant for what else the network takes."""
    fixes = ["set --label_column"]
    if sum(columns.is_text(values) for values in table.columns.values()) > 1:
        if "pairs" in kinds:
            fixes.insert(0, "set --task seq2seq and --text_column SOURCE,TARGET")
        if "tokens" in kinds:
            fixes.insert(0, "rename the columns of texts and of answers to prompt and completion")
    return ", or ".join(fixes) + (if_headless(table) if "pairs" in kinds else "")


def image_plan(files: dict[str, Path], table: Table, embedded: list[str], said: Overrides) -> DataPlan:
    """Plans a table with a column of images or image files."""
    image = columns.image_of(table, embedded, files["train"].parent, said.image_column)
    others = [c for c in (*embedded, *table.columns) if c == image or columns.is_image(table.columns.get(c, []))]
    rest = replace(table, columns={name: values for name, values in table.columns.items() if name not in others})
    if (several := listed.several_numbers(rest, said)) is not None:
        plan = listed.values_plan(files, table, image, several, said)
        plan.pixels = largest(images_at(files["train"], image, table))
        return plan
    if (labels := sets_of(rest, said)) is not None:
        plan = listed.sets_plan(files, table, image, labels, said)
        plan.pixels = largest(images_at(files["train"], image, table))
        return plan
    label = columns.label_of(table, said.label_column, others)
    init = {
        "data_files": {{"val": "validation"}.get(split, split): str(file) for split, file in files.items()},
        "image_column": image,
        "label_column": label,
    }
    plan = DataPlan("image", "", {"class_path": "HubImages", "init_args": init}, 0)
    read_labels(plan, table, label, [label, *([image] if image in table.columns else [])], said)
    if plan.task == "regression":
        plan = listed.values_plan(files, table, image, [label], said)
        plan.pixels = largest(images_at(files["train"], image, table))
        return plan
    if plan.task != "classification":
        raise UserError(
            "--task", f"{table.where} is images with labels, not data for {plan.task}", "use classification"
        )
    count_classes(plan, table, label, said)
    count_others(plan, files)
    plan.pixels = largest(images_at(files["train"], image, table))
    plan.lines.insert(0, f"{table.where}: {plan.train:,} images in column '{image}', {labels_said(plan, label)}")
    return plan


def images_at(path: Path, column: str, table: Table) -> list[Any]:
    """The first 8 images of a table, as paths or open files."""
    if column in table.columns:
        return [path.parent / name for name in table.columns[column][:8] if not missing(name)]
    from io import BytesIO

    from pyarrow import parquet  # type: ignore[import-untyped]

    with parquet.ParquetFile(path) as file:
        cells = next(file.iter_batches(8, columns=[column])).column(column).to_pylist()
    held = [cell.get("bytes") if isinstance(cell, dict) else cell for cell in cells]
    return [BytesIO(data) for data in held if data]


def largest(images: list[Any]) -> int | None:
    """The largest shorter side of some images, in pixels. Raises UserError for a file that is not an image."""
    from PIL import Image

    sides = []
    for file in images:
        try:
            with Image.open(file) as image:
                sides.append(min(image.size))
                image.verify()
        except Exception as error:
            name = file if isinstance(file, Path) else "an image of the table"
            raise UserError(
                "--data", f"{name} is damaged or not an image ({type(error).__name__})", "remove or replace it"
            ) from None
    return max(sides, default=None)


def text_plan(
    files: dict[str, Path], table: Table, said: Overrides, fix: str, others: Sequence[Table] = ()
) -> DataPlan:
    """Plans a table with a label for each text or pair of texts. Raises UserError with `fix` if no column could be labels.
    `others` are the parts of the table that its column `split` gives to other splits.
    """
    probable = columns.texts_of(table, said.text_column, said.label_column) if said.text_column else []
    label = columns.label_of(table, said.label_column, probable, fix)
    texts = probable or columns.texts_of(table, None, label)
    if label in texts:
        raise UserError(
            "--data", f"{table.where}: column '{label}' cannot be both texts and labels", "set --label_column"
        )
    init: dict[str, Any] = {"text_column": texts[0], "label_column": label}
    init |= {"pair_column": texts[1]} if len(texts) > 1 else {}
    init |= settings_of(TextTable, said)
    plan = DataPlan("text", "", {"class_path": "TextTable", "init_args": init}, 0)
    read_labels(plan, table, label, [label, *texts], said)
    if plan.task == "regression":
        init["task"] = "regression"
    for split, file in files.items():
        if split == "train" or labelled(plan, split, read_table(file, "--data"), label, texts, said):
            init[split] = str(file)
    for part in others:
        if not all_unlabelled(part, label):
            leave_out(plan, part, lacking(part, label, [label, *texts], plan.task), [label, *texts], said)
    read_as_fit_does(plan, init, said)
    plan.texts = [" ".join(str(table.columns[t][row] or "") for t in texts) for row in columns.spread(len(table))]
    what = f"pairs of texts in columns {columns.listed(texts)}" if len(texts) > 1 else f"texts in column '{texts[0]}'"
    plan.lines.insert(0, f"{table.where}: {plan.train:,} {what}, {labels_said(plan, label)}")
    return plan


def labelled(plan: DataPlan, split: str, table: Table, label: str, texts: list[str], said: Overrides) -> bool:
    """Whether a validation or test file has labels. If not, a line says that a share of train replaces it."""
    if all_unlabelled(table, label):
        why = f"no labels in column '{label}'" if label in table.columns else f"no column '{label}', so no labels"
        use = "test on" if split == "test" else "validate on"
        plan.lines.append(f"{table.where} has {why}: left out, to {use} a share of train")
        return False
    leave_out(plan, table, lacking(table, label, [label, *texts], plan.task), [label, *texts], said)
    return True


def read_as_fit_does(plan: DataPlan, init: dict[str, Any], said: Overrides) -> None:
    """Reads all files with the class that `fit` uses, so that errors and counts are those of `fit`."""
    data = TextTable(**init)
    loaded = data.load()
    plan.lines += loaded.notes
    for split, samples in (("train", loaded.train), ("val", loaded.val), ("test", loaded.test)):
        if samples is not None:
            setattr(plan, split, len(samples) - len(samples.bad_rows()))
    if plan.task == "classification":
        targets = loaded.train.targets
        assert targets is not None
        used = np.delete(targets, list(loaded.train.bad_rows()))
        counts = np.bincount(used, minlength=len(loaded.labels))
        plan.counts = dict(zip(loaded.labels, counts.tolist(), strict=True))
        check_classes(str(init["train"]), f"column '{init['label_column']}'", plan, said.fewest_classes)


# ---- labels ----


def lacking(table: Table, label: str, needed: list[str], task: str | None) -> list[bool]:
    """Whether each row lacks a label, or a value in another needed column."""
    values = table.columns[label]
    empty = [missing(v) for v in values] if task == "regression" else unlabelled(table, label)
    others = [table.columns[c] for c in needed if c != label and c in table.columns]
    return [none or any(missing(c[row]) for c in others) for row, none in enumerate(empty)]


def leave_out(plan: DataPlan, table: Table, lacks: list[bool], needed: list[str], said: Overrides) -> None:
    """Leaves out incomplete rows and adds a line on them; raises UserError with the first if they are many, unless the user
    sets `on_bad_sample`.
    """
    count, chosen = sum(lacks), said.settings.get("on_bad_sample")
    if chosen != "skip" and count > (0 if chosen == "fail" else FEW_MISSING * len(table)):
        row = lacks.index(True)
        column = next((c for c in needed if missing(table.columns[c][row])), needed[0])
        raise UserError(
            "--data",
            f"{table.name(row)}: column '{column}' is empty, and {count:,} of {len(table):,} rows lack a text or label",
            "fill them, remove them, or name other columns",
        )
    if count:
        plan.block["init_args"]["on_bad_sample"] = "skip"
        of = "" if plan.train == 0 else f" of {table.where}"
        left = "is left out" if count == 1 else "are left out"
        plan.lines.append(f"{plural(count, 'row')}{of} without a text or label {left} (--data.on_bad_sample skip)")


def read_labels(plan: DataPlan, table: Table, label: str, needed: list[str], said: Overrides) -> None:
    """Sets the plan's task and size from the column of labels."""
    lacks = lacking(table, label, needed, said.task)
    leave_out(plan, table, lacks, needed, said)
    rows = [row for row, none in enumerate(lacks) if not none]
    values, names = [table.columns[label][row] for row in rows], table.names.get(label)
    for row, value in zip(rows, values, strict=True):
        if (why := wrong(value)) is not None:
            raise UserError("--data", f"{table.name(row)}: column '{label}': {why.problem}", why.fix)
    task = columns.task_of(values, said.task or ("classification" if names else None))
    if task is None:
        raise UserError(
            "--data",
            f"{table.where}: column '{label}' has {len(set(map(str, values))):,} different values in "
            f"{len(values):,} rows, too many for classes, and they are not numbers",
            "set --label_column",
        )
    plan.task, plan.train = task, len(values)
    if task == "regression":
        found = numbers(values)
        if found is None:
            raise UserError(
                "--task",
                f"column '{label}' of {table.where} does not hold numbers, which a regression predicts",
                "use classification, or set --label_column",
            )
        plan.variance = float(np.var(found))
        if not plan.variance > 0:
            raise UserError(
                "--data", f"{table.where}: all values in column '{label}' are {found[0]:g}", "set --label_column"
            )


def count_classes(plan: DataPlan, table: Table, label: str, said: Overrides) -> None:
    """Sets the plan's number of training samples of each class, in class order."""
    sheet = Table(table.where, {label: table.columns[label]}, table.names, table.lines, bad={})
    order = class_names(sheet, label, None)
    targets = class_numbers(sheet, label, order)
    counts = np.bincount(targets[targets >= 0], minlength=len(order))
    plan.counts = dict(zip(order, counts.tolist(), strict=True))
    check_classes(table.where, f"column '{label}'", plan, said.fewest_classes)


def count_others(plan: DataPlan, files: dict[str, Path]) -> None:
    """Sets the plan's sizes of the validation and test files."""
    for split in ("val", "test"):
        if split in files:
            setattr(plan, split, len(read_sheet(files[split])[0]))


def labels_said(plan: DataPlan, label: str) -> str:
    """Task and classes, in words."""
    if plan.task == "regression":
        return f"values in column '{label}' (regression, standard deviation {plan.variance**0.5:.3g})"
    return f"labels in column '{label}': {classes_said(plan)}"
