"""Makes the default study of ways to add the data's new labels to those that the network knows."""

from inspect import signature
from typing import TYPE_CHECKING, Any

from sft_lightning.autoconfig.recipe import arm
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.findings import look_alikes

if TYPE_CHECKING:
    from sft_lightning.autoconfig.data_plan import DataPlan
    from sft_lightning.autoconfig.network_plan import NetworkPlan
    from sft_lightning.autoconfig.recipe import Recipe

REHEARSE, RATIO, SHARE = 5, 0.25, 0.2
FEWEST = 3
"""Samples of a new label without splits of its own: one to train on, one to choose and one to test on"""
STRENGTHS = [0.01, 0.1, 1.0]
SHOWN = ("accuracy_old", "accuracy_new", "accuracy", "harmonic", "old_as_new", "new_as_old")


def extended(
    study: dict[str, Any], net: "NetworkPlan", plan: "DataPlan", source: "DataPlan | None", recipe: "Recipe"
) -> tuple[dict[str, Any], str]:
    """Returns (the study for `--extend`, a line on what it adds).

    With `source`, samples of the old labels, settings are chosen by the harmonic mean of both accuracies, and there are arms
    with rehearsal and a ceiling. Without them, by the accuracy on new labels and the agreement of the old output layer.

    Args:
        study: The default study of the same network and data.
        net: The network.
        plan: The data with new labels, and perhaps old ones.
        source: Data of the network's labels; None if there is none.
        recipe: Learning rates and strengths for the network.
    """
    known = net.source_labels
    if plan.task != "classification":
        raise UserError("--extend", f"adds labels to classifiers, and the data's task is {plan.task}", "leave it out")
    if not known or net.source_task not in (None, "classification", "single_label_classification"):
        raise UserError(
            "--extend",
            f"{net.name} has no output layer with named classes that labels could be added to",
            "choose a network with labels, or write a study file with data.init_args.known",
        )
    fresh = [label for label in plan.counts if label not in known]
    if not fresh:
        raise UserError(
            "--extend", f"the data have no label that {net.name} does not know", "leave it out, to tune on known labels"
        )
    if all(plan.counts[label] < FEWEST for label in fresh):
        raise UserError(
            "--extend",
            f"the new label '{fresh[0]}' has {plural(plan.counts[fresh[0]], 'sample')}, too few to train, choose and test on",
            f"give at least {FEWEST}",
        )
    measured = source is not None or len(fresh) < len(plan.counts)
    base = {name: value for name, value in study["base"].items() if name != "retention"}
    base["data"] = joined(base["data"], None if source is None else source.block, known)
    base["select_by"] = "val/harmonic" if measured else "val/accuracy_new"
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
            "chosen by the harmonic mean of both accuracies"
            if measured
            else "no old sample is there, so --retention would help"
        )
        + "".join(
            f"; warning: {' and '.join(repr(name) for name in group)} are different labels that look alike"
            for group in look_alikes([*known, *fresh], [0] * (len(known) + len(fresh)))
        )
    )
    report = [f"test/{name}" for name in SHOWN if measured or name == "accuracy_new"]
    changed = {"base": base, "arms": ways(recipe, source), "baseline": "naive", "select": rule}
    return {**study, **changed, "report": [*report, "test/retention/agreement"]}, said


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


def ways(recipe: "Recipe", source: "DataPlan | None") -> dict[str, dict[str, Any]]:
    """The arms. All choose from the same learning rates."""
    lr = {"model.lr": list(recipe.lr)}
    anchored = {"model.anchor_weight": STRENGTHS, **lr}
    made = {
        "naive": arm("PlainSFT", {}, lr),
        "head_alone": arm("PlainSFT", {"freeze": "all-but-head"}, lr),
        "l2sp": arm("L2SPSFT", recipe.l2sp, {f"model.{recipe.strength}": list(recipe.strengths), **lr}),
        "new_mse": arm("ExtendSFT", {"loss_over": "new"}, anchored),
    }
    if source is None:
        made["new_mse_norms"] = arm("ExtendSFT", {"loss_over": "new", "correction": "norms"}, anchored)
        return made
    few = {"rehearse": REHEARSE, "ratio": RATIO}
    made["mse_corrected"] = arm("ExtendSFT", {"loss_over": "new", "correction": "validation"}, anchored)
    made["rehearse"] = with_old(arm("PlainSFT", {}, lr), few)
    made["rehearse_mse"] = with_old(arm("ExtendSFT", {"loss_over": "all"}, anchored), few)
    made["ceiling"] = {**with_old(arm("PlainSFT", {}, lr), {"rehearse": "all"}), "reference": True}
    return made


def with_old(made: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """An arm that trains on old samples too."""
    return {**made, "set": {**made["set"], "data": {"init_args": dict(data)}}}
