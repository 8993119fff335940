"""Segmentation networks of torchvision, by name: DeepLabV3, FCN and LR-ASPP."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.backbone import Backbone, is_ours, read_weights
from sft_lightning.networks.heads import fresh_linear, set_dropout
from sft_lightning.networks.names import unprefixed
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.torchvision_weights import library_weights
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.weights import Source, fill, resolve

CLASSES = 21
"""Classes of torchvision's own weights: COCO's images with Pascal VOC's classes"""


class TorchvisionSegmentation(Backbone):
    """DeepLabV3, FCN or LR-ASPP of torchvision without its last 1×1 convolution, and one linear head on each pixel.

    Maps are an eighth of the image in height and width (a sixteenth for deeplabv3_mobilenet_v3_large). The last convolution is
    kept as the source head; LR-ASPP's two, which are summed, are one linear layer on both inputs. Auxiliary outputs are left
    out.

    Args:
        task: What is predicted; given by the module.
        name: torchvision's name of the architecture, such as `deeplabv3_resnet50` or `lraspp_mobilenet_v3_large`.
        pretrained: Where weights come from: a name of torchvision's weights (`DEFAULT`), a run directory, an export folder, a
            state dict file with torchvision's names; null for random ones.
        dropout: Probability of dropping a unit, in every dropout layer; null for the architecture's own.
        image_size: Height and width the network sees, in pixels; default those of the images.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks = ("semantic_segmentation",)

    def __init__(
        self,
        task: TaskInfo,
        name: str,
        pretrained: str | None = None,
        dropout: float | None = None,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from torchvision import models

        names = models.list_models(module=models.segmentation)
        if name not in names:
            raise UserError("network.name", f"torchvision has no segmentation model '{name}'{nearest(name, names)}")
        self.model_name, self.image_size = name, image_size
        self.own_spec = InputSpec("masks")
        weights = models.get_model_weights(name).__members__
        keep = keep_source_head is True
        if pretrained is None:
            self.take_apart(self.build(CLASSES), keep, [])
        elif pretrained in weights:
            self.from_library(weights[pretrained], pretrained, keep)
        else:
            source = resolve(pretrained)
            if source.hub is not None:
                raise UserError(
                    "network.pretrained",
                    f"{name} has no weights '{pretrained}', and there is no such folder or file"
                    f"{nearest(pretrained, weights)}; it has {', '.join(weights) or 'no weights'}",
                )
            self.from_tensors(source, list(weights.values()), keep)
        take_source_head(self, None if pretrained in weights else pretrained, keep_source_head)
        set_dropout(self.encoder, dropout)

    @property
    def input_spec(self) -> InputSpec:
        """The normalisation of the pretrained weights; the size only if it is set."""
        known, own = self.input_view, self.own_spec
        size = (self.image_size, self.image_size) if self.image_size else known.size
        return InputSpec("masks", size=size, channels=3, mean=known.mean or own.mean, std=known.std or own.std)

    # ---- where weights come from ----

    def build(self, classes: int, weights: Any = None) -> nn.Module:
        """The whole model, last convolution included; its backbone is never filled by itself."""
        from torchvision import models

        options: dict[str, Any] = {"weights": weights} if weights is not None else {"num_classes": classes}
        model: Any = models.get_model(self.model_name, **{"weights_backbone": None, **options})
        model.aux_classifier = None
        whole: nn.Module = model
        return whole

    def from_library(self, weights: Any, pretrained: str, keep: bool) -> None:
        """Builds the network with torchvision's own weights, from its cache or its server."""
        with library_weights(weights, pretrained, self.model_name):
            model = self.build(CLASSES, weights)
        self.note(Source(pretrained, hub=weights.url))
        self.report.loaded = len(model.state_dict())
        self.take_apart(model, keep, list(weights.meta.get("categories") or []))
        self.own_spec = self.spec_of(weights)

    def from_tensors(self, source: Source, weights: list[Any], keep: bool) -> None:
        """Builds the network from a file or a folder: with our names, or with torchvision's."""
        if source.ours:
            self.check_ours(source)
        state = read_weights(source, self.report.notes)
        if is_ours(state):
            self.take_apart(self.build(CLASSES), False, [])
            self.fill_ours(state, source, keep)
            return
        self.note(source)
        own = set(self.build(CLASSES).state_dict())
        state = unprefixed(state, [own], str(source.file or source.folder), self.report.notes)
        state = {n: v for n, v in state.items() if not n.startswith("aux_classifier.")}
        model = self.build(outputs_of(state))
        self.fresh = fill(model, state, self.report)
        self.take_apart(model, keep, [])
        if weights:
            self.own_spec = self.spec_of(weights[0])

    def spec_of(self, weights: Any) -> InputSpec:
        """The normalisation with which torchvision evaluated its weights."""
        made = weights.transforms()
        return InputSpec("masks", mean=tuple(made.mean), std=tuple(made.std))

    # ---- the parts ----

    def take_apart(self, model: Any, keep: bool, labels: list[str]) -> None:
        """Removes the last convolutions, so that the model gives each pixel's features."""
        names, old = last_convolutions(model)
        filled = not any(n.startswith(tuple(f"{name}." for name in names)) for n in self.fresh)
        last = tuple(f"{name}." for name in names)
        self.fresh = {n for n in self.fresh if not n.startswith(last)}
        self.report.missing = [n for n in self.report.missing if not n.startswith(last)]
        for name in names:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.Identity())
        self.encoder = Maps(model)
        self.head = fresh_linear(old.in_features, self.task.num_outputs)
        if self.pretrained is not None and keep and filled:
            self.keep_source_head(old, labels, "semantic_segmentation")


class Maps(nn.Module):
    """torchvision's model without its last convolutions and without enlarging: `[B, h, w, D]`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.classifier = model.backbone, model.classifier

    def forward(self, image: Tensor) -> Tensor:
        maps = self.backbone(image)
        if "low" in maps:  # LR-ASPP
            high = self.classifier.cbr(maps["high"]) * self.classifier.scale(maps["high"])
            high = F.interpolate(high, maps["low"].shape[-2:], mode="bilinear", align_corners=False)
            found = torch.cat([maps["low"], high], 1)
        else:
            found = self.classifier(maps["out"])
        return found.permute(0, 2, 3, 1).contiguous()


def last_convolutions(model: Any) -> tuple[list[str], nn.Linear]:
    """Names of the last 1×1 convolutions, and one linear layer that equals their sum."""
    classifier = model.classifier
    if hasattr(classifier, "low_classifier"):
        names = ["classifier.low_classifier", "classifier.high_classifier"]
        parts = [classifier.low_classifier, classifier.high_classifier]
    else:
        names, parts = [f"classifier.{len(classifier) - 1}"], [classifier[-1]]
    linear = nn.Linear(sum(p.in_channels for p in parts), parts[0].out_channels)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([p.weight.flatten(1) for p in parts], 1))
        linear.bias.copy_(torch.stack([p.bias for p in parts]).sum(0))
    return names, linear


def outputs_of(state: Mapping[str, Tensor]) -> int:
    """Number of classes of a state dict with torchvision's names: rows of its last weight."""
    last = {n.split(".")[1]: v for n, v in state.items() if n.startswith("classifier.") and v.ndim == 4}
    weight = last.get("low_classifier", last[max(last, key=lambda n: int(n) if n.isdigit() else -1)] if last else None)
    return CLASSES if weight is None else int(weight.shape[0])
