"""Infers a network block from a name, file or folder: its class, its inputs, and whether it keeps a source head."""

from pathlib import Path

from sft_lightning.autoconfig.infer_backbone import DETECTORS, of_file, of_timm, of_torchvision
from sft_lightning.autoconfig.infer_transformers import of_transformers
from sft_lightning.autoconfig.network_plan import NetworkPlan, block
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.networks.weights import FILES, Source, resolve


def infer_network(name: str) -> NetworkPlan:
    """Plans the network that `name` refers to. Raises UserError if it is not found or its architecture is unknown.

    `name` is a run directory or export of ours, a transformers or timm folder, `builtin:…` or `package:…`; a name of timm's
    (`resnet18`, `timm:resnet18`), torchvision's (`torchvision:resnet18`) or of transformers' on the hub; or
    ARCHITECTURE=FILE, a state dict for an architecture of timm's or torchvision's.
    """
    architecture, given, file = name.partition("=")
    if given and not Path(name).expanduser().exists():
        return of_file(architecture, file)
    library, colon, rest = name.partition(":")
    if colon and library in ("timm", "torchvision"):
        return of_timm(rest, name) if library == "timm" else of_torchvision(rest, name)
    try:
        source = resolve(name)
    except UserError as error:
        raise error.at("--network") from None
    if source.hub is not None:
        return of_hub(name)
    if source.ours:
        return of_ours(name, source)
    if source.file is not None:
        if source.file.suffix == ".gguf":
            return of_transformers(name, str(source.file.parent), source.file.name)
        raise UserError(
            "--network",
            f"{name} is a state dict without a record of its architecture",
            f"give ARCHITECTURE={name} with a name of timm's or torchvision's, or write a study file",
        )
    assert source.folder is not None
    if not any(p.suffix in FILES for p in source.folder.iterdir()):
        raise UserError("--network", f"{name} has a config.json but no weights", "put them there as model.safetensors")
    if "model_type" in source.config:
        return of_transformers(name, str(source.folder))
    if "architecture" in source.config:
        return of_timm(str(source.config["architecture"]), name, name)
    raise UserError(
        "--network",
        f"the config.json of {name} has neither model_type (transformers) nor architecture (timm), and is not an export",
        "choose another folder, or write a study file",
    )


def of_ours(name: str, source: Source) -> NetworkPlan:
    """Plans one of our runs or exports, whose config.json has its class and arguments."""
    ours = source.ours
    class_path = str(ours.get("network") or "")
    short, args = class_path.rpartition(".")[2], dict(ours.get("init_args") or {})
    task, seen = dict(ours.get("task") or {}), dict(ours.get("input") or {})
    if task.get("name") == "object_detection" and short != "TransformersDetection":
        known = class_path.startswith("sft_lightning.")
        detects = {"boxes": block(short if known else class_path, **args, pretrained=name)}
        plan = NetworkPlan(name, detects, "convolutional", task.get("num_outputs"), batchnorm=True)
    elif task.get("name") == "semantic_segmentation" and short != "TransformersSegmentation":
        known = class_path.startswith("sft_lightning.")
        segments = {"masks": block(short if known else class_path, **args, pretrained=name)}
        family = "small" if short == "UNet" else "convolutional"
        plan = NetworkPlan(name, segments, family, task.get("num_outputs"), batchnorm=short != "UNet")
    elif short.startswith("Transformers"):
        plan = of_transformers(name, str(source.folder))
        if short == "TransformersTokens":
            plan.blocks = {"words": plan.blocks["words"]}
            plan.source_outputs = task.get("num_outputs") or plan.source_outputs
        if short == "TransformersText":
            for kind in ("tokens", "choices"):
                plan.blocks.pop(kind, None)
            plan.blocks["text"]["init_args"].pop("pooling", None)  # as it was exported
            plan.source_outputs = task.get("num_outputs") or plan.source_outputs
    elif short in ("Timm", "Torchvision"):
        make = of_timm if short == "Timm" else of_torchvision
        plan = make(str(args.get("name")), name, name)
        for kind in ("masks", "boxes"):
            plan.blocks.pop(kind, None)  # they load timm's names, or their own exports
        plan.blocks["image"]["init_args"] |= {"image_size": s} if (s := args.get("image_size")) else {}
        plan.image_size = None if seen.get("size") else plan.image_size
        plan.source_outputs = task.get("num_outputs")
    else:
        known = class_path.startswith("sft_lightning.")
        kind = {"LSTM": "text", "MelCNN": "audio"}.get(short, "image")
        plan = NetworkPlan(name, {kind: block(short if known else class_path, **args, pretrained=name)}, "small")
        plan.source_outputs, plan.max_length = task.get("num_outputs"), args.get("max_length")
        if short == "MLP":
            plan.channels = len(seen["mean"]) if seen.get("mean") else None
            side = (args.get("in_features", 784) / (plan.channels or 3)) ** 0.5
            plan.image_size = round(side) if side == round(side) else None
    plan.source_task = task.get("name")
    plan.source_labels = list(task.get("labels") or plan.source_labels)
    plan.why = f"exported by sft_lightning as {short}"
    return plan


def of_hub(name: str) -> NetworkPlan:
    """Plans a name that is not a local path: a model of timm's, of torchvision's, or of transformers' on the hub."""
    import timm
    from torchvision import models

    owner, slash, model = name.rpartition("/")
    if timm.is_model(model) and (not slash or owner == "timm"):
        return of_timm(model, name, name if slash else None)
    if not slash and name in (
        *models.list_models(module=models),
        *models.list_models(module=models.segmentation),
        *DETECTORS,
    ):
        return of_torchvision(name, name)
    try:
        plan = of_transformers(name, name)
    except UserError as error:
        known = [*timm.list_models(), *models.list_models(module=models)]
        hint = "" if slash else nearest(name, known)
        raise UserError(error.key, f"{error.problem}{hint}", error.fix) from None
    return plan
