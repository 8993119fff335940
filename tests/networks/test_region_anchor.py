"""The anchor of Faster R-CNN: both networks look at the teacher's proposals, each in its own features."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sft_lightning.modules import DistillSFT
from sft_lightning.networks import FasterRCNN, region_reader, spec
from tests.networks.test_detection import CELLS, IMAGES

NAMES_OF_PARTS = {
    "encoder.backbone.": "backbone.",
    "encoder.rpn.": "rpn.head.",
    "encoder.box_head.": "roi_heads.box_head.",
    "source_head.classes.": "roi_heads.box_predictor.cls_score.",
    "source_head.boxes.": "roi_heads.box_predictor.bbox_pred.",
}
"""Where torchvision's model has what a FasterRCNN has"""


def test_faster_rcnns_anchor_is_a_loop_over_the_teachers_proposals_with_torchvisions_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import models
    from torchvision.models.detection.image_list import ImageList

    torch.manual_seed(0)
    name, most, compared = "fasterrcnn_mobilenet_v3_large_320_fpn", 64, 24
    monkeypatch.setattr(region_reader, "COMPARED", compared)
    tops = {f"rpn_{when}_nms_top_n_test": most for when in ("pre", "post")}
    teacher, student = (
        models.get_model(name, num_classes=4, weights=None, weights_backbone=None, **tops).double().eval()
        for _ in range(2)
    )
    with torch.no_grad():
        for parameter in (*teacher.roi_heads.box_predictor.parameters(), *teacher.rpn.parameters()):
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for norm in (m for m in teacher.backbone.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.momentum = 1.0
        teacher.backbone.train()(torch.cat([IMAGES, -IMAGES]).double())  # so that random layers do not fade out
        teacher.eval()
    torch.save(teacher.float().state_dict(), tmp_path / "model.pth")
    teacher.double()
    made = {"name": name, "pretrained": str(tmp_path / "model.pth"), "proposals": most}
    module = DistillSFT(
        spec(FasterRCNN, **made),
        task=CELLS.to_dict(),
        on="source_logits",
        distance="kl",
        anchor_weight=0.5,
        temperature=1.0,
    )
    module.configure_model()
    module.double().eval().move_teacher()
    network, exact = module.network, IMAGES.double()
    assert network is not None
    batch: Any = {"x": {"image": exact}, "count": 2, "train": True, "index": torch.arange(2)}
    with torch.no_grad():
        assert float(module.anchor_loss(batch, module.output(batch))) == 0.0, "both look at the same boxes"  # type: ignore[arg-type]
        for parameter in network.encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02 * parameter.std(unbiased=False))
    theirs = {part + n.removeprefix(own): v for n, v in network.state_dict().items() for own, part in NAMES_OF_PARTS.items()
              if n.startswith(own)}  # fmt: skip
    student.load_state_dict(theirs)

    sizes, expected = [(64, 64)] * 2, 0.0
    with torch.no_grad():
        proposals, _ = teacher.rpn(ImageList(exact, sizes), teacher.backbone(exact))
        assert min(map(len, proposals)) > compared, "the best ones are a part"
        for at in range(2):
            said = []
            for model in (student, teacher):
                maps, heads = model.backbone(exact[at : at + 1]), model.roi_heads
                features = heads.box_head(heads.box_roi_pool(maps, [proposals[at][:compared]], sizes[:1]))
                said.append(heads.box_predictor(features))
            (mine, my_boxes), (others, their_boxes) = said
            for region in range(len(mine)):
                p, log_q = others[region].softmax(0), mine[region].log_softmax(0)
                expected += float((p * (p.log() - log_q)).sum())
                for k in range(1, 4):  # 0 is no object
                    moved = my_boxes[region, 4 * k : 4 * k + 4] - their_boxes[region, 4 * k : 4 * k + 4]
                    expected += float(p[k] * 0.5 * moved.square().sum())
    found = module.anchor_loss(batch, module.output(batch))
    assert found is not None and float(found) == pytest.approx(0.5 * expected, rel=1e-9) and expected > 0.1
    found.backward()
    moved_by = {n.split(".")[1] for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert moved_by == {"backbone", "box_head"}, "the proposals themselves are not differentiated"
    parts = [{**batch, "x": {"image": exact[at : at + 1]}, "count": 1} for at in range(2)]
    alone = sum(float(module.anchor_loss(part, module.output(part))) for part in parts)  # type: ignore[arg-type]
    assert alone == pytest.approx(float(found), rel=1e-9), "an image's anchor depends on those beside it"
    nothing = {**batch, "count": 0, "real": torch.tensor([False, False])}
    assert float(module.anchor_loss(nothing, module.output(nothing))) == 0.0  # type: ignore[arg-type]
