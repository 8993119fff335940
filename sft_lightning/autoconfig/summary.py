"""Describes an inferred default study in lines for the user."""

from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan
from sft_lightning.autoconfig.kinds import KINDS
from sft_lightning.autoconfig.network_plan import FAMILIES, NetworkPlan
from sft_lightning.autoconfig.recipe import Length


def lines_of(
    net: NetworkPlan,
    plan: DataPlan,
    source: DataPlan | None,
    study: dict[str, Any],
    family: str,
    run: Length,
) -> list[str]:
    """Lines on what was inferred, why, and which options change it."""
    init = plan.block["init_args"]
    told = [f"data       {line}" for line in plan.lines]
    if plan.block["class_path"] != "ImageFolder":
        told.append(f"           otherwise: {KINDS[plan.kind].otherwise}")
    test = (
        f"{plan.test:,} test samples of its own"
        if plan.test is not None
        else f"{init['test_fraction']:.0%} set aside to test"
    )
    val = f"{plan.val:,} to validate" if plan.val is not None else f"{init['val_fraction']:.0%} of the rest to validate"
    told.append(f"split      {test}, {val}; about {plan.labelled:,} to learn from")
    if "folds" in study:
        told.append(f"folds      {study['folds']}: labels are few, so settings are chosen by cross-validation")
    class_path = net.blocks[plan.kind]["class_path"]
    head = "its output layer is kept as the source head" if net.source_outputs else "it has no output layer to keep"
    head = "it keeps its output layer" if plan.keeps_outputs else head
    told.append(f"network    {net.name}: {class_path}, {FAMILIES[family]} ({net.why}); {head}")
    shown = init.get("image_size") or init.get("max_length")
    seen = "" if shown is None else f", {shown} {'pixels' if 'image_size' in init else 'tokens at most'}"
    epochs = run.trainer["max_epochs"]
    precision = study["base"]["trainer"].get("precision", "32-true")
    told.append(
        f"training   {run.steps:,} steps of {run.batch_size} samples ({epochs} epoch{'s' * (epochs > 1)}), validated "
        f"{run.validations} times, {precision}{seen}"
    )
    for name, arm in study["arms"].items():
        tuned = "; ".join(
            f"{key.rpartition('.')[2]} {', '.join(f'{v:g}' for v in vs)}" for key, vs in arm.get("tune", {}).items()
        )
        choice = f"to choose from: {tuned}" if tuned else "solved, its strength chosen on validation"
        told.append(f"arm        {name}: {arm['set']['model']['class_path']}, {choice}")
    if plan.keeps_outputs:
        whose = "a language model" if plan.kind == "tokens" else "a network that keeps its output layer"
        told.append(f"           last_block replaces the linear probe, as {whose} gets no new head")
    if source is not None:
        told += [f"retention  {line}" for line in source.lines]
    else:
        why = {
            "retention/agreement": "how often the old output layer still predicts the same",
            "drift/source_mse": "the squared change of the old output's value, over the variance of these values",
            "drift/features_cka": "how similar the features stay (CKA)",
        }
        told.append(
            f"kept       {why[study['select']['kept']]}, on the new inputs; --retention measures the old task itself"
        )
    rule = study["select"]
    seeds = {None: "all of them", 1: "the first"}.get(number := study.get("tune_seeds"), f"the first {number}")
    told.append(
        f"choice     best {rule['kept']} within {rule['within']:g} of the best {rule['target']}; {study['seeds']} seeds, "
        f"settings chosen on {seeds}; a --budget or --seeds changes that"
    )
    return told
