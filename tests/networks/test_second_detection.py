"""Detectors tuned a second time: `keep_source_head: source` keeps the head that the first tuning kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import FasterRCNN, Network, TimmDetection, TorchvisionDetection, TransformersDetection, spec
from tests.exactness.cases import CASES
from tests.networks.test_detection import CELLS, IMAGES
from tests.networks.vision import tiny_detr
from tests.refused import refused
from tests.support import quiet_trainer

KEPT: dict[str, tuple[type[Network], dict[str, Any], dict[str, Any]]] = {
    "timm": (TimmDetection, {"name": "test_resnet", "width": 64, "convolutions": 1}, {"kind": "retinanet"}),
    "ssdlite": (TorchvisionDetection, {"name": "ssdlite320_mobilenet_v3_large"}, {}),
    "faster": (FasterRCNN, {"name": "fasterrcnn_mobilenet_v3_large_320_fpn", "proposals": 8}, {}),
    "detr": (TransformersDetection, {"config": tiny_detr()}, {}),
}


@pytest.mark.parametrize("kind", [n if n == "detr" else pytest.param(n, marks=pytest.mark.slow) for n in KEPT])
@torch.no_grad()
def test_a_second_tuning_keeps_the_head_that_the_first_one_kept(kind: str, tmp_path: Path) -> None:
    cls, arguments, other = KEPT[kind]
    torch.manual_seed(0)
    old = TaskInfo("object_detection", 3, ["x", "y", "z"])
    cls(old, **arguments).save_pretrained(str(tmp_path / "old"))  # type: ignore[arg-type]
    arguments = {n: v for n, v in arguments.items() if n != "config"}
    first: Any = cls(CELLS, **arguments, pretrained=str(tmp_path / "old")).eval()  # type: ignore[arg-type]
    for parameter in first.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.01)  # as if it had been trained
    first.save_pretrained(str(tmp_path / "new"))
    four = TaskInfo("object_detection", 4, list("pqrs"))
    given = {**arguments, "pretrained": str(tmp_path / "new")}
    kept: Any = cls(four, **given, keep_source_head="source").eval()
    default: Any = cls(four, **given).eval()
    expected = first({"image": IMAGES})
    torch.testing.assert_close(kept({"image": IMAGES}).source_logits, expected.source_logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(default({"image": IMAGES}).source_logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert kept.source_labels == ["x", "y", "z"] and kept.source_task == first.source_task
    assert default.source_labels == ["a", "b"] and not any(p.requires_grad for p in kept.source_head.parameters())
    if kind != "faster":  # whose boxes are of classes
        boxes = dict(first.head.boxes.named_parameters())
        assert all(torch.equal(p, boxes[n]) for n, p in kept.head.boxes.named_parameters()), (
            "boxes start from the export"
        )
    notes = [note for note in kept.report.notes if note.startswith("the source head has")]
    assert len(notes) == 1 and notes[0].startswith("the source head has 3 classes")
    if other:
        cls(CELLS, **{**arguments, **other}).save_pretrained(str(tmp_path / "other"))  # type: ignore[arg-type]
        for name in ("source_head.safetensors", "source_head.json"):
            (tmp_path / "other" / name).write_bytes((tmp_path / "new" / name).read_bytes())
        with refused("network.keep_source_head", "source_head.safetensors", "another network's features"):
            cls(four, **{**given, **other, "pretrained": str(tmp_path / "other")}, keep_source_head="source")
    with refused("network.keep_source_head", "has none", "use true"):
        cls(four, **{**given, "pretrained": str(tmp_path / "old")}, keep_source_head="source")
    with refused("network.keep_source_head", "'both'"):
        cls(four, **given, keep_source_head="both")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["timm", "detr"])
def test_retention_before_a_second_tuning_is_that_after_the_first(kind: str, tmp_path: Path) -> None:
    """The source loss, as the source mAP of networks this small is 0."""
    case = CASES["images with boxes"]
    if kind == "timm":
        network = case.network(case.pretrain(tmp_path / "old"))
    else:
        torch.manual_seed(0)
        old = TaskInfo("object_detection", 3, ["old0", "old1", "old2"])
        TransformersDetection(old, config=tiny_detr()).save_pretrained(str(tmp_path / "old"))
        network = spec(TransformersDetection, pretrained=str(tmp_path / "old"))
    assert case.source is not None
    values = []
    for number, labels in enumerate((("a", "b", "c"), ("p", "q", "r", "s"))):
        if number:
            network["init_args"] |= {"pretrained": str(tmp_path / "first"), "keep_source_head": "source"}
        monitor = RetentionMonitor(case.source(sizes=(8, 8, 8)))
        module = PlainSFT(network, lr=0.01, freeze_batchnorm_stats=True)
        trainer = quiet_trainer(max_epochs=1, callbacks=[monitor])
        torch.manual_seed(number)
        trainer.fit(module, case.data(sizes=(16, 8, 8), labels=labels))
        values.append((monitor.before["retention/loss"], float(trainer.callback_metrics["retention/loss"])))
        assert module.network is not None and module.network.source_labels == ["old0", "old1", "old2"]
        module.network.save_pretrained(str(tmp_path / "first"))
    (start, first), (again, second) = values
    assert again == pytest.approx(first, rel=1e-5) and start != pytest.approx(first, rel=1e-3)
    assert second != pytest.approx(again, rel=1e-3), "nothing was trained"
