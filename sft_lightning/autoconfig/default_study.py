"""Makes the default study from a network and data alone, with lines that show what was inferred."""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from sft_lightning.autoconfig.kinds import KINDS, TASKS
from sft_lightning.core.errors import UserError

if TYPE_CHECKING:
    from sft_lightning.autoconfig.data_plan import DataPlan
    from sft_lightning.autoconfig.network_plan import NetworkPlan
    from sft_lightning.autoconfig.recipe import Length, Recipe

FOLDS, SCARCE, SCARCE_PER_CLASS = 5, 200, 10
SMALL_IMAGES = 96
"""Pixels. On a CPU, convolutional networks see images up to this size at this size: more pixels cost time and add no detail"""
LONGEST_TEXT = {False: 128, True: 512}
"""Most tokens of a text, without and with an accelerator"""


@dataclass(frozen=True)
class Inferred:
    """The default study for a network and data."""

    study: dict[str, Any]
    """The content of a study file"""
    lines: list[str]
    """Lines that show what was inferred, and the options that change it"""
    steps: int
    """Optimizer steps of a fit"""
    tokens: list[int]
    """Tokens of some of the texts, with the template's; empty if there are no texts"""


def front_door(
    network: str, data: str, retention: str | None = None, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    """Returns (the content of a study file, lines that show what was inferred); see `infer_study`."""
    found = infer_study(network, data, retention, **options)
    return found.study, found.lines


def infer_study(
    network: str,
    data: str,
    retention: str | None = None,
    *,
    task: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    accelerator: str = "auto",
    settings: dict[str, Any] | None = None,
    of_retention: dict[str, Any] | None = None,
    of_trainer: dict[str, Any] | None = None,
    extend: bool = False,
) -> Inferred:
    """Makes the default study.

    Args:
        network: A run, export or folder; `builtin:…` or `package:…`; a name of timm's, torchvision's or the hub's.
        data: A folder of images by class or of sounds, a table (CSV, TSV, JSON, JSONL, parquet) or .txt, or a folder of splits
            of these or of parallel texts.
        retention: Data of the same kind for the network's old task; None measures only agreement and drift.
        task: One of TASKS; None to infer it.
        text_column: Column of texts, or two columns with a comma between for pairs, source and target.
        label_column: Column of labels or values; of several columns of 0 and 1, their names with commas between.
        image_column: Column of images or of image files.
        accelerator: As trainer.accelerator.
        settings: Arguments of the data module that the user will set, so that the data are read with them.
        of_retention: The same for the retention data.
        of_trainer: Settings of the trainer that the user will set, so that the length of a fit is the one they give.
        extend: Add the data's labels to the network's own, in one output layer; `retention` then has samples of the old ones.

    Raises:
        UserError: a file cannot be read, or a column or task is ambiguous.
    """
    if task is not None and task not in TASKS:
        raise UserError("--task", f"'{task}' is unknown", f"use one of {', '.join(TASKS)}")
    from sft_lightning.autoconfig.data_plan import Overrides
    from sft_lightning.autoconfig.data_settings import settle
    from sft_lightning.autoconfig.infer_data import infer_data
    from sft_lightning.autoconfig.infer_network import infer_network
    from sft_lightning.autoconfig.infer_plain import samples_of
    from sft_lightning.autoconfig.infer_speech import fit_characters
    from sft_lightning.autoconfig.measures import measures
    from sft_lightning.autoconfig.recipe import RECIPES, arms, length
    from sft_lightning.autoconfig.source_plan import share_view, source_data
    from sft_lightning.autoconfig.study_name import name_of
    from sft_lightning.autoconfig.summary import lines_of
    from sft_lightning.autoconfig.trainer_settings import with_settings

    net = infer_network(network)
    fewest = 1 if extend else 2
    said = Overrides(task, text_column, label_column, image_column, dict(settings or {}), fewest)
    plan = infer_data(data, net.kinds, net.said, said)
    settle(plan, said)
    net = net.on(plan.kind)
    check_image(net, plan)
    fit_characters(net, plan, said)
    plan.set_aside()
    gpu, precision = device(accelerator)
    family = KINDS[plan.kind].family or net.family
    recipe = RECIPES[family]
    tokens = lengths_of(net, plan)
    batch = plan.block["init_args"].get("batch_size")
    samples = samples_of(plan, tokens, tokens_of(net, plan, gpu, tokens))
    run = with_settings(length(recipe, samples, gpu, batch), samples, dict(of_trainer or {}))
    base = base_of(net, plan, recipe, run, gpu, tokens)
    if precision is not None and family != "small":
        base["trainer"].setdefault("precision", precision)
    if accelerator != "auto":
        base["trainer"]["accelerator"] = accelerator
    source = None
    if retention is None and of_retention:
        raise UserError(
            f"retention.{next(iter(of_retention))}", "has no effect without --retention", "name its data there"
        )
    if retention is not None:
        source = source_data(
            retention, net, plan, Overrides(None, text_column, label_column, image_column, dict(of_retention or {}))
        )
        fit_characters(net, source, Overrides())
        share_view(source, base["data"], run)
        base["retention"] = source.block
    last = None if not plan.keeps_outputs else (net.blocks_above or 1) - 1
    blocks = {"blocks": r"encoder\.layers"} if plan.kind == "ctc" else {}  # its convolutions are numbered too
    study: dict[str, Any] = {
        "study": name_of(data, net.name),
        "base": base,
        "arms": arms(recipe, net.source_outputs, last, net.source_gives_values, KINDS[plan.kind].probed, **blocks),
        "seeds": recipe.seeds,
        "baseline": "plain",
    }
    if family != "small":
        study["tune_seeds"] = 3 if gpu else 1
    if (folds := folds_of(plan)) is not None:
        study["folds"] = folds
    study["select"], study["report"] = measures(net, plan, source)
    if not extend:
        return Inferred(study, lines_of(net, plan, source, study, family, run), run.steps, tokens)
    from sft_lightning.autoconfig.extended_study import extended

    study, line = extended(study, net, plan, source, recipe)
    lines = lines_of(net, plan, source, study, family, run)[:-1]
    return Inferred(study, [*lines, line], run.steps, [])


def device(accelerator: str) -> tuple[bool, str | None]:
    """Returns (whether an accelerator will train, its best precision or None)."""
    import torch

    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return True, "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
    return accelerator not in ("auto", "cpu"), None


def check_image(net: "NetworkPlan", plan: "DataPlan") -> None:
    """Sets the image size for a multilayer perceptron; raises UserError if no square colour image has its inputs' size."""
    block = net.blocks.get("image")
    if block is None or block["class_path"] != "MLP" or plan.kind != "image":
        return
    values = block["init_args"].get("in_features", 784)
    side = round((values / 3) ** 0.5)
    if 3 * side * side != values:
        raise UserError(
            "--network",
            f"{net.name} is an MLP of {values} inputs, which no square image with three colours has",
            "choose another network, or write a study file",
        )
    net.image_size = side


# ---- the base experiment ----


def base_of(
    net: "NetworkPlan", plan: "DataPlan", recipe: "Recipe", run: "Length", gpu: bool, lengths: list[int]
) -> dict[str, Any]:
    """The config of plain fine-tuning that the arms change."""
    model: dict[str, Any] = {"lr": recipe.lr[len(recipe.lr) // 2], **recipe.model}
    if net.batchnorm:
        model["freeze_batchnorm_stats"] = True
    model |= (
        {"head_lr_factor": 10.0} if plan.kind in ("masks", "boxes") else {}
    )  # a new decoder is random, in many layers
    init = plan.block["init_args"]
    init["batch_size"] = run.batch_size
    if (
        "image_size" not in init
        and not gpu
        and net.any_size
        and plan.pixels is not None
        and plan.pixels <= SMALL_IMAGES
    ):
        init["image_size"] = SMALL_IMAGES
    if net.image_size is not None and plan.kind == "image":
        init.setdefault("image_size", net.image_size)
    if gpu and plan.kind in ("image", "masks", "boxes"):
        init.setdefault("num_workers", 4)
    if (tokens := tokens_of(net, plan, gpu, lengths)) is not None:
        init["max_length"] = tokens
    return {
        "seed_everything": 0,
        "model": {"class_path": "PlainSFT", "init_args": model},
        "network": net.blocks[plan.kind],
        "data": plan.block,
        "trainer": {**run.trainer, **({"gradient_clip_val": 1.0} if net.family == "transformer" else {})},
    }


def lengths_of(net: "NetworkPlan", plan: "DataPlan") -> list[int]:
    """Tokens of some texts, with those of a template; empty without texts or a tokenizer of the network."""
    template, times = KINDS[plan.kind].tokens
    if not times or net.max_length is None or not plan.texts or net.family != "transformer":
        return []
    from sft_lightning.autoconfig.infer_transformers import token_lengths

    return [n + template for n in token_lengths(net.blocks[plan.kind]["init_args"]["pretrained"], plan.texts)]


def tokens_of(net: "NetworkPlan", plan: "DataPlan", gpu: bool, lengths: list[int]) -> int | None:
    """Length to which texts are cut, in tokens: 95 % of them fit into it. None to use the network's limit, as for tagged
    words: one that is cut off has no tag.
    """
    init = plan.block["init_args"]
    given: int | None = init.get("max_length")
    if given is not None and net.max_length is not None and given > net.max_length:
        raise UserError(
            "data.max_length",
            f"{given} is more than the {net.max_length} tokens that the network takes",
            f"set it to {net.max_length} or less",
        )
    _, times = KINDS[plan.kind].tokens
    if "max_length" in init or not times or net.max_length is None or not plan.texts:
        return given
    most = times * LONGEST_TEXT[gpu]
    needed = ceil(float(np.percentile(lengths, 95))) if lengths else most
    wanted = min(-(-needed // 16) * 16, most)
    return wanted if wanted < net.max_length else None


# ---- the study around it ----


def folds_of(plan: "DataPlan") -> int | None:
    """Number of folds for cross-validation if labelled data is scarce; None if the validation split is enough.

    Always None with validation data, for questions, and for language models and tags, where each sample has many tokens to
    predict.
    """
    few = plan.labelled < SCARCE or (plan.counts and plan.labelled < SCARCE_PER_CLASS * len(plan.counts))
    if not KINDS[plan.kind].one_target or plan.val is not None or not few:
        return None
    folds = min(FOLDS, plan.fewest)
    return folds if folds >= 2 else None
