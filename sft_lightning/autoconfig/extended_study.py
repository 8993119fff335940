"""Makes the default study of ways to add the data's new labels to those that the network knows."""

from inspect import signature
from typing import TYPE_CHECKING, Any

from sft_lightning.autoconfig.recipe import arm
from sft_lightning.config.overrides import full
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.extended_labels import PARTLY, TASKS_EXTENDED
from sft_lightning.data.findings import look_alikes
from sft_lightning.networks.source_task import PROBLEMS
from sft_lightning.tasks.schemes import OUTSIDE, PREFIXES, scheme_of, types_of

if TYPE_CHECKING:
    from sft_lightning.autoconfig.data_plan import DataPlan
    from sft_lightning.autoconfig.network_plan import NetworkPlan
    from sft_lightning.autoconfig.recipe import Recipe

REHEARSE, RATIO, SHARE = 5, 0.25, 0.2
FEWEST = 3
"""Samples of a new label without splits of its own: one to train on, one to choose and one to test on"""
STRENGTHS = [0.01, 0.1, 1.0]
KL: dict[str, Any] = {"distance": "kl", "temperature": 1.0}
BOXES = "object_detection"
SHOWN = {
    "classification": ("accuracy_old", "accuracy_new", "accuracy", "harmonic", "old_as_new", "new_as_old"),
    "token_classification": ("entity_f1_old", "entity_f1_new", "entity_f1", "harmonic", "old_as_new", "new_as_old"),
    "multi_label": ("f1_micro_old", "f1_micro_new", "f1_micro", "f1_macro_old", "f1_macro_new", "harmonic"),
    "object_detection": ("map_old", "map_new", "map", "harmonic", "old_as_new", "new_as_old"),
}
"""Metrics of the tables by task; the second, on new labels, chooses settings if no old label is measured"""


def extended(
    study: dict[str, Any], net: "NetworkPlan", plan: "DataPlan", source: "DataPlan | None", recipe: "Recipe"
) -> tuple[dict[str, Any], str]:
    """Returns (the study for `--extend`, a line on what it adds).

    With `source`, samples of the old labels, settings are chosen by the harmonic mean of the scores on old and new labels, and
    there are arms with rehearsal and a ceiling. Without them, by the score on new labels and the agreement of the old
    output layer.

    Args:
        study: The default study of the same network and data.
        net: The network.
        plan: The data with new labels, and perhaps old ones.
        source: Data of the network's labels; None if there is none.
        recipe: Learning rates and strengths for the network.
    """
    known, task = net.source_labels, plan.task
    if task not in SHOWN:
        problem = f"adds labels to classifiers of samples and of words and to detectors, and the data's task is {task}"
        raise UserError(
            "--extend", problem, "write a study file with the data Extend" if task in TASKS_EXTENDED else "leave it out"
        )
    if not known or PROBLEMS.get(net.source_task or "", net.source_task) not in (None, task):
        raise UserError(
            "--extend",
            f"{net.name} has no output layer for {task} with named classes that labels could be added to",
            "choose a network with labels, or write a study file with data.init_args.known",
        )
    if task == BOXES and not joins(block := net.blocks["boxes"]):
        raise UserError(
            "--extend",
            f"{net.name} is {block['class_path']} with one softmax over all classes, which classes cannot be added to",
            "choose TimmDetection, or FCOS or RetinaNet of torchvision",
        )
    fresh = new_labels(plan, known)
    if not fresh:
        raise UserError(
            "--extend", f"the data have no label that {net.name} does not know", "leave it out, to tune on known labels"
        )
    counts = [plan.counts.get(label, FEWEST) for label in fresh]  # of tags that are written anew, words are not counted
    if max(counts) < FEWEST:
        what = plural(counts[0], "word" if plan.kind == "words" else "sample")
        raise UserError(
            "--extend",
            f"the new label '{fresh[0]}' has {what}, too few to train, choose and test on",
            f"give at least {FEWEST}",
        )
    measured = source is not None or any(label in known and label != OUTSIDE for label in plan.counts)
    of_new = SHOWN[task][1]
    base = {name: value for name, value in study["base"].items() if name != "retention"}
    base["data"] = joined(base["data"], None if source is None else source.block, known)
    base["select_by"] = "val/harmonic" if measured else f"val/{of_new}"
    rule = {
        "target": base["select_by"],
        "kept": "retention/agreement",
        "rule": "best" if measured else "keep",
        "within": 0.01,
    }
    said = (
        f"extend     {plural(len(fresh), 'new label')} ({', '.join(fresh[:6])}{', …' if len(fresh) > 6 else ''}) beside "
        f"{plural(len(known), 'old one')} in one output layer; "
        + (
            "chosen by the harmonic mean of the scores on both"
            if measured
            else "no old sample is there, so --retention would help"
        )
        + "".join(
            f"; warning: {' and '.join(repr(name) for name in group)} are different labels that look alike"
            for group in look_alikes([*known, *fresh], [0] * (len(known) + len(fresh)))
        )
    )
    report = [f"test/{name}" for name in SHOWN[task] if measured or name == of_new]
    changed = {"base": base, "arms": ways(recipe, source, task), "baseline": "naive", "select": rule}
    return {**study, **changed, "report": [*report, "test/retention/agreement"]}, said


def new_labels(plan: "DataPlan", known: list[str]) -> list[str]:
    """Labels of the data that the network does not know. Tags are those that the network's scheme has for the new types."""
    found, scheme = list(plan.counts), scheme_of(known)
    if plan.task == "token_classification" and scheme and scheme_of(found) not in ("", scheme):
        types = [kind for kind in types_of(found) if kind not in types_of(known)]
        return [f"{prefix}-{kind}" for kind in types for prefix in PREFIXES[scheme]]
    return [label for label in found if label not in known]


def joined(new: dict[str, Any], old: dict[str, Any] | None, known: list[str]) -> dict[str, Any]:
    """The block of the data Extend: common settings are its own, the rest is of the two data sets."""
    from sft_lightning.data.base import SFTDataModule

    common = set(signature(SFTDataModule.__init__).parameters) - {"self", "classes"}

    def own(block: dict[str, Any]) -> dict[str, Any]:
        kept = {n: v for n, v in block["init_args"].items() if n not in common}
        return {"class_path": block["class_path"], "init_args": kept}

    init: dict[str, Any] = {"new": own(new), **({} if old is None else {"old": own(old)}), "known": list(known)}
    init |= {n: v for n, v in new["init_args"].items() if n in common}
    if old is not None:  # each data set without a split of its own sets this share aside
        for name in ("test_fraction", "val_fraction"):
            if name in old["init_args"]:
                init.setdefault(name, SHARE)
    return {"class_path": "Extend", "init_args": init}


def in_parts(changed: dict[str, Any]) -> dict[str, Any]:
    """The user's changes by dotted key: those of the data, but for common settings, are of the new data, and those of retention
    of the old.
    """
    from sft_lightning.data.base import SFTDataModule
    from sft_lightning.data.extend import Extend

    own = {name for cls in (Extend, SFTDataModule) for name in signature(cls.__init__).parameters}
    found = {}
    for key, value in changed.items():
        block, *rest = full(key).split(".")
        if rest[:1] == ["init_args"] and (block == "retention" or (block == "data" and rest[1] not in own)):
            key = ".".join(("data.init_args", "new" if block == "data" else "old", *rest))
        found[key] = value
    return found


def joins(block: dict[str, Any]) -> bool:
    """Whether a detector has a yes or no for each class, to which others can be added."""
    from sft_lightning.networks.torchvision_detection import KINDS

    name = block["class_path"].rpartition(".")[2]
    return name == "TimmDetection" or (
        name == "TorchvisionDetection" and KINDS.get(block["init_args"].get("name", "")) != "ssd"
    )


def ways(recipe: "Recipe", source: "DataPlan | None", task: str = "classification") -> dict[str, dict[str, Any]]:
    """The arms. All choose from the same learning rates.

    Where samples of new labels say nothing of old ones, and the reverse, all arms but the naive ones take what is not
    annotated as unknown. Detectors have no anchor but kl, and no correction.
    """
    lr = {"model.lr": list(recipe.lr)}
    anchored = {"model.anchor_weight": STRENGTHS, **lr}
    in_part, boxes = task in PARTLY, task == BOXES
    plain = (
        ("ExtendSFT", {"loss_over": "own", "anchor_weight": 0.0, **(KL if boxes else {})})
        if in_part
        else ("PlainSFT", {})
    )
    new, every = ("own", "own") if in_part else ("new", "all")
    made = {
        "naive": arm("PlainSFT", {}, lr),
        "head_alone": arm("PlainSFT", {"freeze": "all-but-head"}, lr),
        "l2sp": arm("L2SPSFT", recipe.l2sp, {f"model.{recipe.strength}": list(recipe.strengths), **lr}),
    }
    made["own" if boxes else "new_mse"] = arm(*plain, lr) if boxes else arm("ExtendSFT", {"loss_over": new}, anchored)
    if in_part:
        made["new_kl"] = arm("ExtendSFT", {"loss_over": new, **KL}, anchored)
    if source is None:
        if not boxes:
            made["new_mse_norms"] = arm("ExtendSFT", {"loss_over": new, "correction": "norms"}, anchored)
        return made
    few = {"rehearse": REHEARSE, "ratio": RATIO}
    if not boxes:
        made["mse_corrected"] = arm("ExtendSFT", {"loss_over": new, "correction": "validation"}, anchored)
    made["rehearse"] = with_old(arm(*plain, lr), few)
    name, distance = ("rehearse_kl", KL) if boxes else ("rehearse_mse", {})
    made[name] = with_old(arm("ExtendSFT", {"loss_over": every, **distance}, anchored), few)
    made["ceiling"] = {**with_old(arm(*plain, lr), {"rehearse": "all"}), "reference": True}
    return made


def with_old(made: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """An arm that trains on old samples too."""
    return {**made, "set": {**made["set"], "data": {"init_args": dict(data)}}}
