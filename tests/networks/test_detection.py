"""Detectors of libraries: their own outputs, losses and detections come back from the kept source head."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sft_lightning.core.structures import Output, TaskInfo
from sft_lightning.data.vision.boxed import fixed
from sft_lightning.networks import FasterRCNN, Network, TimmDetection, TorchvisionDetection, TransformersDetection
from sft_lightning.networks.dense_detection import anchors_of, halved, sides_of
from sft_lightning.networks.image_fit import refusal
from sft_lightning.tasks import make_task
from tests.networks.vision import tiny_detr
from tests.refused import refused

CELLS = TaskInfo("object_detection", 2, ["a", "b"])
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
TARGETS = [
    (torch.tensor([[4.0, 5, 40, 44], [20, 2, 60, 30]]), torch.tensor([1, 2])),
    (torch.tensor([[8.0, 8, 30, 50]]), torch.tensor([0])),
]


def of_source(output: Output, row: int) -> tuple[Tensor, Any]:
    assert output.source_logits is not None and output.reader is not None
    return output.source_logits[row : row + 1], output.reader


@pytest.mark.parametrize(
    "name",
    [
        "ssdlite320_mobilenet_v3_large",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("ssd300_vgg16", "fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2")
        ),
    ],
)
@torch.no_grad()
def test_torchvisions_own_outputs_losses_and_detections_are_those_of_the_source_head(name: str, tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    ssd = name.startswith("ssd")
    given = {"weights": None, "weights_backbone": None, "score_thresh": 0.0, "detections_per_img": 100}
    model: nn.Module = models.get_model(name, num_classes=5 + ssd, **given).eval()
    for parameter in model.head.parameters():  # type: ignore[union-attr]
        parameter.add_(torch.randn_like(parameter) * 0.02)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    network = TorchvisionDetection(CELLS, name, str(tmp_path / "model.pth"), score_threshold=0.0).eval()
    assert network.source_task is not None and network.source_task.num_outputs == 5
    seen = model.transform  # type: ignore[union-attr]
    assert network.input_spec.mean == tuple(seen.image_mean) and network.input_spec.std == tuple(seen.image_std)  # type: ignore[union-attr,arg-type]
    images = IMAGES if name != "ssd300_vgg16" else torch.nn.functional.interpolate(IMAGES, (300, 300))
    output = network({"image": images})
    for row in range(2):
        logits, reader = of_source(output, row)
        maps = list(model.backbone(images[row : row + 1]).values())  # type: ignore[operator]
        theirs, ours = model.head(maps), reader.outputs(reader.rows(logits)[0])  # type: ignore[operator]
        for part, of in theirs.items():
            torch.testing.assert_close(ours[part], of, rtol=1e-4, atol=1e-5)
        anchors = reader.anchors(logits)
        boxes, classes = TARGETS[row]
        target, more = [{"boxes": boxes, "labels": classes + ssd}], []
        if ssd:
            from torchvision.ops import box_iou

            more = [[model.proposal_matcher(box_iou(boxes, anchors))]]  # type: ignore[operator]
        elif name.startswith("fcos"):
            more = [[side * side for side in reader.sides]]
        loss = sum(model.compute_loss(target, theirs, [anchors], *more).values())  # type: ignore[operator]
        assert float(reader.losses(logits, [TARGETS[row]])) == pytest.approx(float(loss), rel=1e-4)
    new = {n: p for n, p in network.head.named_parameters() if n.startswith("boxes.")}
    old = dict(network.source_head.named_parameters()) if network.source_head is not None else {}
    assert new and all(torch.equal(p, old[n]) for n, p in new.items()), "new box layers start from the pretrained ones"


def detr(folder: Path) -> Any:
    from transformers import AutoConfig, DetrConfig, DetrForObjectDetection

    del AutoConfig
    values = {n: v for n, v in tiny_detr(num_labels=4).items() if n != "model_type"}
    torch.manual_seed(0)
    model = DetrForObjectDetection(DetrConfig(**values)).eval()
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def test_detrs_own_outputs_and_losses_are_those_of_the_source_head(tmp_path: Path) -> None:
    model = detr(tmp_path)
    network = TransformersDetection(CELLS, str(tmp_path), score_threshold=0.0).eval()
    sizes = torch.tensor([[64, 64], [48, 64]])
    mask = torch.ones(2, 64, 64).long()
    mask[1, 48:] = 0
    output = network({"image": IMAGES, "size": sizes})
    for row in range(2):
        boxes, classes = TARGETS[row]
        scale = sizes[row].flip(0).repeat(2)
        shares = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / scale
        labels = [{"class_labels": classes, "boxes": shares}]
        theirs = model(IMAGES[row : row + 1], pixel_mask=mask[row : row + 1], labels=labels)
        logits, reader = of_source(output, row)
        torch.testing.assert_close(logits[..., :-4], theirs.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[..., -4:], theirs.pred_boxes, rtol=1e-4, atol=1e-5)
        loss = type(reader)(sizes[row : row + 1], reader.config, 0.0).losses(logits, [TARGETS[row]])
        assert float(loss) == pytest.approx(float(theirs.loss), rel=1e-4)
    assert network.source_task is not None and network.source_task.scheme == network.task.scheme == "softmax"
    corners, scores, _ = output.reader.detections(output.logits)[1]  # type: ignore[union-attr]
    assert scores.tolist() == sorted(scores.tolist(), reverse=True) and len(corners) == 5
    with torch.autocast("cpu", torch.bfloat16):
        half = network({"image": IMAGES, "size": sizes})
    exact = network.head(half.features.float())[..., -4:]
    torch.testing.assert_close(half.logits[..., -4:], exact, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_faster_rcnns_detections_are_torchvisions_and_its_loss_draws_no_random_number(tmp_path: Path) -> None:
    from torchvision import models
    from torchvision.models.detection.image_list import ImageList

    torch.manual_seed(0)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    tops = {f"rpn_{when}_nms_top_n_test": 8 for when in ("pre", "post")}
    given = {"weights": None, "weights_backbone": None, "box_score_thresh": 0.0, "box_detections_per_img": 100, **tops}
    model: Any = models.get_model(name, num_classes=6, **given).eval()
    for parameter in (*model.roi_heads.box_predictor.parameters(), *model.rpn.parameters()):
        parameter.add_(torch.randn_like(parameter) * 0.05)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    network = FasterRCNN(CELLS, name, str(tmp_path / "model.pth"), proposals=8, score_threshold=0.0).eval()
    assert network.source_task is not None and network.source_task.num_outputs == 5
    output = network({"image": IMAGES})
    assert output.source_logits is not None and output.reader is not None
    ours = output.reader.detections(output.source_logits)
    sizes = [(64, 64)] * 2
    maps = model.backbone(IMAGES)
    proposals, _ = model.rpn(ImageList(IMAGES, sizes), maps)
    theirs, _ = model.roi_heads(maps, proposals, sizes)
    for (boxes, scores, labels), found in zip(ours, theirs, strict=True):
        torch.testing.assert_close(boxes, found["boxes"], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(scores, found["scores"], rtol=1e-3, atol=1e-5)
        assert torch.equal(labels, found["labels"] - 1)
    before, network = torch.get_rng_state(), network.double()
    exact, targets = IMAGES.double(), [(boxes.double(), classes) for boxes, classes in TARGETS]
    output = network({"image": exact})
    both = output.reader.losses(output.source_logits, targets)  # type: ignore[union-attr, arg-type]
    assert torch.equal(before, torch.get_rng_state())
    assert both.isfinite().all() and (both > 0).all()
    for row in range(2):
        alone = network({"image": exact[row : row + 1]})
        loss = alone.reader.losses(alone.source_logits, targets[row : row + 1])  # type: ignore[union-attr, arg-type]
        assert float(loss) == pytest.approx(float(both[row]), rel=1e-9), "an image's loss depends on those beside it"
    assert output.reader is not None
    nothing = torch.zeros(0, 4).double(), torch.zeros(0, dtype=torch.int64)
    assert output.reader.losses(output.logits, [nothing, nothing]).isfinite().all()


def test_faster_rcnns_candidates_do_not_depend_on_what_was_seen_before() -> None:
    """A pass on the meta device, which checks an image's size, and one in half precision leave nothing behind."""
    torch.manual_seed(0)
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    network = FasterRCNN(TaskInfo("object_detection", 3, ["a", "b", "c"]), name, proposals=8).eval()
    before = network({"image": IMAGES}).reader
    assert refusal(network, (3, 64, 64)) is None
    with torch.autocast("cpu", torch.bfloat16):
        half = network({"image": IMAGES}).reader.found.regions  # type: ignore[union-attr]
    assert half.dtype == torch.float32
    after = network({"image": IMAGES})
    assert torch.equal(before.found.regions, after.reader.found.regions)  # type: ignore[union-attr]
    after.reader.losses(after.logits, TARGETS).sum().backward()  # type: ignore[union-attr, arg-type]
    like = torch.zeros(1, dtype=torch.bfloat16)
    generator: Any = network._model[0].rpn.anchor_generator
    exact = anchors_of(generator, 512, [32] * len(generator.sizes), like)
    assert exact.dtype == torch.float32 and exact[-1].tolist() != exact.bfloat16()[-1].tolist()


@pytest.mark.parametrize("cls", [TimmDetection, TransformersDetection, FasterRCNN])
def test_a_loss_of_outputs_that_are_no_numbers_is_no_number(cls: type[Network]) -> None:
    """With and without boxes, so that the run ends and says why."""
    made: dict[str, Any] = {"name": "test_resnet", "width": 64, "convolutions": 1}
    if cls is FasterRCNN:
        made = {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "proposals": 8}
    three = TaskInfo("object_detection", 3, ["a", "b", "c"])
    network = cls(three, **({"config": tiny_detr()} if cls is TransformersDetection else made)).eval()
    with torch.no_grad():
        output = network({"image": IMAGES})
        nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
        assert output.reader is not None
        spoiled = output.reader.losses(output.logits * float("nan"), [TARGETS[0], nothing])
        assert spoiled.isnan().all()
        assert output.reader.losses(output.logits, [TARGETS[0], nothing]).isfinite().all()


def reached(network: Network, images: int, proposed: bool = True) -> set[str]:
    """Names of the parameters that get a gradient from a batch in which some images count."""
    network.zero_grad()
    output = network({"image": IMAGES}, torch.arange(2) < images)
    if not proposed:
        output.reader.found.there.fill_(False)  # type: ignore[union-attr]
    y = fixed([(boxes.numpy(), classes.numpy()) for boxes, classes in TARGETS][:images])
    loss = make_task(network.task).loss(output, {"count": images, "y": y, "x": {}})
    assert loss.n == images
    loss.total.backward()
    return {name for name, parameter in network.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("cls", [TimmDetection, TransformersDetection, FasterRCNN])
def test_all_layers_get_a_gradient_where_no_image_counts_or_no_region_is_proposed(cls: type[Network]) -> None:
    """DDP waits for ever for a layer that has a gradient on one rank and none on another."""
    made: dict[str, Any] = {"name": "test_resnet", "width": 64, "convolutions": 1}
    if cls is FasterRCNN:
        made = {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "proposals": 8}
    three = TaskInfo("object_detection", 3, ["a", "b", "c"])
    network = cls(three, **({"config": tiny_detr()} if cls is TransformersDetection else made)).eval()
    every = reached(network, 2)
    assert reached(network, 0) == every
    if cls is FasterRCNN:
        assert reached(network, 2, proposed=False) == every


@pytest.mark.parametrize("cls", [TimmDetection, TransformersDetection, FasterRCNN])
def test_a_second_tuning_starts_with_the_first_ones_head_as_source_head(cls: type[Network], tmp_path: Path) -> None:
    made: dict[str, Any] = {"name": "test_resnet", "width": 64, "convolutions": 1}
    if cls is FasterRCNN:
        made = {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "proposals": 8}
    given = {"config": tiny_detr()} if cls is TransformersDetection else made
    torch.manual_seed(0)
    first = cls(CELLS, **given).eval()
    first.save_pretrained(str(tmp_path))
    more = {} if cls is TransformersDetection else made
    second = cls(TaskInfo("object_detection", 1, ["c"]), pretrained=str(tmp_path), **more).eval()
    assert second.source_task == TaskInfo("object_detection", 2, ["a", "b"], scheme=first.task.scheme)
    with torch.no_grad():
        one, other = (net({"image": IMAGES}) for net in (first, second))
    assert other.source_logits is not None and torch.equal(one.logits, other.source_logits)
    assert not any(p.requires_grad for p in second.source_head.parameters())  # type: ignore[union-attr]
    assert not second.fresh and second.pretrained_features


def test_classes_of_images_are_not_kept_and_new_layers_lie_above_the_backbone(tmp_path: Path) -> None:
    import timm

    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), tmp_path / "backbone.pth")
    network = TimmDetection(CELLS, "test_resnet", str(tmp_path / "backbone.pth"), width=64, convolutions=1)
    assert network.source_head is None and "of images, not of boxes" in " ".join(network.report.lines())
    shared, new = network.shared_parameters(), network.new_parameters()
    assert all(n.startswith("encoder.backbone.body.") for n in shared) and len(shared) > 10
    assert any(n.startswith("encoder.backbone.fpn.") for n in new) and any(n.startswith("head.") for n in new)
    below = network({"image": IMAGES}).pretrained_features
    assert below.ndim == 3 and below.shape[1] == 4, "the smallest map, of 2×2 places, enters the pyramid first"
    items = make_task(CELLS).items(network({"image": IMAGES}), {"count": 2, "train": True, "index": torch.arange(2)})
    assert items.weights is not None and len(items.features) == 8 and float(items.weights.sum()) == pytest.approx(2)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 38])
def test_the_sides_of_maps_follow_from_the_number_of_places(side: int) -> None:
    sides = halved(side, 5)
    assert sides_of(sum(n * n for n in sides), 5) == sides


def test_what_cannot_be_built_is_refused() -> None:
    with refused("network.name", "fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn"):
        TorchvisionDetection(CELLS, "fasterrcnn_resnet50_fpn")
    with refused("network.name", "maps of 3 sizes"):
        TimmDetection(CELLS, "test_vit")
    with refused("network.width", "multiple of 32"):
        TimmDetection(CELLS, "test_resnet", width=40)
    with refused("network", "rt_detr", "detr"):
        TransformersDetection(CELLS, config={"model_type": "rt_detr", "backbone_config": None})
