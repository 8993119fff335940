"""Reads the outputs of Faster R-CNN, with a choice of candidates that draws no random number."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sft_lightning.core.box_reader import RegionOutputs
from sft_lightning.networks.dense_detection import anchors_of
from sft_lightning.networks.regions import Found, Look

COMPARED = 64
"""Proposals of an image at which student and teacher are compared, as in Shmelkov et al. 2017, but always the best ones"""


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
        look: Looks at other regions of the same images.
    """

    def __init__(self, model: Any, side: int, found: Found, look: Look) -> None:
        self.model, self.side, self.found = model, side, found
        self._look: Look | None = look
        self._own: RegionOutputs | None = None

    def places(self, features: Tensor) -> Tensor:
        return features

    def rows(self, logits: Tensor) -> Tensor:
        return logits

    def at(self, regions: list[Tensor]) -> RegionOutputs:
        assert self._look is not None
        return self._look(regions)

    def own(self) -> RegionOutputs:
        """At the best proposals. They are computed once, and the maps are then released, as the outputs may be kept."""
        if self._own is None:
            kept = zip(self.found.regions, self.found.there, strict=True)
            self._own = self.at([regions[there][:COMPARED] for regions, there in kept])
            self._look, self.found = None, self.found._replace(maps={})
        return self._own

    def idle(self, logits: Tensor) -> Tensor:
        return (logits.sum() + self.found.objectness.sum() + self.found.deltas.sum()) * 0.0

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
        if not len(regions):
            return torch.stack(parts).sum() + self.idle(row)
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
