"""Gradients written over a vocabulary's logits in training, with a variant of the user's own that reads these logits again."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from sft_lightning.anchors import by_rows, function_space, kl
from sft_lightning.core.structures import Batch, Items, Loss, Output
from sft_lightning.data import PlainText
from sft_lightning.modules import DistillSFT
from sft_lightning.networks import TransformersLM, spec
from sft_lightning.tasks import cross_entropy, next_token
from tests.data.text_files import write_text
from tests.exactness.cases import few_texts
from tests.networks.tiny import byte_bpe, tiny_folder
from tests.support import fit, moved, weights


class ReadsAgain(DistillSFT):
    """Compares teacher and student at two temperatures, and keeps the student's outputs."""

    kept: list[tuple[Tensor, Tensor]]

    def task_loss(self, batch: Batch, output: Output) -> Loss:
        self.kept = [(output.logits.detach(), output.logits.detach().clone())]
        return super().task_loss(batch, output)

    def distance(self, student: Items, teacher: Items) -> Tensor:
        return super().distance(student, teacher) + 0.5 * kl(student.logits, teacher.logits, 1.0)


class Compares(Callback):
    """Notes whether outputs are after a step what they were before."""

    def __init__(self) -> None:
        self.same: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.same += [torch.equal(one, other) for one, other in getattr(pl_module, "kept", [])]


@pytest.mark.parametrize("variant", [DistillSFT, ReadsAgain])
def test_a_variant_may_read_outputs_again(
    variant: type[DistillSFT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = byte_bpe(bos=True, pad="<pad>")
    folder = tiny_folder(tmp_path / "llama", "llama", "lm", tokenizer=words, vocab_size=len(words))
    text = write_text(tmp_path / "text.txt", "\n\n".join(few_texts(40, 1)))
    summed, over = cross_entropy.summed_cross_entropy, list[bool]()

    def noted(outputs: Tensor) -> bool:
        over.append(claims := by_rows.shared(outputs) is False and claim(outputs))
        return claims

    def trained(at_once: int) -> tuple[dict[str, Tensor], list[bool]]:
        monkeypatch.setattr(function_space, "AT_ONCE", at_once)
        monkeypatch.setattr(next_token, "summed_cross_entropy", lambda z, y: summed(z, y, at_once))
        module = variant(
            spec(TransformersLM, pretrained=folder, max_length=32), lr=1e-2, distance="kl", anchor_weight=0.5
        )
        data, compares = PlainText(train=text, val=text, batch_size=8, seed=0), Compares()
        fit(module, data, max_steps=3, limit_val_batches=0, callbacks=[compares])
        return weights(module), compares.same

    claim = by_rows.claim
    monkeypatch.setattr(by_rows, "claim", noted)
    monkeypatch.setattr(cross_entropy, "claim", noted)
    (found, same), (expected, _) = trained(600), trained(by_rows.AT_ONCE)
    assert moved(found, expected) < 1e-4 and all(same)
    if variant is DistillSFT:
        assert over == [True] * 6, "outputs that nobody reads again were not written over"
    else:
        assert same == [True] * 3 and not any(over)
