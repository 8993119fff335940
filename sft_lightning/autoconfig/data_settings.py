"""What the user sets of the data with `--set data.NAME=VALUE`: the plan reads, counts and says the data with it."""

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import listed, plural
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.base import DATA_MODULES, SFTDataModule
from sft_lightning.data.partition import choose_classes

PLACES = ("path", "config", "root", "train", "val", "test", "data_files")
"""Arguments that name the data, as `--data` does"""
COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "text": {
        "text_column": ("text_column", "pair_column"),
        "label_column": ("label_column", "label_columns"),
        "image_column": ("image_column",),
    },
    "pairs": {"text_column": ("source_column", "target_column")},
    "columns": {"text_column": ("word_column",), "label_column": ("tag_column",)},
    "lists": {"text_column": ("token_column",), "label_column": ("tag_column",)},
    "conllu": {"label_column": ("tags",)},
}
"""For each form of data, the arguments that name the same columns as an option of the front door"""


def with_columns(said: Overrides, form: str) -> Overrides:
    """The user's options, with the columns that `--set` names. Raises UserError if both name a column, differently.

    Args:
        said: The user's options and settings.
        form: One of COLUMNS.
    """
    changed = replace(said)
    for option, names in COLUMNS[form].items():
        given = {name: said.settings[name] for name in names if said.settings.get(name) is not None}
        if not given:
            continue
        found = ",".join(",".join(map(str, one)) if isinstance(one, list) else str(one) for one in given.values())
        first, before = next(iter(given)), getattr(said, option)
        if before is not None and before.replace(" ", "") != found.replace(" ", ""):
            raise UserError(f"data.{first}", f"is {found}, and --{option} is {before}", "give one of them")
        if first != names[0] and names[-1] in ("pair_column", "target_column") and before is None:
            raise UserError(f"data.{first}", f"needs data.{names[0]}", f"set both, or --{option} FIRST,SECOND")
        setattr(changed, option, before or found)
    return changed


def of_table(said: Overrides) -> Overrides:
    """The user's options on a table, with the columns and the task that `--set` names."""
    task = said.settings.get("task")
    if task is not None and said.task not in (None, task):
        raise UserError("data.task", f"is {task}, and --task is {said.task}", "give one of them")
    if said.settings.keys() & {"source_column", "target_column"}:
        task = "seq2seq"
    return with_columns(with_columns(replace(said, task=said.task or task), "text"), "pairs")


def known_to(cls: type[SFTDataModule], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are arguments of the data module; others are refused when the study is checked."""
    names = {name for one in cls.__mro__ for name in signature(one.__init__).parameters}  # type: ignore[misc]
    return {name: value for name, value in settings.items() if name in names}


def check_places(settings: Mapping[str, Any]) -> None:
    """Raises UserError for settings that name data, or how they are read: `--data` names them, and the front door infers the
    rest.
    """
    for name in PLACES:
        if name in settings:
            fix = "leave it out, name one folder with the files of all splits in --data, or write a study file"
            raise UserError(f"data.{name}", "names data, which --data does", fix)


def settle(plan: DataPlan, said: Overrides) -> None:
    """Writes the user's settings into the plan's block. Raises UserError for values that the data module refuses, and for
    shares of splits that the data have.
    """
    cls, init = DATA_MODULES.find(plan.block["class_path"]), plan.block["init_args"]
    given = known_to(cls, said.settings)
    for one in reversed(cls.__mro__):
        if issubclass(one, SFTDataModule):
            check_arguments(one.__init__, given)
    for split in ("val", "test"):
        if given.get(f"{split}_fraction") is not None and getattr(plan, split) is not None:
            what = f"has no effect, because the data have a {split} split of their own"
            raise UserError(f"data.{split}_fraction", what, "leave it out")
    if given.get("train_fraction") is not None and given.get("shots_per_class") is not None:
        raise UserError("data", "shots_per_class and train_fraction are both set", "set only one of them")
    init |= given
    if given:
        cls(**init)  # refuses what does not go together, as shots_per_class with sets of labels
    if given.get("classes") is not None and plan.counts:
        keep_classes(plan, given["classes"])
    drawn = [f"{name} {given[name]}" for name in ("train_fraction", "shots_per_class") if given.get(name) is not None]
    if drawn:
        plan.lines.append(f"the training samples are a part: {listed(drawn)}")


def keep_classes(plan: DataPlan, wanted: list[str | int]) -> None:
    """Counts the classes that `data.classes` keeps. Sets of labels keep all samples."""
    kept = choose_classes(wanted, list(plan.counts)).labels
    lost = sum(count for name, count in plan.counts.items() if name not in kept)
    plan.counts = {name: plan.counts[name] for name in kept}
    if plan.task == "classification":
        plan.train -= lost
    whole = ", not yet chosen from in the sizes of val and test below" if (plan.val, plan.test) != (None, None) else ""
    plan.lines.append(f"{plural(plan.train, 'sample')} with {listed(kept)} alone (data.classes){whole}")
