"""Segmentation: metrics as scikit-learn has them on all pixels at once, losses and distances by hand."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import metrics as sk
from torch import Tensor

from sft_lightning.core.structures import Output, TaskInfo
from sft_lightning.tasks import make_task
from sft_lightning.tasks.metrics import MeanLoss, read_meters, update_meters
from sft_lightning.tasks.semantic_segmentation import COMPARED, pixels_in
from tests.refused import refused

HOSTILE = ("plain", "a class that nobody has", "a class that is only predicted", "one class alone", "one pixel")


def task(classes: int = 4) -> Any:
    return make_task(TaskInfo("semantic_segmentation", classes, ["sky", "road", "car", "tree"][:classes]))


def images(what: str, number: int = 5) -> tuple[Tensor, Tensor]:
    """Maps `[R, 6, 7, 4]` and masks `[R, 6, 7]`, -1 for unlabelled, hostile in one way."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 4, (number, 6, 7), generator=generator)
    maps = torch.randn(number, 6, 7, 4, generator=generator)
    if what in ("a class that nobody has", "a class that is only predicted"):
        masks[masks == 2] = 1
    if what == "a class that nobody has":
        maps[..., 2] -= 100
    if what == "one class alone":
        masks[:], maps[..., 1] = 1, 100
    masks[torch.rand(masks.shape, generator=generator) < 0.4] = -1
    if what == "one pixel":
        masks[:], masks[2, 3, 3] = -1, 0
    return maps, masks


def batch_of(masks: Tensor, **more: Any) -> dict[str, Any]:
    select = masks >= 0
    return {"select": select, "y": masks[select], "count": int(select.sum()), "index": torch.arange(len(masks)), **more}


@pytest.mark.parametrize("what", HOSTILE)
def test_metrics_are_scikit_learns_on_all_labelled_pixels_however_they_are_batched(what: str) -> None:
    maps, masks = images(what)
    said, y = maps.argmax(-1)[masks >= 0].numpy(), masks[masks >= 0].numpy()
    expected = {
        "miou": sk.jaccard_score(y, said, average="macro"),
        "dice": sk.f1_score(y, said, average="macro"),
        "pixel_accuracy": sk.accuracy_score(y, said),
    }
    of_class = sk.jaccard_score(y, said, average=None, labels=range(4), zero_division=0)
    there = np.union1d(y, said)
    for number in there.tolist():
        label = task().info.labels[number]
        expected |= {f"iou/{label}": of_class[number], f"pixels/{label}": float((y == number).sum())}
    for cuts in ([5], [1, 4], [1, 1, 1, 1, 1], [2, 0, 3]):
        meters = {"loss": MeanLoss(), **task().make_metrics(final=True)}
        for some, of in zip(maps.split(cuts), masks.split(cuts), strict=True):
            update_meters(task(), meters, Output(some, some), batch_of(of))
        found = read_meters(meters)
        loss = F.cross_entropy(maps[masks >= 0].double(), masks[masks >= 0])
        assert found.pop("loss") == pytest.approx(float(loss), rel=1e-5)
        assert found == pytest.approx(expected, rel=1e-9), cuts
    assert task().metric_info("iou/sky").better == "max" and task().metric_info("pixels/sky").unit == "pixels"


def test_gold_against_gold_is_perfect() -> None:
    _, masks = images("plain")
    gold = F.one_hot(masks.clamp(min=0), 4).float()
    meters = task().make_metrics()
    update_meters(task(), {"loss": MeanLoss(), **meters}, Output(gold, gold), batch_of(masks))
    assert read_meters(meters) == {"miou": 1.0, "dice": 1.0, "pixel_accuracy": 1.0}


def test_the_loss_of_smaller_maps_is_of_their_bilinear_enlargement_and_counts_labelled_pixels() -> None:
    masks = images("plain", 3)[1]
    small = torch.randn(3, 2, 3, 4, requires_grad=True)
    loss = task().loss(Output(small, small.detach()), batch_of(masks))
    large = F.interpolate(small.permute(0, 3, 1, 2), (6, 7), mode="bilinear")
    expected = F.cross_entropy(large, torch.where(masks < 0, -100, masks), reduction="sum")
    assert loss.n == int((masks >= 0).sum()) and loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    mine, theirs = (torch.autograd.grad(one, small, retain_graph=True)[0] for one in (loss.total, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_fillers_have_neither_loss_nor_place() -> None:
    maps, masks = images("plain", 3)
    masks[1] = -1
    real = torch.tensor([True, False, True])
    batch = batch_of(masks, real=real, train=True)
    one = Output(maps[real], maps[real], maps[real])
    alone = batch_of(masks[real], train=True)
    assert torch.equal(task().loss(one, batch).total, task().loss(one, alone).total)
    for mine, theirs in zip(task().items(one, batch), task().items(one, alone), strict=True):
        assert torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))


def test_each_labelled_pixel_counts_with_the_place_of_the_map_that_it_lies_in() -> None:
    select = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    counts = torch.zeros(2, 4, 3)
    for image, down, across in select.nonzero().tolist():
        counts[image, down * 4 // 9, across * 3 // 7] += 1
    assert torch.equal(pixels_in(select.float(), 4, 3), counts)
    maps, features = torch.randn(2, 4, 3, 5), torch.randn(2, 2, 2, 8)
    items = task().items(
        Output(maps, maps, maps, features), {"select": select, "count": int(select.sum()), "train": True}
    )
    assert items.output_weights is not None and items.weights is not None and items.source_logits is not None
    assert items.n == int(select.sum()) == int(items.weights.sum()) == int(items.output_weights.sum())
    assert torch.equal(items.source_logits, maps[counts > 0]) and torch.equal(items.output_weights, counts[counts > 0])
    assert items.features.shape == (8, 8), "features have places of their own"


def test_an_evaluation_compares_some_places_evenly_whatever_the_batch() -> None:
    select = torch.ones(3, 40, 40, dtype=torch.bool)
    select[2, 10:] = False
    maps = torch.arange(3 * 1600.0).reshape(3, 40, 40, 1)

    def compared(rows: list[int]) -> list[float]:
        batch = {"select": select[rows], "count": 1, "index": torch.tensor(rows)}
        items = task().items(Output(maps[rows], maps[rows], maps[rows]), batch)
        assert items.source_logits is not None
        return items.source_logits[:, 0].tolist()

    together = compared([0, 1, 2])
    assert together == [*compared([0]), *compared([1, 2])]
    assert len(together) == 3 * COMPARED, "the third image has labels in 400 places"
    gaps = np.diff(together[:COMPARED])
    assert gaps.min() >= 6 and gaps.max() <= 7
    assert compared([0]) != [place - 1600 for place in compared([1])], "all images are compared at the same places"


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with refused("metrics", "'mIoU'", "miou"):
        make_task(TaskInfo("semantic_segmentation", 3, metrics=["mIoU"])).make_metrics()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_weights_count_pixels_and_the_denominator_is_their_sum_over_all_batches(gamma: float) -> None:
    maps, masks = images("plain")
    weights = [0.5, 3.0, 1.0, 0.0]
    of = make_task(TaskInfo("semantic_segmentation", 4, weights=weights, focal=gamma))
    logits, y = maps[masks >= 0].double(), masks[masks >= 0]
    p = logits.softmax(-1)[torch.arange(len(y)), y]
    w = torch.tensor(weights).double()[y]
    expected = float((w * (1 - p) ** gamma * -p.log()).sum() / w.sum())
    if not gamma:
        assert expected == pytest.approx(float(F.cross_entropy(logits, y, torch.tensor(weights).double())))
    for cuts in ([5], [1, 4], [1, 1, 1, 1, 1]):
        meter = MeanLoss()
        for some, labels in zip(maps.split(cuts), masks.split(cuts), strict=True):
            update_meters(of, {"loss": meter}, Output(some, some), batch_of(labels))
        assert float(meter.compute()) == pytest.approx(expected, rel=1e-6)
    items = of.items(Output(maps, maps, maps), batch_of(masks, train=True))
    assert items.output_weights is not None
    assert float(items.output_weights.sum()) == pytest.approx(float(w.sum()), rel=1e-6)


def test_a_pixel_that_is_surely_right_has_a_finite_focal_gradient() -> None:
    of = make_task(TaskInfo("semantic_segmentation", 2, focal=0.5))
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    of.row_loss(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[1].abs().max() > 0.9
    with refused("model.label_smoothing", "focal"):
        make_task(TaskInfo("semantic_segmentation", 2, focal=2.0), 0.1)


def test_what_is_said_of_an_image_is_its_classes_with_the_share_of_pixels_that_are_right() -> None:
    gold = torch.tensor([[[0, 0], [1, -1]]])
    maps = F.one_hot(torch.tensor([[[0, 2], [1, 2]]]), 4).float()
    (found,) = task().said(Output(maps, maps), batch_of(gold))
    assert found.right == "sky 67 %, road 33 %" and found.score == pytest.approx(2 / 3)
    assert found.said == "sky 33 %, road 33 %, car 33 %"
