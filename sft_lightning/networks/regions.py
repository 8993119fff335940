"""The layers of Faster R-CNN: proposals, the features of any regions of an image, and the last layers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sft_lightning.core.box_reader import RegionOutputs
from sft_lightning.networks.dense_detection import anchors_of


class Found(NamedTuple):
    """What the encoder finds in R images. P: proposals, the best first, filled up; A: the network's anchors."""

    features: Tensor
    """`[R, P, D]`"""
    regions: Tensor
    """`[R, P, 4]`"""
    there: Tensor
    """`[R, P]`, which are proposals"""
    objectness: Tensor
    """`[R, A, 1]`"""
    deltas: Tensor
    """`[R, A, 4]`"""
    sides: list[int]
    """Sides of the maps that proposals are made of"""
    maps: dict[str, Tensor]
    """Maps `[R, E, h, w]` of the feature pyramid"""

    def first(self, images: int) -> "Found":
        """Of the first images alone."""
        features, regions, there = (held[:images] for held in (self.features, self.regions, self.there))
        maps = {name: one[:images] for name, one in self.maps.items()}
        return Found(features, regions, there, self.objectness[:images], self.deltas[:images], self.sides, maps)


class Regions(nn.Module):
    """Backbone, proposals, and the proposals' features.

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
            filled = anchors.new_tensor([0.0, 0.0, 1.0, 1.0])
            every = [torch.cat([one, filled.expand(self.proposals - len(one), 4)]) for one in boxes]
            there = torch.zeros(number, self.proposals, dtype=torch.bool, device=image.device)
            for at, one in enumerate(boxes):
                there[at, : len(one)] = True
        return Found(
            self.features(maps, every, side).view(number, self.proposals, -1),
            torch.stack(every),
            there,
            objectness.view(number, -1, 1),
            deltas.view(number, -1, 4),
            of_maps,
            dict(maps),
        )

    def features(self, maps: dict[str, Tensor], regions: list[Tensor], side: int) -> Tensor:
        """`[M, D]`: the features of all images' regions, in maps of images of `side` pixels."""
        pool, like = self._model[0].roi_heads.box_roi_pool, next(iter(maps.values()))
        pooled = pool(maps, [one.to(like) for one in regions], [(side, side)] * len(regions))
        found: Tensor = self.box_head(pooled)
        return found


class RegionHead(nn.Module):
    """The last layers: `[R, Q, D]` to `[R, Q, C + 1 + 4·C]`, classes, no object, and a box for each class."""

    def __init__(self, predictor: Any) -> None:
        super().__init__()
        self.classes, self.boxes = predictor.cls_score, predictor.bbox_pred

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([self.classes(features).roll(-1, -1), self.boxes(features)[..., 4:]], -1)


class Look:
    """Looks at any regions of images that a network has seen, with its own layers, in the precision of that pass.

    Args:
        encoder: The network's encoder.
        head: Its last layers.
        source_head: The kept ones of the pretrained network, if any.
        maps: What the encoder's pyramid found in the images.
        side: Height and width of the images, in pixels.
    """

    def __init__(
        self, encoder: Regions, head: nn.Module, source_head: nn.Module | None, maps: dict[str, Tensor], side: int
    ) -> None:
        self.encoder, self.heads, self.maps, self.side = encoder, (head, source_head), maps, side
        self.device = next(iter(maps.values())).device.type
        self.cast = torch.is_autocast_enabled(self.device), torch.get_autocast_dtype(self.device)

    def __call__(self, regions: list[Tensor]) -> RegionOutputs:
        """The outputs at the regions `[K, 4]` of each image, in pixels."""
        enabled, dtype = self.cast
        with torch.autocast(self.device, dtype, enabled):
            features = self.encoder.features(self.maps, regions, self.side)
            head, source = self.heads
            return RegionOutputs(regions, features, head(features), None if source is None else source(features))
