"""DETR's losses of the decoder's other layers are those of transformers, and are refused where there are none."""

from pathlib import Path

import pytest
import torch

from sft_lightning.networks import TransformersDetection
from tests.networks.test_detection import CELLS, IMAGES, TARGETS
from tests.networks.vision import tiny_detr, tiny_yolos
from tests.refused import refused

WEIGHTS = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}


@pytest.mark.parametrize("kind", ["detr", "table-transformer"])
@torch.no_grad()
def test_auxiliary_losses_are_transformers_own_with_labels(kind: str, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForObjectDetection

    torch.manual_seed(0)
    values = tiny_detr(num_labels=4, decoder_layers=3, auxiliary_loss=True) | {"model_type": kind}
    config = AutoConfig.for_model(kind, **{n: v for n, v in values.items() if n != "model_type"})
    model = AutoModelForObjectDetection.from_config(config).eval()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)  # norms that do nothing would hide one that is left out
    model.save_pretrained(tmp_path)
    network = TransformersDetection(CELLS, str(tmp_path), score_threshold=0.0).eval()
    sizes = torch.tensor([[64, 64], [64, 64]])
    output = network({"image": IMAGES, "size": sizes})
    assert output.features.shape == (2, 15, 16) and output.reader is not None and output.source_logits is not None
    for row in range(2):
        boxes, classes = TARGETS[row]
        shares = torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1) / 64
        labels = [{"class_labels": classes, "boxes": shares}]
        theirs = model(IMAGES[row : row + 1], pixel_mask=torch.ones(1, 64, 64).long(), labels=labels)
        logits = output.source_logits[row : row + 1]
        reader = type(output.reader)(sizes[row : row + 1], output.reader.config, 0.0, 5)  # type: ignore[call-arg,attr-defined]
        rows = reader.rows(logits)
        torch.testing.assert_close(rows[..., :-4], theirs.logits, rtol=1e-4, atol=1e-5)
        loss = reader.losses(logits, [TARGETS[row]])
        assert float(loss) == pytest.approx(float(theirs.loss), rel=1e-4)
        last = reader.losses(rows, [TARGETS[row]])
        assert float(last) == pytest.approx(sum(float(theirs.loss_dict[n]) * w for n, w in WEIGHTS.items()), rel=1e-4)
    reader = output.reader
    assert reader.places(output.features).shape == (2, 5, 16) and reader.rows(output.logits).shape == (2, 5, 7)
    network.save_pretrained(str(tmp_path / "new"))
    again = TransformersDetection(CELLS, str(tmp_path / "new")).eval()
    assert again.auxiliary and again({"image": IMAGES}).features.shape == (2, 15, 16)


def test_auxiliary_losses_are_refused_where_they_have_no_effect_and_what_they_change_is_said(tmp_path: Path) -> None:
    with refused("network.auxiliary_loss", "one layer"):
        TransformersDetection(CELLS, config=tiny_detr(), auxiliary_loss=True)
    with refused("network.auxiliary_loss", "yolos", "no decoder"):
        TransformersDetection(CELLS, config=tiny_yolos(), auxiliary_loss=True)
    two = tiny_detr(decoder_layers=2)
    assert TransformersDetection(CELLS, config=two, auxiliary_loss=True).report.notes == []
    TransformersDetection(CELLS, config=two).save_pretrained(str(tmp_path))
    notes = TransformersDetection(CELLS, str(tmp_path), auxiliary_loss=True).report.notes
    assert any("auxiliary_loss" in note and "normalised" in note for note in notes)
