"""Token classifiers: the same logits as transformers' own, an export that transformers loads, a source head that is kept."""

from pathlib import Path

import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import TransformersTokens
from tests.networks.tiny import tiny_folder

OLD = TaskInfo("token_classification", 3, ["O", "B-a", "I-a"])
NEW = TaskInfo("token_classification", 5, ["O", "B-b", "I-b", "B-c", "I-c"])
IDS = torch.tensor([[2, 40, 41, 42, 3], [2, 50, 3, 0, 0]])
X = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
SELECT = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 0, 0, 0]]).bool()


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@torch.no_grad()
def test_an_export_is_a_token_classifier_of_transformers_and_keeps_its_head_as_source(
    tmp_path: Path, kind: str
) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    first = TransformersTokens(OLD, pretrained=tiny_folder(tmp_path / "base", kind, "none")).eval()
    first.save_pretrained(str(tmp_path / "export"))
    theirs = AutoModelForTokenClassification.from_pretrained(tmp_path / "export").eval()
    assert theirs.config.id2label == dict(enumerate(OLD.labels))
    wanted = theirs(**X).logits[SELECT]
    torch.testing.assert_close(first(X, SELECT).logits, wanted, rtol=1e-5, atol=1e-6)
    assert AutoTokenizer.from_pretrained(tmp_path / "export").is_fast
    second = TransformersTokens(NEW, pretrained=str(tmp_path / "export")).eval()
    output = second(X, SELECT)
    assert second.source_task == OLD and output.logits.shape == (3, 5)
    torch.testing.assert_close(output.source_logits, wanted, rtol=1e-5, atol=1e-6)
    second.save_pretrained(str(tmp_path / "tuned"))
    third = TransformersTokens(NEW, pretrained=str(tmp_path / "tuned"), keep_source_head="source").eval()
    assert third.source_task == OLD
    torch.testing.assert_close(third(X, SELECT).source_logits, wanted, rtol=1e-5, atol=1e-6)
