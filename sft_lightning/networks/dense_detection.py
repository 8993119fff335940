"""The parts of detectors with candidates at each place of several maps: torchvision's FCOS, RetinaNet and SSD, taken apart.

R images, P places of all maps together, A candidates (a of each place, fewer on some maps of SSD300), D channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError

UNPADDED = 2
"""Maps at the end of SSD300 that convolutions without padding make"""
Layer = nn.Module
"""One layer for all maps, or a ModuleList of one for each"""


def at(layer: Layer, level: int) -> nn.Module:
    """The layer of one map."""
    return layer[level] if isinstance(layer, nn.ModuleList) else layer


class Towers(nn.Module):
    """A backbone, and the layers between its maps and the last ones, those of classes and those of boxes.

    Args:
        backbone: Gives a dict of maps `[B, C, h, w]`, from the largest to the smallest.
        classes: Layers before the classes' last one.
        boxes: Layers before the boxes' last one.
        unpadded: The last maps of which each has two rows and columns fewer than the one before; others have half.
    """

    def __init__(self, backbone: nn.Module, classes: Layer, boxes: Layer, unpadded: int = 0) -> None:
        super().__init__()
        self.backbone, self.classes, self.boxes, self.unpadded = backbone, classes, boxes, unpadded

    def forward(self, image: Tensor) -> Tensor:
        """`[B, P, 2D]`: for each place the D features of classes, then those of boxes, filled with zeros to one width."""
        maps = list(self.backbone(image).values())
        sides = [tuple(one.shape[-2:]) for one in maps]
        if sides != [(n, n) for n in halved(sides[0][0], len(maps), self.unpadded)]:
            raise UserError(
                "data.image_size", f"the network's maps have {sides} places, which do not halve", "use another size"
            )
        found = [[at(tower, i)(one) for i, one in enumerate(maps)] for tower in (self.classes, self.boxes)]
        width = max(one.shape[1] for one in found[0])
        flat = [
            torch.cat([nn.functional.pad(one.flatten(2), (0, 0, 0, width - one.shape[1])) for one in of], 2)
            for of in found
        ]
        return torch.cat(flat, 1).transpose(1, 2).contiguous()


def halved(side: int, levels: int, unpadded: int = 0) -> list[int]:
    """Sides of maps that halve, rounded up, but for the last ones, which have no padding."""
    sides = [side]
    while len(sides) < levels:
        sides.append(-(-sides[-1] // 2) if len(sides) < levels - unpadded else sides[-1] - 2)
    return sides


def sides_of(places: int, levels: int, unpadded: int = 0) -> list[int]:
    """Sides of the maps that have so many places together."""
    side = 1
    while min(halved(side, levels, unpadded)) < 1 or sum(n * n for n in halved(side, levels, unpadded)) < places:
        side += 1
    return halved(side, levels, unpadded)


class DenseHead(nn.Module):
    """The last layers: features `[R, P, 2D]` to `[R, P, a·(K + 4)]`, filled with zeros where a map has fewer candidates.

    A candidate has outputs of C classes, then one of centredness (FCOS) or of no object (SSD), which RetinaNet lacks, then
    four of its box.

    Args:
        classes: The classes' last convolution; SSD's first output is no object.
        boxes: The boxes' last convolution.
        centred: FCOS's convolution of centredness.
        each: Candidates of a place of each map.
        kind: 'fcos', 'retinanet' or 'ssd'.
        unpadded: As in Towers.
    """

    def __init__(
        self, classes: Layer, boxes: Layer, centred: nn.Module | None, each: Sequence[int], kind: str, unpadded: int = 0
    ) -> None:
        super().__init__()
        self.classes, self.boxes, self.centred = classes, boxes, centred
        self.each, self.kind, self.unpadded = list(each), kind, unpadded

    def forward(self, features: Tensor) -> Tensor:
        images, places, width = features.shape
        sides, most = sides_of(places, len(self.each), self.unpadded), max(self.each)
        found, begin = [], 0
        for level, side in enumerate(sides):
            maps = features[:, begin : begin + side * side].transpose(1, 2).reshape(images, width, side, side)
            begin += side * side
            one = self.at_level(maps, level)
            found.append(nn.functional.pad(one, (0, 0, 0, most - one.shape[3])).flatten(3).flatten(1, 2))
        return torch.cat(found, 1)

    def at_level(self, maps: Tensor, level: int) -> Tensor:
        """`[R, h, w, a, K + 4]` of one map `[R, 2D, h, w]`."""
        half = maps.shape[1] // 2
        classes, boxes = at(self.classes, level), at(self.boxes, level)
        each = self.each[level]
        of_classes = arranged(classes(maps[:, : inputs(classes)]), each)
        of_boxes = maps[:, half : half + inputs(boxes)]
        box = arranged(boxes(of_boxes), each)
        if self.kind == "ssd":
            of_classes = of_classes.roll(-1, -1)  # no object comes last
        if self.centred is None:
            return torch.cat([of_classes, box], -1)
        return torch.cat([of_classes, arranged(self.centred(of_boxes), each), box.relu()], -1)


def arranged(maps: Tensor, each: int) -> Tensor:
    """`[R, a·k, h, w]` as `[R, h, w, a, k]`."""
    images, channels, height, width = maps.shape
    return maps.view(images, each, channels // each, height, width).permute(0, 3, 4, 1, 2)


def inputs(layer: nn.Module) -> int:
    """Input channels of a convolution."""
    channels: Any = layer.in_channels
    return int(channels)


def anchors_of(generator: Any, side: int, sides: Sequence[int], like: Tensor) -> Tensor:
    """Boxes `[A, 4]` at all places of maps of these sides, in at least single precision, for an image of `side` pixels.

    Torchvision's generator keeps the boxes of its last call, rounded to that call's precision and on its device: they are
    made anew.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    if isinstance(generator, AnchorGenerator):
        both = zip(generator.sizes, generator.aspect_ratios, strict=True)
        generator.cell_anchors = [generator.generate_anchors(*one) for one in both]
    exact = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
    image = ImageList(exact.new_empty(1, 0, side, side), [(side, side)])
    found: Tensor = generator(image, [exact.new_empty(1, 0, n, n) for n in sides])[0]
    return found.to(exact.dtype)


class DenseReader:
    """Reads a `DenseHead`'s outputs with torchvision's own matching, losses and choice of detections, image by image.

    Args:
        model: torchvision's model, of which no weight is used.
        side: Height and width of the image, in pixels.
        head: The head whose outputs are read.
        places: P.
    """

    def __init__(self, model: nn.Module, side: int, head: DenseHead, places: int) -> None:
        self.model, self.side, self.each, self.kind = model, side, head.each, head.kind
        self.sides = sides_of(places, len(head.each), head.unpadded)
        self.counts = [side * side * each for side, each in zip(self.sides, self.each, strict=True)]

    def places(self, features: Tensor) -> Tensor:
        return features

    def rows(self, logits: Tensor) -> Tensor:
        (images, places, width), most = logits.shape, max(self.each)
        rows = logits.reshape(images, places * most, width // most)
        if min(self.each) == most:
            return rows
        there = [torch.arange(most) < each for each in self.each]
        kept = torch.cat([of.repeat(side * side) for of, side in zip(there, self.sides, strict=True)])
        return rows[:, kept.to(rows.device)]

    def outputs(self, row: Tensor) -> dict[str, Tensor]:
        """An image's candidates `[A, K + 4]` as torchvision has them."""
        row = row[None]
        if self.kind == "fcos":
            return {
                "cls_logits": row[..., :-5],
                "bbox_ctrness": row[..., -5:-4],
                "bbox_regression": row[..., -4:],
            }
        classes = row[..., :-4].roll(1, -1) if self.kind == "ssd" else row[..., :-4]
        return {"cls_logits": classes, "bbox_regression": row[..., -4:]}

    def anchors(self, like: Tensor) -> Tensor:
        """The candidates' boxes before the network moves them: `[A, 4]`."""
        model: Any = self.model
        return anchors_of(model.anchor_generator, self.side, self.sides, like)

    def losses(self, logits: Tensor, targets: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        rows = self.rows(logits)
        anchors = self.anchors(rows)
        with torch.autocast(rows.device.type, enabled=False):
            return torch.stack(
                [
                    sum(self.loss(row, boxes, classes, anchors).values(), row.new_zeros(()))
                    for row, (boxes, classes) in zip(rows, targets, strict=True)
                ]
            )

    def loss(self, row: Tensor, boxes: Tensor, classes: Tensor, anchors: Tensor) -> dict[str, Tensor]:
        """The parts of one image's loss."""
        from torchvision.models.detection import FCOS, RetinaNet
        from torchvision.models.detection.ssd import SSD
        from torchvision.ops import box_iou

        model, outputs, found = self.model, self.outputs(row), dict[str, Tensor]()
        target = [{"boxes": boxes, "labels": classes}]
        if isinstance(model, FCOS):
            found = model.compute_loss(target, outputs, [anchors], self.counts)
        elif isinstance(model, RetinaNet):
            found = model.compute_loss(target, outputs, [anchors])
        elif isinstance(model, SSD):
            matched = classes.new_full((len(anchors),), -1)
            if len(boxes):
                matched = model.proposal_matcher(box_iou(boxes, anchors))
            found = model.compute_loss([{"boxes": boxes, "labels": classes + 1}], outputs, [anchors], [matched])
        return found

    @torch.no_grad()
    def detections(self, logits: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        from torchvision.models.detection import FCOS, RetinaNet
        from torchvision.models.detection.ssd import SSD

        rows, model, counts = self.rows(logits), self.model, self.counts
        anchors, found = self.anchors(rows), []
        assert isinstance(model, FCOS | RetinaNet | SSD)
        for row in rows:
            outputs: Any = self.outputs(row)
            each: Any = [anchors]
            if not isinstance(model, SSD):
                outputs = {name: list(torch.split(of, counts, 1)) for name, of in outputs.items()}
                each = [list(torch.split(anchors, counts))]
            one = model.postprocess_detections(outputs, each, [(self.side, self.side)])[0]
            labels = one["labels"] - 1 if isinstance(model, SSD) else one["labels"]
            found.append((one["boxes"], one["scores"], labels))
        return found


def taken_apart(model: Any, kind: str) -> tuple[Towers, DenseHead]:
    """Encoder and head of torchvision's model, which keeps neither."""
    classes, boxes = model.head.classification_head, model.head.regression_head
    each, unpadded = model.anchor_generator.num_anchors_per_location(), 0
    if kind == "ssd":
        lite = isinstance(classes.module_list[0], nn.Sequential)  # SSD300 has one convolution instead of two
        unpadded = 0 if lite else UNPADDED
        first, last = (
            [
                nn.ModuleList(block[at] if lite else (nn.Identity(), block)[at] for block in part.module_list)
                for part in (classes, boxes)
            ]
            for at in (0, 1)
        )
        head = DenseHead(last[0], last[1], None, each, kind, unpadded)
        classes.module_list = boxes.module_list = nn.ModuleList()
    else:
        first = [classes.conv, boxes.conv]
        centred = boxes.bbox_ctrness if kind == "fcos" else None
        head = DenseHead(classes.cls_logits, boxes.bbox_reg, centred, each, kind)
        classes.conv = classes.cls_logits = boxes.conv = boxes.bbox_reg = nn.Identity()
        boxes.bbox_ctrness = nn.Identity()
    encoder = Towers(model.backbone, first[0], first[1], unpadded)
    model.backbone = nn.Identity()
    return encoder, head
