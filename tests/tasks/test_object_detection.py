"""Object detection: scores are pycocotools', losses are torchvision's of one image."""

import math

import numpy as np
import pytest
import torch

from sft_lightning.core.structures import Items, Output, TaskInfo
from sft_lightning.networks import TimmDetection
from sft_lightning.networks.dense_detection import DenseReader
from sft_lightning.tasks import make_task
from sft_lightning.tasks.box_scores import SCORES, BoxScores, Picture, f1_of
from sft_lightning.tasks.object_detection import COMPARED, FIXED, pick
from tests.tasks import boxes_by_hand

INFO = TaskInfo("object_detection", 3, ["a", "b", "c"])
Found = tuple[np.ndarray, np.ndarray, np.ndarray]


def boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corner, size = rng.uniform(0, 80, (count, 2)), rng.uniform(4, 40, (count, 2))
    return np.concatenate([corner, corner + size], 1)


def hostile(seed: int, images: int = 12) -> tuple[list[Picture], list[Found]]:
    """Images without boxes, without detections, with crowds; equal scores, two detections of one box, over 100 detections."""
    rng, pictures, found = np.random.default_rng(seed), [], []
    for image in range(images):
        count = 0 if image % 5 == 1 else int(rng.integers(1, 7))
        true, labels = boxes(rng, count), rng.integers(0, 2, count)
        ignored = rng.random(count) < 0.25
        near = np.repeat(true, 2, 0) + rng.normal(0, 3, (2 * count, 4))
        extra = boxes(rng, 130 if image == 3 else int(rng.integers(0, 5)))
        said = np.concatenate([near, extra]) if image != 4 else np.zeros((0, 4))
        said[:, 2:] = np.maximum(said[:, 2:], said[:, :2] + 1)
        classes = np.concatenate([np.repeat(labels, 2), rng.integers(0, 3, len(extra))])[: len(said)]
        order = np.argsort(rng.random(len(said)))
        scores = np.round(rng.random(len(said)), 1 if image % 2 else 6)
        pictures.append(Picture(120, 120, (1.0, 1.0), true, labels, ignored))
        found.append((said[order], scores[order], classes[order]))
    return pictures, found


def by_score(found: Found) -> Found:
    """pycocotools keeps the first of equal scores, so that it needs the order that the meter has."""
    said, scores, labels = found
    order = np.lexsort((*said[:, ::-1].T, -scores, labels))
    return said[order], scores[order], labels[order]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scores_are_pycocotools_in_any_order_and_over_ranks(seed: int) -> None:
    pictures, found = hostile(seed)
    expected = boxes_by_hand.scores(pictures, [by_score(one) for one in found], 3)
    assert 0 < expected["map"] < 1
    rng = np.random.default_rng(seed)
    ranks = [BoxScores(INFO, SCORES, True), BoxScores(INFO, SCORES, True), BoxScores(INFO, SCORES, True)]
    for row in rng.permutation(len(pictures)):
        order = rng.permutation(len(found[row][1]))
        ranks[int(rng.integers(2))].update(int(row), pictures[row], *(of[order] for of in found[row]))
    whole = ranks[2]
    for rank in ranks[:2]:
        whole.images += rank.images
        whole.said += rank.said
        whole.true += rank.true
    values = {name: float(value) for name, value in whole.compute().items()}
    assert {n: values[n] for n in SCORES} == pytest.approx(expected, abs=1e-12)
    counted = np.concatenate([p.labels[~p.ignored] for p in pictures])
    assert values["boxes/a"] == (counted == 0).sum() and "ap/c" not in values, "nobody has c"
    assert np.mean([values["ap/a"], values["ap/b"]]) == pytest.approx(values["map"])


def test_gold_against_gold_is_perfect_and_images_without_boxes_count() -> None:
    pictures, _ = hostile(3)
    perfect, spoiled = BoxScores(INFO), BoxScores(INFO)
    for row, picture in enumerate(pictures):
        gold = picture.boxes, np.ones(len(picture.labels)), picture.labels
        perfect.update(row, picture, *gold)
        empty = not len(picture.labels)
        wrong = (np.array([[1.0, 1, 30, 30]]), np.array([2.0]), np.array([0]))
        spoiled.update(row, picture, *(wrong if empty else gold))
    assert {n: float(v) for n, v in perfect.compute().items()} == dict.fromkeys(SCORES, 1.0)
    assert float(spoiled.compute()["map"]) < 1, "a detection on an image without boxes is wrong"


def test_without_a_true_box_scores_are_undefined() -> None:
    meter = BoxScores(INFO)
    assert all(math.isnan(v) for v in meter.compute().values())
    meter.update(0, Picture(9, 9, (1.0, 1.0), np.zeros((0, 4)), np.zeros(0), np.zeros(0)), *hostile(0)[1][0])
    assert all(math.isnan(v) for v in meter.compute().values())


@pytest.mark.parametrize("kind", ["fcos", "retinanet"])
def test_a_loss_is_torchvisions_of_one_image(kind: str) -> None:
    """The sum over images is that of each alone, whatever is beside it."""
    torch.manual_seed(0)
    network = TimmDetection(INFO, "test_resnet", kind=kind, width=64, convolutions=1).double().eval()
    x = {"image": torch.randn(3, 3, 64, 64).double()}
    y = torch.full((3, 2, 5), -1)
    y[0] = torch.tensor([[4, 5, 40, 44, 1], [20, 2, 60, 30, 2]]) * torch.tensor([FIXED] * 4 + [1])
    y[1, 0] = torch.tensor([8 * FIXED, 8 * FIXED, 30 * FIXED, 50 * FIXED, 0])
    task, output = make_task(INFO), network(x)
    loss = task.loss(output, {"y": y, "count": 3})
    assert loss.n == 3
    assert isinstance(output.reader, DenseReader)
    model = output.reader.model.train()
    alone = []
    for row in range(3):
        of = network({"image": x["image"][row : row + 1]})
        anchors = [output.reader.anchors(of.logits)]
        outputs = output.reader.outputs(output.reader.rows(of.logits)[0])
        target = [{"boxes": y[row][y[row, :, 4] >= 0, :4].double() / FIXED, "labels": y[row][y[row, :, 4] >= 0, 4]}]
        counts = [[side * side for side in output.reader.sides]] if kind == "fcos" else []
        alone.append(sum(model.compute_loss(target, outputs, anchors, *counts).values()))
    assert float(loss.total) == pytest.approx(float(sum(alone)), rel=1e-10)


def test_a_divergence_is_of_classes_and_of_boxes_where_an_object_is() -> None:
    task, softmax = make_task(INFO), make_task(TaskInfo("object_detection", 3, scheme="softmax"))
    one, other = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0)).double()
    said = [boxes_by_hand.Detected(r.numpy(), *[np.zeros(0)] * 3, 0.0) for r in (one, other)]
    assert float(task.divergence(one, other).mean()) == pytest.approx(boxes_by_hand.divergence(*said))
    assert float(task.same(one, other).mean()) == boxes_by_hand.agreement(*said)
    assert float(softmax.divergence(one, one).abs().max()) == 0.0
    moved = other.clone()
    moved[:, -4:] += 1
    there = other[:, :4].softmax(1)[:, :3].sum(1)
    assert softmax.divergence(moved, other).tolist() == pytest.approx((2 * there).tolist())


class Places:
    """Reads outputs as they are."""

    def places(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def rows(self, logits: torch.Tensor) -> torch.Tensor:
        return logits


def test_an_evaluation_compares_some_places_of_each_image_and_training_all() -> None:
    task, maps = make_task(INFO), torch.randn(2, 1000, 8)
    output = Output(maps, maps, reader=Places())  # type: ignore[arg-type]
    items: list[Items] = [
        task.items(output, {"count": 2, "train": train, "index": torch.tensor([4, 9])}) for train in (True, False)
    ]
    assert len(items[0].logits) == 2000 and len(items[1].logits) == 2 * COMPARED
    assert all(float(i.weights.sum()) == pytest.approx(2) and i.n == 2 for i in items if i.weights is not None)
    assert pick(4, 1000).tolist() != pick(9, 1000).tolist() and pick(4, 1000).unique().numel() == COMPARED
    nothing = task.items(output, {"count": 0, "train": True, "index": torch.tensor([4, 9])})
    assert nothing.n == 0 and not len(nothing.logits) and not len(nothing.features)


def test_a_detection_outside_the_file_is_none() -> None:
    """A file of 30×60 pixels fills the upper half of a square of 60; what is found below it has no area in the file."""

    class Finds(Places):
        def detections(self, logits: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
            boxes = torch.tensor([[5.0, 40, 20, 50], [5, 20, 20, 50], [70, 0, 90, 10]])
            return [(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 2]))]

    batch = {"count": 1, "index": torch.tensor([0]), "beside": [Picture(30, 60, (1.0, 1.0))]}
    maps = torch.zeros(1, 1, 8)
    (found,) = make_task(INFO).decode(Output(maps, maps, reader=Finds()), batch)  # type: ignore[arg-type]
    assert found == {"boxes": [[5.0, 20.0, 20.0, 30.0]], "scores": [0.8], "labels": ["b"]}


@pytest.mark.parametrize("seed", [0, 1])
def test_f1_of_an_image_is_that_of_pycocotools_matches(seed: int) -> None:
    pictures, found = hostile(seed)
    values = []
    for picture, one in zip(pictures, found, strict=True):
        boxes, scores, labels = by_score(one)
        boxes, scores, labels = boxes[:60], scores[:60], labels[:60]
        evaluation = boxes_by_hand.coco([picture], [(boxes, scores, labels)], 3)
        matches = [e for e in evaluation.evalImgs if e is not None and e["aRng"][1] > 1e9 and not e["aRng"][0]]
        right = sum(((e["dtMatches"][0] > 0) & ~e["dtIgnore"][0]).sum() for e in matches)
        counted = sum((~e["dtIgnore"][0]).sum() for e in matches) + (~picture.ignored).sum()
        values.append(2 * right / counted if counted else 1.0)
        assert f1_of(boxes, labels, picture) == pytest.approx(values[-1])
    assert 0 < np.mean(values) < 1
