"""Detectors of torchvision, by name: FCOS, RetinaNet, SSD300 and SSDLite."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor, nn

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.load_report import LoadReport
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.backbone import Backbone, is_ours, read_weights
from sft_lightning.networks.detector import DenseDetector, Detector
from sft_lightning.networks.names import unprefixed
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.torchvision_weights import library_weights
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.weights import Source, fill, resolve

KINDS = {
    "fcos_resnet50_fpn": "fcos",
    "retinanet_resnet50_fpn": "retinanet",
    "retinanet_resnet50_fpn_v2": "retinanet",
    "ssd300_vgg16": "ssd",
    "ssdlite320_mobilenet_v3_large": "ssd",
}
"""The kind of each architecture. Faster R-CNN is `FasterRCNN`"""
SSD300 = "ssd300_vgg16"
SIZES = {SSD300: 300, "ssdlite320_mobilenet_v3_large": 320}
"""Height and width of the images that an architecture is made for, in pixels"""
CLASSIFIER = "head.classification_head."


class FromTorchvision:
    """What detectors of torchvision share: where weights come from, and how the model is taken apart."""

    background = 0
    """1 if the model has an output of no object"""
    task: TaskInfo
    own_spec: InputSpec
    pretrained: str | None
    report: LoadReport
    head: nn.Module
    note: Any
    check_ours: Any
    fill_ours: Any
    keep_source_head: Any
    take_model: Any
    head_of: Any

    def options(self) -> dict[str, Any]:
        """Arguments of torchvision's builder."""
        raise NotImplementedError(f"{type(self).__name__} does not say its builder's arguments")

    def outputs_of(self, state: Mapping[str, Tensor]) -> int:
        """Number of classes of a state dict with torchvision's names."""
        raise NotImplementedError(f"{type(self).__name__} does not say how many classes weights are for")

    def start(
        self, name: str, pretrained: str | None, threshold: float, dropout: float, size: int | None, kept: bool | str
    ) -> None:
        """Builds encoder and heads, and fills them."""
        from torchvision import models

        if not 0 <= threshold < 1:
            raise UserError("network.score_threshold", f"must be in [0, 1), got {threshold}")
        if dropout:
            raise UserError("network.dropout", f"has no effect on {name}, which has no dropout", "leave it out")
        self.model_name, self.image_size, self.score_threshold = name, size, threshold
        weights = models.get_model_weights(name).__members__
        self.pretrained, keep = pretrained, bool(kept)
        if pretrained is None:
            self.head = self.take_model(self.whole(self.task.num_outputs))
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
            self.from_tensors(source, keep)
        assert isinstance(self, Detector)
        take_source_head(self, None if pretrained in weights else pretrained, kept)

    def whole(self, classes: int, weights: Any = None) -> nn.Module:
        """Torchvision's model; its backbone is never filled by itself, and all of it may be trained."""
        from torchvision import models

        given: dict[str, Any] = {"weights": weights} if weights is not None else {}
        model: nn.Module = models.get_model(
            self.model_name,
            weights_backbone=None,
            num_classes=classes + self.background,
            **self.options(),
            **given,
        )
        if self.pretrained is not None and not self.model_name.startswith("ssd"):
            freeze_norms(model)
        return model

    def from_library(self, weights: Any, pretrained: str, keep: bool) -> None:
        """Builds the network with torchvision's own weights, from its cache or its server."""
        categories = list(weights.meta["categories"])
        with library_weights(weights, pretrained, self.model_name):
            model = self.whole(len(categories) - self.background, weights)
        self.note(Source(pretrained, hub=weights.url))
        self.report.loaded = len(model.state_dict())
        self.take_pretrained(model, categories[self.background :], keep)

    def from_tensors(self, source: Source, keep: bool) -> None:
        """Builds the network from a file or a folder: with our names, or with torchvision's."""
        if source.ours:
            self.check_ours(source)
        state = read_weights(source, self.report.notes)
        if is_ours(state):
            self.head = self.take_model(self.whole(self.task.num_outputs))
            self.fill_ours(state, source, keep)
            return
        self.note(source)
        own = set(self.whole(1).state_dict())
        state = unprefixed(state, [own], str(source.file or source.folder), self.report.notes)
        outputs = self.outputs_of(state)
        model = self.whole(outputs)
        fresh = fill(model, state, self.report)
        if fresh:
            raise UserError(
                "network.pretrained",
                f"{source.name} lacks {len(fresh)} tensors of {self.model_name}, the first {sorted(fresh)[0]}",
                "give whole weights of this architecture",
            )
        self.take_pretrained(model, [str(n) for n in range(outputs)], keep)

    def take_pretrained(self, model: nn.Module, labels: list[str], keep: bool) -> None:
        """Takes a pretrained model apart, and keeps its last layers. Images are normalised as the model itself does it."""
        seen: Any = model.transform
        self.own_spec = replace(self.own_spec, mean=tuple(seen.image_mean), std=tuple(seen.image_std))
        old = self.take_model(model)
        self.head = self.head_of(self.task.num_outputs)
        if keep:
            self.keep_source_head(old, labels)

    def export_config(self) -> dict[str, Any]:
        return {"name": self.model_name, "image_size": self.image_size, "score_threshold": self.score_threshold}


class TorchvisionDetection(FromTorchvision, DenseDetector, Backbone):
    """FCOS, RetinaNet, SSD300 or SSDLite of torchvision without their last convolutions, and new ones for the data's classes.

    The last convolutions, of classes and of boxes, are kept as the source head, and the new ones of boxes start from them.
    BatchNorm of a pretrained ResNet stays as it is, as in torchvision's own tuning. Losses are torchvision's, of each image
    by itself (see ObjectDetection). Images are whole, in a square: torchvision's own evaluation keeps their shape.

    Args:
        task: What is predicted; given by the module.
        name: torchvision's name: fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2,
            ssd300_vgg16 or ssdlite320_mobilenet_v3_large.
        pretrained: Where weights come from: a name of torchvision's weights (`DEFAULT`), a run directory, an export folder, a
            state dict file with torchvision's names; null for random ones.
        score_threshold: Lowest score of a detection.
        dropout: Must be 0: these networks have no dropout.
        image_size: Height and width of the images that the network sees, in pixels; default 300 for SSD300, which
            takes no other, 320 for SSDLite, else the data's.
        keep_source_head: Keep the pretrained last layers, frozen, beside the new ones; source keeps those that a run kept, and
            exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    def __init__(
        self,
        task: TaskInfo,
        name: str,
        pretrained: str | None = None,
        score_threshold: float = 0.05,
        dropout: float = 0.0,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        if name not in KINDS:
            raise UserError("network.name", f"must be {', '.join(KINDS)}, got '{name}'{nearest(name, KINDS)}")
        self.kind = KINDS[name]
        self.background = int(self.kind == "ssd")
        side = SIZES.get(name)
        self.own_spec = InputSpec("boxes", size=(side, side) if side else None)
        self.start(name, pretrained, score_threshold, dropout, image_size, keep_source_head)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        side = x["image"].shape[-1]
        if self.model_name == SSD300 and side != SIZES[SSD300]:  # its boxes would lie beside their places
            problem = f"{SSD300} is built for {SIZES[SSD300]} pixels, the images have {side}"
            raise UserError("network.image_size", problem, "leave it out, as the data's image_size")
        return super().encode(x)

    def options(self) -> dict[str, Any]:
        """Arguments of torchvision's builder."""
        return {
            "trainable_backbone_layers": 6 if self.model_name.startswith("ssdlite") else 5,
            "score_thresh": self.score_threshold,
            "detections_per_img": 100,
        }

    def outputs_of(self, state: Mapping[str, Tensor]) -> int:
        head = self.whole(1).head.classification_head.state_dict()  # type: ignore[union-attr]
        last = [n for n, v in head.items() if v.ndim == 4][-1]
        if CLASSIFIER + last not in state:
            raise UserError("network.pretrained", f"lacks {CLASSIFIER}{last}", f"give weights of {self.model_name}")
        ones = 1 + self.background
        return int(state[CLASSIFIER + last].shape[0]) * ones // int(head[last].shape[0]) - self.background


def freeze_norms(model: nn.Module) -> None:
    """Replaces BatchNorm by torchvision's FrozenBatchNorm2d, with the same names."""
    from torchvision.ops import FrozenBatchNorm2d

    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.BatchNorm2d):
                frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
                frozen.load_state_dict({n: v for n, v in norm.state_dict().items() if n != "num_batches_tracked"})
                setattr(parent, name, frozen)
