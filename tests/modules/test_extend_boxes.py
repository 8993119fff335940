"""New classes for a detector: its head, the loss of what an image is annotated for, the anchor, scores, the export."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Extend
from sft_lightning.modules import ExtendSFT, PlainSFT
from sft_lightning.networks import build_network
from sft_lightning.networks.dense_detection import DenseHead
from sft_lightning.networks.joint_boxes import JointConv, can_join
from sft_lightning.tasks import make_task
from sft_lightning.tasks.box_groups import OldAndNewBoxes
from sft_lightning.tasks.box_scores import BoxScores, Picture
from sft_lightning.tasks.object_detection import detections, numbers, pictures, targets
from tests.exactness.cases import FewBoxes, case_of, folder_of
from tests.refused import refused
from tests.support import Recorder, fit, settle, weights

CASE = "old and new boxes"
OLD, NEW = ["old0", "old1", "old2"], ["a", "b", "c"]
KNOWN = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("boxes")


def tuned(root: Path, cls: Any = ExtendSFT, **settings: Any) -> Any:
    """(module, recorder, data, trainer) after two steps of six images in double precision."""
    recorder, data = Recorder(), case_of(CASE).data(sizes=(15, 10, 10), batch_size=6)
    if cls is ExtendSFT:
        settings = {"distance": "kl", "temperature": 1.0, **settings}
    own = {"lr": 1e-2, "optimizer": "SGD", "freeze_batchnorm_stats": True}
    module = cls(case_of(CASE).network(folder_of(CASE, root)), **{**own, **settings})
    exact: dict[str, Any] = {"max_steps": 2, "limit_val_batches": 0, "precision": "64-true"}
    return module, recorder, data, fit(module, data, callbacks=[recorder], **exact)


def few(labels: list[str], count: int = 12) -> FewBoxes:
    return FewBoxes((count, 6, 6), labels, batch_size=32, seed=None)


@pytest.mark.parametrize("each", [1, 3])
def test_joint_class_outputs_are_the_old_ones_and_then_the_new_ones_of_each_candidate(each: int) -> None:
    torch.manual_seed(0)
    old, fresh = nn.Conv2d(4, each * 2, 3, padding=1), nn.Conv2d(4, each * 5, 3, padding=1)
    joint, maps = JointConv(old, fresh, each), torch.randn(2, 4, 5, 5)
    said = joint(maps).unflatten(1, (each, 5))
    torch.testing.assert_close(said[:, :, :2], old(maps).unflatten(1, (each, 2)))
    torch.testing.assert_close(said[:, :, 2:], fresh(maps).unflatten(1, (each, 5))[:, :, 2:])
    torch.testing.assert_close(joint.plain()(maps), joint(maps))


def test_a_softmax_over_classes_cannot_be_joined() -> None:
    conv = nn.Conv2d(4, 3, 3)
    heads = {kind: DenseHead(conv, nn.Conv2d(4, 4, 3), None, [1], kind) for kind in ("retinanet", "ssd")}
    assert can_join(heads["retinanet"]) and not can_join(heads["ssd"]) and not can_join(nn.Linear(4, 3))


@pytest.mark.slow
def test_the_head_starts_as_the_pretrained_one_beside_fresh_classes(root: Path) -> None:
    data = case_of(CASE).data()
    data.setup()
    assert (data.task_info.labels, data.task_info.known) == (OLD + NEW, KNOWN)
    network = build_network(case_of(CASE).network(folder_of(CASE, root)), data.task_info)
    head, source = network.head, network.source_head
    assert torch.equal(head.classes.old.weight, source.classes.weight) and torch.equal(
        head.boxes.weight, source.boxes.weight
    )
    sets = network.parameter_sets()
    assert sets["new"].keys() == {"head.classes.new.weight", "head.classes.new.bias"}
    assert {"head.classes.old.weight", "head.boxes.weight", "head.centred.bias"} <= sets["shared"].keys()


def test_the_loss_of_an_image_is_that_of_a_detector_of_the_covered_classes_alone(root: Path) -> None:
    module, recorder, _, _ = tuned(root, loss_over="own", anchor_weight=0.0)
    batch = recorder.batches[1]
    old = ~batch["covered"][:, KNOWN:].any(1)
    assert old.any() and not old.all()
    output = module.output(batch)
    logits = output.logits.detach().requires_grad_()
    found = module.task_loss(batch, output._replace(logits=logits))
    found.total.backward()
    rows = output.reader.rows(logits.detach())
    expected, slopes = 0.0, torch.zeros_like(rows)
    for at, (boxes, classes) in enumerate(targets(batch["y"], rows.dtype)):
        mine = [*(range(KNOWN) if old[at] else range(KNOWN, 6)), *range(6, rows.shape[-1])]
        row = rows[at, :, mine].clone().requires_grad_()
        parts = output.reader.loss(row, boxes, classes - (0 if old[at] else KNOWN), output.reader.anchors(rows))
        loss = sum(parts.values(), row.new_zeros(()))
        loss.backward()
        expected += float(loss)
        slopes[at, :, mine] = row.grad
    assert found.n == 6 and float(found.total) == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(output.reader.rows(logits.grad), slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_the_anchor_compares_old_classes_and_boxes_at_all_places_and_is_zero_at_the_start(root: Path) -> None:
    for on in ("all", "old", "new"):
        module, recorder, _, _ = tuned(root, anchor_weight=0.7, anchor_on=on)
        assert recorder.logged[0]["train/loss_anchor"] == 0.0 < recorder.logged[1]["train/loss_anchor"]
        batch = recorder.batches[1]
        output, teacher = module.output(batch), module.teacher_output(batch)
        task = make_task(TaskInfo("object_detection", KNOWN, OLD))
        keep = [*range(KNOWN), *range(6, 11)]
        pair = [one.reader.rows(one.logits)[..., keep] for one in (output, teacher)]
        old = ~batch["covered"][:, KNOWN:].any(1)
        chosen = {"all": torch.ones_like(old), "old": old, "new": ~old}[on]
        each = task.divergence(*(one[chosen].flatten(0, 1) for one in pair))
        assert each is not None
        torch.testing.assert_close(module.anchor_loss(batch, output), 0.7 * each.sum())


@pytest.mark.slow
def test_without_anchor_and_over_all_classes_it_is_plain_fine_tuning(root: Path) -> None:
    plain, none = (
        tuned(root, PlainSFT)[0],
        tuned(root, loss_over="all", anchor_weight=0.0, distance="mse", temperature=2.0)[0],
    )
    assert all(torch.equal(v, weights(none)[n]) for n, v in weights(plain).items())


def test_boxes_keep_their_image_and_get_the_joint_classes(root: Path) -> None:
    new, old = few(["a", "old1", "b"]), few(OLD)
    data = Extend(new, old, rehearse="all", batch_size=8, seed=0)
    data.setup()
    settle(data, build_network(case_of(CASE).network(folder_of(CASE, root)), data.task_info))
    assert data.task_info is not None and data.task_info.labels == [*OLD, "a", "b"]
    samples = data.splits["val"].samples
    for part, table in ((new, [3, 1, 4]), (old, [0, 1, 2])):
        split = part.splits["val"]
        start = 0 if part is new else len(split.samples)
        for row in split.rows.tolist():
            theirs, mine = split.samples.beside([row])[0], samples.beside([row + start])[0]
            assert np.array_equal(mine.labels, np.array(table)[theirs.labels]) and np.array_equal(
                mine.boxes, theirs.boxes
            )
    assert samples.covers.tolist() == [[0, 1, 0, 1, 1], [1, 1, 1, 0, 0]]


def test_some_images_with_each_old_class_are_rehearsed() -> None:
    class Seen(FewBoxes):
        """Whose last class, which nobody has, is left out."""

        def load(self) -> Any:
            loaded = super().load()
            loaded.labels = loaded.labels[:-1]
            return loaded

    old = Seen((12, 6, 6), OLD, batch_size=32, seed=None)
    data = Extend(few(NEW), old, known=OLD, rehearse=2, batch_size=8, seed=0)
    data.setup()
    split = data.splits["train"]
    chosen = [old.splits["train"].samples.classes_in(int(row) - 12) for row in split.rows if row >= 12]
    assert all(sum(label in of for of in chosen) >= 2 for label in (0, 1)) and len(chosen) <= 4
    with refused("data.rehearse", "'old2'"):
        Extend(few(NEW), few(OLD), rehearse=2, batch_size=8, seed=0).setup()


@pytest.mark.slow
def test_scores_of_old_classes_are_those_on_old_images_alone(root: Path) -> None:
    module, _, data, _ = tuned(root, PlainSFT, lr=0.03)
    module.float().eval()
    task = make_task(data.task_info)
    meter = task.make_metrics(final=True)["boxes"]
    alone = {name: BoxScores(TaskInfo("object_detection", 6, OLD + NEW), ["map"], True) for name in ("old", "new")}
    for raw in data.loader("test", 0, 1):
        batch = data.receive(raw)
        output = module.network(batch["x"], task.select(batch))
        task.update(meter, output, batch)
        for at, one in enumerate(zip(numbers(batch), pictures(batch), detections(output, batch), strict=True)):
            row, picture, (boxes, scores, classes) = one
            name = "old" if batch["covered"][at, 0] else "new"
            kept = (classes < KNOWN) == (name == "old")
            alone[name].update(row, picture, boxes[kept], scores[kept], classes[kept])
    found = {n: float(v) for n, v in meter.compute().items()}
    for name, one in alone.items():
        theirs = one.compute()
        assert found[f"map_{name}"] == pytest.approx(float(theirs["map"])) and found[f"map_{name}"] > 0
        assert found[f"boxes_{name}"] == sum(float(v) for n, v in theirs.items() if n.startswith("boxes/"))
    assert found["harmonic"] == pytest.approx(2 / (1 / found["map_old"] + 1 / found["map_new"]))


def share(one: list[float], other: list[float]) -> float:
    """IoU of two boxes."""
    wide, high = (max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return wide * high / (sum(areas) - wide * high)


def test_boxes_of_old_classes_that_are_taken_for_new_ones_are_counted_one_by_one() -> None:
    random, meter = np.random.default_rng(0), OldAndNewBoxes(TaskInfo("object_detection", 5, list("abcde"), known=2))
    expected, numbers_of = [0, 0], [0, 0]
    for row in range(30):
        corners = random.uniform(0, 60, (row % 4, 2))
        true = np.hstack([corners, corners + random.uniform(10, 30, corners.shape)])
        classes, ignored = random.integers(0, 5, len(true)), random.random(len(true)) < 0.2
        said = np.repeat(true, 4, 0) + random.normal(0, 3, (4 * len(true), 4))
        scores, labels = random.random(len(said)).round(1), random.integers(0, 5, len(said))
        picture = Picture(100, 100, (1.0, 1.0), true, classes, ignored)
        meter.update(row, picture, said, scores, labels, counts=labels < 2)  # annotated for old classes alone
        for box, cls, left_out in zip(true.tolist(), classes, ignored, strict=True):
            if left_out:
                continue
            new = int(cls >= 2)
            numbers_of[new] += 1
            best = [-1.0, -1.0]
            for other, score, label in zip(said.tolist(), scores, labels, strict=True):
                if share(box, other) >= 0.5:
                    best[int(label >= 2)] = max(best[int(label >= 2)], score)
            expected[new] += best[1 - new] > best[new]
    found = {n: float(v) for n, v in meter.compute().items()}
    assert 0 < expected[0] < numbers_of[0] and 0 < expected[1] < numbers_of[1]
    assert [found["boxes_old"], found["boxes_new"]] == numbers_of
    shares = [crossed / number for crossed, number in zip(expected, numbers_of, strict=True)]
    assert [found["old_as_new"], found["new_as_old"]] == pytest.approx(shares)
    meter.reset()
    assert not meter.crossed.any()


@pytest.mark.slow
def test_the_export_is_one_ordinary_detector_that_can_be_extended_again(root: Path, tmp_path: Path) -> None:
    module, recorder, _, _ = tuned(root)
    network = module.float().network.eval()
    network.save_pretrained(str(tmp_path))
    again = build_network(case_of(CASE).network(str(tmp_path)), TaskInfo("object_detection", 6, OLD + NEW))
    assert again.source_labels == OLD + NEW and isinstance(network.head.classes, JointConv)
    again.head = again.source_head
    x = {n: v.float() if v.is_floating_point() else v for n, v in recorder.batches[0]["x"].items()}
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x).logits, network(x).logits)
    kept = case_of(CASE).network(str(tmp_path))
    kept["init_args"]["keep_source_head"] = "source"
    third = build_network(kept, TaskInfo("object_detection", 2, ["c", "d"]))
    with torch.no_grad():
        torch.testing.assert_close(third.eval()(x).source_logits, network(x).source_logits)


@pytest.mark.slow
def test_what_detectors_cannot_do_is_refused(root: Path) -> None:
    with refused("model.distance", "mse", "kl"):
        tuned(root, distance="mse", temperature=2.0)
    with refused("model.correction", "norms", "object_detection"):
        tuned(root, correction="norms")
