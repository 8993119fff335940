"""Semantic segmentation: predicts one of C classes for each pixel of an image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from sft_lightning.anchors import kl
from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import SHARE, MetricInfo
from sft_lightning.core.pictured import Regions, reduced
from sft_lightning.core.structures import Batch, Items, Loss, Output, TaskInfo
from sft_lightning.tasks.base import Said, Task, TaskMetric, at_least_single, draw_classes
from sft_lightning.tasks.region_scores import NUMBER, OF_CLASS, SCORES, UNLABELLED, OwnMask, RegionScores

FAR = 1e-7
"""How far a probability stays from 1 in the focal loss's factor"""
COMPARED = 256
"""Largest number of places of an image at which student and teacher are compared in an evaluation"""
AT_ONCE = 1 << 26
"""Most outputs of an image at its own size that are in memory together"""


def score(name: str) -> Callable[[TaskInfo], RegionScores]:
    """Makes the meter of one score."""
    return lambda info: RegionScores(info, [name])


class SemanticSegmentation(Task):
    """A head gives maps `[R, h, w, C]` of R images; `y[N]` int64 in [0, C) are the classes of the N labelled pixels.

    `select[B, H, W]` marks the labelled pixels, image after image. An item is a labelled pixel: the loss is the sum of their
    cross-entropies, its count N. `rows` enlarges maps to the masks' size, bilinear, as is usual for networks whose maps are
    smaller than the image. Student and teacher are compared at the maps' own resolution: each labelled pixel counts with the
    place of the map that it lies in. An evaluation compares at most COMPARED places of an image, drawn evenly among those
    with labelled pixels, from an offset that depends on the image's row number alone.

    With `weights` w of the classes, a pixel counts as w_y pixels: L = Σ w_y·(1 − p_y)^γ·(−log p_y) / Σ w_y, where the
    denominator is summed over the whole optimizer step (in an evaluation, over the split), so that neither accumulation nor
    ranks change it. An anchor's mean over items has the same weights. γ is `focal`: 0 for cross-entropy, 2 for the focal loss
    of Lin et al. 2017. The loss of validation and test has both too.

    All metrics are of one confusion matrix over the whole split, at the network's input size, to which masks are resized; or
    at each mask's own size, to which the maps are enlarged, bilinear, if the batch has an `OwnMask` `beside` each image: then
    predicted masks have this size too. A test also measures each class: `iou/CLASS`, with `pixels/CLASS` true pixels.
    """

    name = "semantic_segmentation"
    one_item_per_sample = False
    compares_places = True
    smooths_labels = True
    metrics = {name: TaskMetric("max", SHARE, score(name)) for name in SCORES}
    default_metrics = SCORES
    loss_unit = "nats"

    def __init__(self, info: TaskInfo, label_smoothing: float = 0.0) -> None:
        super().__init__(info, label_smoothing)
        if info.focal and label_smoothing:
            raise UserError("model.label_smoothing", "does not work with a focal loss", "leave it at 0")

    @classmethod
    def metric_info(cls, name: str) -> MetricInfo | None:
        """Adds the IoU and the number of pixels of each class."""
        if name.startswith(NUMBER):
            return MetricInfo(name, None, "pixels")
        return MetricInfo(name, "max", SHARE) if name.startswith(OF_CLASS) else super().metric_info(name)

    def make_metrics(self, final: bool = False) -> dict[str, Metric]:
        """One meter for all scores, which counts pixels once."""
        names = list(super().make_metrics())  # refuses unknown names
        return {"regions": RegionScores(self.info, names, final)}

    # ---- what the task does with a batch ----

    def select(self, batch: Batch) -> Tensor | None:
        """The images that are not fillers, as the heads compute whole maps."""
        return batch.get("real")

    def loss(self, output: Output, batch: Batch) -> Loss:
        y = batch["y"]
        total = self.row_loss(self.rows(output.logits, batch), y)
        return Loss(total, float(self.weights(y).sum()) if self.info.weights else int(batch["count"]))

    def update(self, metric: Metric, output: Output, batch: Batch) -> None:
        if "beside" not in batch:
            metric.update(self.predict(self.rows(output.logits, batch)), batch["y"])
            return
        seen = (batch["select"].shape[1], batch["select"].shape[2])
        for maps, own in zip(output.logits, owns_in(batch), strict=True):
            y = torch.from_numpy(own.classes).to(maps.device)
            metric.update(own_classes(maps, seen, own)[y != UNLABELLED], y[y != UNLABELLED].long())

    def rows(self, logits: Tensor, batch: Batch) -> Tensor:
        """`[N, C]` of the labelled pixels, in single precision at least, from maps `[R, h, w, C]`."""
        if logits.ndim == 2:
            return logits
        select = labelled(batch)
        maps = enlarged(logits, (select.shape[1], select.shape[2]))
        return maps.flatten(0, 2) if int(batch["count"]) == select.numel() else maps[select]

    def row_loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy or focal loss of `logits[N, C]` and `y[N]`, times weights, summed over pixels, in nats: a scalar."""
        logits = at_least_single(logits)
        weights = logits.new_tensor(self.info.weights) if self.info.weights else None
        if not self.info.focal:
            return F.cross_entropy(logits, y, weights, reduction="sum", label_smoothing=self.label_smoothing)
        each = F.cross_entropy(logits, y, reduction="none")
        easy = (-each).exp().clamp(max=1 - FAR)  # the gradient of a power of 0 may be infinite
        each = (1 - easy) ** self.info.focal * each
        return each.sum() if weights is None else (weights[y] * each).sum()

    def weights(self, y: Tensor) -> Tensor:
        """The weights of the classes `y`, in double precision if the device supports it."""
        dtype = torch.float32 if y.device.type == "mps" else torch.float64
        return torch.tensor(self.info.weights, dtype=dtype, device=y.device)[y]

    def predict(self, logits: Tensor) -> Tensor:
        return logits.argmax(-1)

    def decode(self, output: Output, batch: Batch) -> list[dict[str, Any]]:
        """Each image's `mask`, its classes `[H, W]` (an array) at the size that `update` compares, and `pixels` of each."""
        height, width = batch["x"]["image"].shape[-2:]
        classes, found = self.info.num_outputs, []
        whole = OwnMask(np.empty((height, width)), (height, width))
        owns = owns_in(batch) if "beside" in batch else [whole] * len(output.logits)
        for one, own in zip(output.logits, owns, strict=True):
            mask = own_classes(one, (height, width), own).cpu().numpy()
            pixels = np.bincount(mask.ravel(), minlength=classes)
            found.append({"mask": mask.astype(np.uint8 if classes <= 256 else np.int32), "pixels": pixels.tolist()})
        return found

    def said(self, output: Output, batch: Batch) -> list[Said]:
        """The share of each class among an image's labelled pixels; its score is the share of pixels that are right."""
        select, labels = labelled(batch), batch.get("y")
        counts = select.flatten(1).sum(1).tolist()
        said = torch.split(self.predict(self.rows(output.logits, batch)), counts)
        height, width = select.shape[1:]
        found = [self.regions(one, height, width) for one in output.logits]
        if labels is None:
            return [Said(self.shares(of), found=regions) for of, regions in zip(said, found, strict=True)]
        masks = torch.full_like(select, UNLABELLED, dtype=torch.long)
        truth = [self.regions(one, height, width) for one in masks.masked_scatter(select, labels)]
        return [
            Said(
                self.shares(a), self.shares(y), float((a == y).double().mean()) if len(y) else None, "text", one, other
            )
            for a, y, one, other in zip(said, torch.split(labels, counts), found, truth, strict=True)
        ]

    def regions(self, of: Tensor, height: int, width: int) -> Regions | None:
        """A picture of a mask `[height, width]`, or of logits `[h, w, C]`, of a network's input of this height and width; None
        for more classes than a picture has.
        """
        if self.info.num_outputs > UNLABELLED:
            return None
        small = reduced(height, width)
        if of.ndim == 3:
            classes = enlarged(of[None], small)[0].argmax(-1)
        else:
            classes = F.interpolate(of[None, None].float(), small, mode="nearest-exact")[0, 0]
        return Regions.of(classes.cpu().numpy(), (height, width))

    def shares(self, classes: Tensor) -> str:
        """`cell 75 %, membrane 25 %`: the classes of some pixels, the most frequent first."""
        labels = self.info.labels or [str(i) for i in range(self.info.num_outputs)]
        found = torch.bincount(classes, minlength=len(labels)).double() / max(1, len(classes))
        most = sorted(zip(found.tolist(), labels, strict=True), key=lambda pair: -pair[0])
        return ", ".join(f"{label} {share:.0%}".replace("%", " %") for share, label in most if share) or "nothing"

    def items(self, output: Output, batch: Batch) -> Items:
        """The places of the maps that labelled pixels lie in, weighted with their number."""
        if output.logits.ndim == 2:
            return Items(output.pretrained_features, output.logits, output.source_logits, len(output.logits))
        select, features, source = labelled(batch), output.pretrained_features, output.source_logits
        pixels = select.float()
        if self.info.weights and "y" in batch:
            pixels = pixels.masked_scatter(select, self.weights(batch["y"]).float())
        below, above = places(pixels, features, batch), places(pixels, output.logits, batch)
        return Items(
            below.of(features),
            above.of(output.logits),
            None if source is None else above.of(source),
            int(batch["count"]),
            below.weights,
            above.weights,
        )

    # ---- the meaning of a head's outputs ----

    def same(self, one: Tensor, other: Tensor) -> Tensor:
        return (one.argmax(-1) == other.argmax(-1)).double()

    def divergence(self, student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
        return kl(student, teacher, temperature)

    def draw(self, logits: Tensor, random: np.random.Generator) -> Tensor:
        return draw_classes(logits, random)


def labelled(batch: Batch) -> Tensor:
    """The labelled pixels of the images that are not fillers: bool `[R, H, W]`."""
    select: Tensor = batch["select"]
    return select[batch["real"]] if "real" in batch else select


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `[R, h, w, C]` at another height and width, bilinear, in single precision at least."""
    maps = at_least_single(maps)
    if tuple(maps.shape[1:3]) == size or not len(maps):
        return maps.reshape(len(maps), *size, maps.shape[-1])
    larger = F.interpolate(maps.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=False)
    return larger.permute(0, 2, 3, 1)


def owns_in(batch: Batch) -> list[OwnMask]:
    """The masks at their own size of the images that are not fillers."""
    real = batch["real"].tolist() if "real" in batch else [True] * len(batch["beside"])
    return [own for own, counts in zip(batch["beside"], real, strict=True) if counts]


def own_classes(maps: Tensor, seen: tuple[int, int], own: OwnMask) -> Tensor:
    """The predicted classes `[H, W]` at a mask's own size, of maps `[h, w, C]` of an image that the network saw at a size."""
    (height, width), size = own.seen, (own.classes.shape[0], own.classes.shape[1])
    part = enlarged(maps[None], seen)[:, :height, :width]
    some = max(1, AT_ONCE // max(1, own.classes.size))
    best, found = enlarged(part[..., :some], size)[0].max(-1)
    for start in range(some, part.shape[-1], some):
        values, classes = enlarged(part[..., start : start + some], size)[0].max(-1)
        found = torch.where(values > best, classes + start, found)
        best = torch.maximum(values, best)
    return found


# ---- the places at which student and teacher are compared ----


class Places:
    """Places of maps: their numbers in `[R · h · w]`, and how many labelled pixels lie in each."""

    def __init__(self, at: Tensor | None, weights: Tensor) -> None:
        self.at, self.weights = at, weights

    def of(self, maps: Tensor) -> Tensor:
        """The rows `[M, D]` of maps `[R, h, w, D]` at these places; `[N, 0]` as it is."""
        if maps.ndim == 2 or not maps.shape[-1]:
            return maps.reshape(-1, maps.shape[-1])
        every = maps.flatten(0, 2)
        return every if self.at is None else every[self.at]


def places(pixels: Tensor, maps: Tensor, batch: Batch) -> Places:
    """The places of `maps[R, h, w, D]` in which pixels of a weight in `pixels[R, H, W]` lie: all in training, some of each
    image in an evaluation.
    """
    number, height, width = maps.shape[:3] if maps.ndim == 4 else (len(pixels), *pixels.shape[1:])
    counts = pixels_in(pixels, height, width).flatten(1)
    if not batch.get("train", False):
        counts = some_of(counts, numbers(batch, number))
    weights = counts.flatten().to(torch.promote_types(maps.dtype, torch.float32))  # exact counts
    if bool((weights > 0).all()):
        return Places(None, weights)
    at = weights.nonzero()[:, 0]
    return Places(at, weights[at])


def numbers(batch: Batch, images: int) -> list[int]:
    """Row numbers of the images that are not fillers."""
    rows = list(batch.get("rows") or batch["index"].tolist()) if "index" in batch else list(range(images))
    real = batch["real"].tolist() if "real" in batch else [True] * len(rows)
    return [row for row, counts in zip(rows, real, strict=True) if counts]


def pixels_in(pixels: Tensor, height: int, width: int) -> Tensor:
    """`[R, height, width]`: the sum of `pixels[R, H, W]` in each place of a map; pixel i lies in ⌊i · h / H⌋."""
    if tuple(pixels.shape[1:]) == (height, width):
        return pixels
    down, across = (
        F.one_hot(torch.arange(side, device=pixels.device) * places // side, places).to(pixels.dtype)
        for side, places in zip(pixels.shape[1:], (height, width), strict=True)
    )
    return down.T @ pixels @ across


def some_of(counts: Tensor, rows: list[int]) -> Tensor:
    """`counts[R, P]` at no more than COMPARED of the places of each image that are above 0, and 0 at the others."""
    kept = torch.zeros_like(counts)
    for number, (of, row) in enumerate(zip(counts, rows, strict=True)):
        there = of.nonzero()[:, 0]
        if len(there) > COMPARED:
            start = (row * 0x9E3779B1 % 2**32) / 2**32  # in [0, 1), spread evenly over rows
            steps = (torch.arange(COMPARED, dtype=torch.float64) + start) * (len(there) / COMPARED)
            there = there[steps.long().to(there.device)]
        kept[number, there] = of[there]
    return kept
