"""Infers a network block from a model name of timm's or torchvision's. The model is inspected on the meta device."""

from pathlib import Path

from sft_lightning.autoconfig.network_plan import NetworkPlan, block, network_errors
from sft_lightning.core.errors import UserError, nearest
from sft_lightning.networks.faster_rcnn import NAMES as FASTER
from sft_lightning.networks.names import unprefixed
from sft_lightning.networks.torchvision_detection import KINDS
from sft_lightning.networks.torchvision_models import FIXED
from sft_lightning.networks.weights import read_state_dict, resolve

DETECTORS = (*KINDS, *FASTER)
"""Names of torchvision's detectors"""
FIX = "give ARCHITECTURE=FILE with a file of its weights, or choose another model"


def of_timm(model: str, name: str, pretrained: str | None = None, match: str | None = None) -> NetworkPlan:
    """Plans an architecture of timm's, with its own weights or those of a folder or file."""
    import timm
    import torch
    from torch import nn

    from sft_lightning.networks.timm_models import classifier_name

    if not timm.is_model(model):
        raise UserError("--network", f"timm has no model '{model}'{nearest(model, timm.list_models())}")
    cfg = timm.get_pretrained_cfg(model, allow_unregistered=True)
    if pretrained is None or (resolved := resolve(pretrained)).hub is not None:
        if cfg is None or not cfg.has_weights:
            raise UserError(
                "--network", f"timm has no pretrained weights for '{model}', so it has nothing to keep", FIX
            )
        reachable(name, pretrained or cfg.hf_hub_id or "")
    elif resolved.ours or resolved.folder is not None:
        match = None
    with torch.device("meta"):
        skeleton = timm.create_model(model, pretrained=False)
    batchnorm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in skeleton.modules())
    attention = any("attention" in type(m).__name__.lower() for m in skeleton.modules())
    family = "transformer" if attention and not batchnorm else "convolutional"
    given = {"name": model, "pretrained": pretrained or True, "match": match}
    plan = NetworkPlan(name, {"image": block("Timm", **given)}, family, batchnorm=batchnorm, head_kind="image")
    if hasattr(skeleton, "forward_intermediates"):
        plan.blocks["masks"] = block("TimmSegmentation", **given)
        if batchnorm:
            plan.blocks["boxes"] = block("TimmDetection", **given)
    plan.source_outputs = int(skeleton.num_classes) if classifier_name(skeleton) is not None else None
    plan.any_size = batchnorm and cfg is not None and not cfg.fixed_input_size
    plan.why = f"timm's {model}"
    return plan


def of_torchvision(model: str, name: str, pretrained: str | None = None) -> NetworkPlan:
    """Plans an architecture of torchvision's, with its newest weights or those of a folder or file."""
    import torch
    from torch import nn
    from torchvision import models

    if model in DETECTORS:
        return detects_of_torchvision(model, name, pretrained)
    if model in models.list_models(module=models.segmentation):
        return segments_of_torchvision(model, name, pretrained)
    names = models.list_models(module=models)
    if model not in names:
        raise UserError("--network", f"torchvision has no classification model '{model}'{nearest(model, names)}")
    weights = models.get_model_weights(model)
    if pretrained is None:
        if not len(weights):
            raise UserError("--network", f"torchvision has no weights for '{model}', so it has nothing to keep", FIX)
        fetched(name, weights.DEFAULT.url)
    with torch.device("meta"):
        skeleton = models.get_model(model)
    batchnorm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in skeleton.modules())
    attention = any(isinstance(m, nn.MultiheadAttention) or "Attention" in type(m).__name__ for m in skeleton.modules())
    plan = NetworkPlan(
        name,
        {"image": block("Torchvision", name=model, pretrained=pretrained or "DEFAULT")},
        "transformer" if attention and not batchnorm else "convolutional",
        None if model.startswith("squeezenet") else 1000,
        batchnorm=batchnorm,
    )
    plan.image_size = None if len(weights) else 224
    plan.any_size = batchnorm and model.partition("_")[0] not in FIXED
    plan.why = f"torchvision's {model}"
    return plan


def segments_of_torchvision(model: str, name: str, pretrained: str | None) -> NetworkPlan:
    """Plans a segmentation network of torchvision's, with its own weights or those of a folder or file."""
    from torchvision import models

    from sft_lightning.networks.torchvision_segmentation import CLASSES

    weights = models.get_model_weights(model)
    if pretrained is None:
        fetched(name, weights.DEFAULT.url)
    given = block("TorchvisionSegmentation", name=model, pretrained=pretrained or "DEFAULT")
    plan = NetworkPlan(name, {"masks": given}, "convolutional", CLASSES, batchnorm=True)
    plan.why = f"torchvision's {model}"
    return plan


def detects_of_torchvision(model: str, name: str, pretrained: str | None) -> NetworkPlan:
    """Plans a detector of torchvision's, with its own weights or those of a folder or file."""
    from torchvision import models

    weights = models.get_model_weights(model)
    if pretrained is None:
        fetched(name, weights.DEFAULT.url)
    labels = list(weights.DEFAULT.meta["categories"])[KINDS.get(model) in ("ssd", None) :]
    given = block(
        "FasterRCNN" if model in FASTER else "TorchvisionDetection", name=model, pretrained=pretrained or "DEFAULT"
    )
    plan = NetworkPlan(name, {"boxes": given}, "convolutional", len(labels), labels, "object_detection", batchnorm=True)
    plan.why = f"torchvision's {model}"
    return plan


def of_file(architecture: str, file: str) -> NetworkPlan:
    """Plans ARCHITECTURE=FILE: the file is a state dict with the library's names or, for timm, in its order."""
    import timm
    import torch
    from torchvision import models

    library, _, model = architecture.rpartition(":")
    try:
        source = resolve(file)
    except UserError as error:
        raise error.at("--network") from None
    if source.file is None:
        raise UserError(
            "--network", f"{file} is not a file of weights", "give a state dict as FILE of ARCHITECTURE=FILE"
        )
    if library != "torchvision" and timm.is_model(model):
        with torch.device("meta"):
            own = set(timm.create_model(model, pretrained=False).state_dict())
        theirs = set(unprefixed(read_state_dict(source.file), [own], file, []))
        return of_timm(model, model, file, "order" if len(own & theirs) * 2 < len(own) else None)
    if library != "timm" and model in (
        *models.list_models(module=models),
        *models.list_models(module=models.segmentation),
        *DETECTORS,
    ):
        return of_torchvision(model, model, file)
    known = [*timm.list_models(), *models.list_models(module=models)]
    raise UserError("--network", f"neither timm nor torchvision has '{model}'{nearest(model, known)}")


# ---- whether weights can be downloaded ----


def reachable(name: str, repository: str) -> None:
    """Raises UserError if the hub's weights are not cached and the hub does not serve them."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repository = repository.removeprefix("hf-hub:")
    files = ("model.safetensors", "pytorch_model.bin")
    if not repository or any(isinstance(try_to_load_from_cache(repository, f), str) for f in files):
        return
    with network_errors(name):
        hf_hub_download(repository, "config.json")


def fetched(name: str, url: str) -> None:
    """Raises UserError if torchvision's weights are not cached and their server does not answer."""
    from urllib.request import Request, urlopen

    from torch import hub

    if (Path(hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file():
        return
    try:
        urlopen(Request(url, method="HEAD"), timeout=10).close()
    except OSError as error:
        raise UserError(
            "--network",
            f"the weights of {name} cannot be downloaded from {url}: {error}",
            "give ARCHITECTURE=FILE with a local file of weights",
        ) from None
