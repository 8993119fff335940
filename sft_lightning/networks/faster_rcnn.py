"""Faster R-CNN of torchvision, with a choice of candidates that draws no random number."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import InputSpec, Output, TaskInfo
from sft_lightning.networks.backbone import Backbone
from sft_lightning.networks.dense_detection import anchors_of
from sft_lightning.networks.detector import Detector
from sft_lightning.networks.torchvision_detection import FromTorchvision
from sft_lightning.networks.transforms import Transform

NAMES = (
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"),
    *("fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"),
)
PREDICTOR = "roi_heads.box_predictor."


class FasterRCNN(FromTorchvision, Detector, Backbone):
    """Faster R-CNN of torchvision without its last layers, and new ones for the data's classes.

    Losses are torchvision's, of each image by itself, but for the choice of candidates: those that the loss is of are spread
    evenly over all positive and all negative ones, instead of drawn, and true boxes are not added to the proposals. So the
    loss is a function of image and weights alone. Student and teacher are compared on boxes of a fixed grid (an eighth, a
    quarter, a half and the whole of the image in width and height), since their proposals differ.

    Args:
        task: What is predicted; given by the module.
        name: torchvision's name, such as fasterrcnn_resnet50_fpn.
        pretrained: Where weights come from: a name of torchvision's weights (`DEFAULT`), a run directory, an export folder, a
            state dict file with torchvision's names; null for random ones.
        proposals: Largest number of proposals of an image.
        score_threshold: Lowest score of a detection.
        dropout: Must be 0: these networks have no dropout.
        image_size: Height and width of the images that the network sees, in pixels; default the data's.
        keep_source_head: Keep the pretrained last layers, frozen, beside the new ones; source keeps those that a run kept, and
            exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    scheme = "softmax"
    background = 1

    def __init__(
        self,
        task: TaskInfo,
        name: str,
        pretrained: str | None = None,
        proposals: int = 256,
        score_threshold: float = 0.05,
        dropout: float = 0.0,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        if name not in NAMES:
            raise UserError("network.name", f"must be {', '.join(NAMES)}, got '{name}'{nearest(name, NAMES)}")
        if not 1 <= proposals <= 2000:
            raise UserError("network.proposals", f"must be 1 to 2000, got {proposals}")
        self.proposals, self.own_spec = proposals, InputSpec("boxes")
        self.start(name, pretrained, score_threshold, dropout, image_size, keep_source_head)

    def options(self) -> dict[str, Any]:
        """Arguments of torchvision's builder."""
        tops = {f"rpn_{when}_nms_top_n_{how}": self.proposals for when in ("pre", "post") for how in ("train", "test")}
        return {
            "box_score_thresh": self.score_threshold,
            "box_detections_per_img": 100,
            "trainable_backbone_layers": 6 if "mobilenet" in self.model_name else 5,
            **tops,
        }

    def take_model(self, model: Any) -> nn.Module:
        """Takes encoder and head off torchvision's model, which is kept outside the module tree to read outputs."""
        self.take_scheme()
        old = RegionHead(model.roi_heads.box_predictor)
        self.inputs = model.roi_heads.box_predictor.cls_score.in_features
        self.encoder = Regions(model, self.proposals)
        self._model = (model,)
        model.roi_heads.box_predictor = nn.Identity()
        for part, share in ((model.rpn, 0.5), (model.roi_heads, 0.25)):
            part.fg_bg_sampler = Even(part.fg_bg_sampler.batch_size_per_image, share)
        return old

    def head_of(self, classes: int) -> nn.Module:
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

        with torch.random.fork_rng(devices=[]):
            return RegionHead(FastRCNNPredictor(self.inputs, classes + 1))

    def start_boxes(self, head: nn.Module) -> bool:
        """Nothing: the outputs of boxes are of classes."""
        return False

    def forward(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """One encoder pass on the images that `select[B]` marks, then the heads. Places are selected of their outputs."""
        image = x["image"]
        some = image if select is None or select.ndim > 1 else image[select]
        found: Found = self.encoder(some if len(some) else image[:1])
        found = found.first(len(some))
        features = found.features
        logits = self.head(features)
        source = None if self.source_head is None else self.source_head(features)
        reader = RegionReader(self._model[0], image.shape[-1], found)
        if select is not None and select.ndim > 1:
            features, logits = features[select], logits[select]
            source = None if source is None else source[select]
        return Output(logits, features, source, None, reader=reader)

    def outputs_of(self, state: Mapping[str, Tensor]) -> int:
        name = f"{PREDICTOR}cls_score.weight"
        if name not in state:
            raise UserError("network.pretrained", f"lacks {name}", f"give weights of {self.model_name}")
        return int(state[name].shape[0]) - 1

    def export_config(self) -> dict[str, Any]:
        return {**super().export_config(), "proposals": self.proposals}


class Found(NamedTuple):
    """What the encoder finds in R images. G: boxes of the grid; P: proposals, filled up; A: the network's anchors."""

    features: Tensor
    """`[R, G + P, D]`"""
    regions: Tensor
    """`[R, G + P, 4]`"""
    there: Tensor
    """`[R, G + P]`, which are proposals"""
    objectness: Tensor
    """`[R, A, 1]`"""
    deltas: Tensor
    """`[R, A, 4]`"""
    sides: list[int]
    """Sides of the maps that proposals are made of"""

    def first(self, images: int) -> "Found":
        """Of the first images alone."""
        features, regions, there = (held[:images] for held in (self.features, self.regions, self.there))
        return Found(features, regions, there, self.objectness[:images], self.deltas[:images], self.sides)


class Regions(nn.Module):
    """Backbone, proposals, and the features of the proposals and of a grid of boxes.

    Args:
        model: torchvision's model, whose layers are taken.
        proposals: P.
    """

    def __init__(self, model: Any, proposals: int) -> None:
        super().__init__()
        self.backbone, self.rpn, self.box_head = model.backbone, model.rpn.head, model.roi_heads.box_head
        self.proposals, self._model = proposals, (model,)
        model.backbone = model.rpn.head = model.roi_heads.box_head = nn.Identity()

    def forward(self, image: Tensor) -> Found:
        from torchvision.models.detection.rpn import concat_box_prediction_layers as joined

        model, number, side = self._model[0], len(image), image.shape[-1]
        maps, sizes = self.backbone(image), [(side, side)] * len(image)
        of_levels, deltas = self.rpn(list(maps.values()))
        counts = [one[0].numel() for one in of_levels]
        (objectness, deltas), of_maps = joined(of_levels, deltas), [one.shape[-1] for one in maps.values()]
        anchors = anchors_of(model.rpn.anchor_generator, side, of_maps, image)
        with torch.no_grad():  # half precision would move boxes by a pixel or two
            exact, said = deltas.detach().to(anchors.dtype), objectness.detach().to(anchors.dtype)
            boxes = model.rpn.box_coder.decode(exact, [anchors] * number).view(number, -1, 4)
            boxes, _ = model.rpn.filter_proposals(boxes, said, sizes, counts)
            fixed = grid(side).to(anchors)
            filled = anchors.new_tensor([0.0, 0.0, 1.0, 1.0])
            every = [torch.cat([fixed, one, filled.expand(self.proposals - len(one), 4)]) for one in boxes]
            there = torch.zeros(number, len(every[0]), dtype=torch.bool, device=image.device)
            for at, one in enumerate(boxes):
                there[at, len(fixed) : len(fixed) + len(one)] = True
        features = self.box_head(model.roi_heads.box_roi_pool(maps, [one.to(image.dtype) for one in every], sizes))
        return Found(
            features.view(number, len(every[0]), -1),
            torch.stack(every),
            there,
            objectness.view(number, -1, 1),
            deltas.view(number, -1, 4),
            of_maps,
        )


def grid(side: int) -> Tensor:
    """Boxes `[G, 4]` of an eighth, a quarter, a half and the whole of the side; the middle two overlap by half."""
    found = []
    for size, step in ((side / 8, side / 8), (side / 4, side / 8), (side / 2, side / 4), (side, side)):
        starts = torch.arange(0, side - size + 1, step)
        y, x = torch.meshgrid(starts, starts, indexing="ij")
        found.append(torch.stack([x, y, x + size, y + size], -1).reshape(-1, 4))
    return torch.cat(found)


class RegionHead(nn.Module):
    """The last layers: `[R, Q, D]` to `[R, Q, C + 1 + 4·C]`, classes, no object, and a box for each class."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.classes, self.boxes = predictor.cls_score, predictor.bbox_pred

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.classes(features).roll(-1, -1), self.boxes(features)[..., 4:]], -1)


class Even:
    """Chooses positive and negative candidates as torchvision's sampler does, but spread evenly instead of drawn.

    Args:
        number: Candidates of an image.
        share: Largest share of positive ones.
    """

    def __init__(self, number: int, share: float) -> None:
        self.number, self.share = number, share

    def __call__(self, labels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
        for of in labels:
            positive, negative = torch.where(of >= 1)[0], torch.where(of == 0)[0]
            most = min(len(positive), int(self.number * self.share))
            for into, found, count in zip(chosen, (positive, negative), (most, self.number - most), strict=True):
                mask = torch.zeros_like(of, dtype=torch.bool)
                mask[spread(found, count)] = True
                into.append(mask)
        return chosen


def spread(found: Tensor, count: int) -> Tensor:
    """`count` of some numbers, evenly."""
    if len(found) <= count:
        return found
    return found[torch.arange(count, device=found.device) * len(found) // max(1, count)]


class RegionReader:
    """Reads a `RegionHead`'s outputs with torchvision's own matching, losses and choice of detections, image by image.

    Args:
        model: torchvision's model, of which no weight is used.
        side: Height and width of the image, in pixels.
        found: What the encoder found.
    """

    def __init__(self, model: Any, side: int, found: Found) -> None:
        self.model, self.side, self.found, self.fixed = model, side, found, len(grid(side))

    def places(self, features: Tensor) -> Tensor:
        return features[:, : self.fixed]

    def rows(self, logits: Tensor) -> Tensor:
        return logits[:, : self.fixed]

    def of_regions(self, row: Tensor, at: int) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits and box outputs of an image's proposals as torchvision has them, and the proposals."""
        there, regions = self.found.there[at].to(row.device), self.found.regions[at].to(row)
        kept = row[there]
        classes = (row.shape[-1] - 1) // 5
        boxes = torch.cat([kept.new_zeros(len(kept), 4), kept[:, classes + 1 :]], 1)
        return kept[:, : classes + 1].roll(1, -1), boxes, regions[there]

    def losses(self, logits: Tensor, targets: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            each = [self.loss(row, *target, at) for at, (row, target) in enumerate(zip(logits, targets, strict=True))]
        return torch.stack(each)

    def loss(self, row: Tensor, boxes: Tensor, classes: Tensor, at: int) -> Tensor:
        """Of one image: that of the proposals, and that of what is made of them."""
        rpn, roi, found = self.model.rpn, self.model.roi_heads, self.found
        anchors = [anchors_of(rpn.anchor_generator, self.side, found.sides, row)]
        labels, matched = rpn.assign_targets_to_anchors(anchors, [{"boxes": boxes}])
        wanted = rpn.box_coder.encode([m.to(row.dtype) for m in matched], anchors)
        of_labels = [label.to(row.dtype) for label in labels]
        parts = rpn.compute_loss(found.objectness[at].to(row.dtype), found.deltas[at].to(row.dtype), of_labels, wanted)
        logits, moves, regions = self.of_regions(row, at)
        numbers, said = roi.assign_targets_to_proposals([regions], [boxes], [classes + 1])
        (chosen,) = roi.subsample(said)
        if len(chosen):
            from torchvision.models.detection.roi_heads import fastrcnn_loss

            true = (boxes if len(boxes) else boxes.new_zeros(1, 4))[numbers[0][chosen]]
            aims = roi.box_coder.encode([true], [regions[chosen]])
            parts = (*parts, *fastrcnn_loss(logits[chosen], moves[chosen], [said[0][chosen]], aims))
        return torch.stack(parts).sum()

    @torch.no_grad()
    def detections(self, logits: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        found = []
        for at, row in enumerate(logits):
            outputs = self.of_regions(row, at)
            sizes = [(self.side, self.side)]
            boxes, scores, labels = self.model.roi_heads.postprocess_detections(*outputs[:2], [outputs[2]], sizes)
            found.append((boxes[0], scores[0], labels[0] - 1))
        return found
