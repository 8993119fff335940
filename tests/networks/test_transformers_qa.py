"""TransformersQA says what transformers' own models say, window by window."""

from pathlib import Path

import pytest
import torch
import transformers as hf

from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import TransformersQA
from tests.networks.tiny import tiny_folder
from tests.refused import refused

TASK = TaskInfo("extractive_qa", 2, ["start", "end"])


def windows() -> dict[str, torch.Tensor]:
    """Two samples of up to two windows: the second of the second sample is padding alone."""
    ids = torch.randint(5, 60, (2, 2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 1, 5:] = 0
    mask[1, 1] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "gpt2"])
def test_source_scores_are_those_of_the_pretrained_model(tmp_path: Path, kind: str) -> None:
    folder = tiny_folder(tmp_path, kind, "qa")
    network = TransformersQA(TASK, pretrained=folder).eval()
    model = hf.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    x = windows()
    select = x["attention_mask"].bool()
    with torch.no_grad():
        said = network(x, select).source_logits
        whole = [
            model(input_ids=i[None], attention_mask=m[None])
            for i, m in zip(x["input_ids"][select.any(-1)], x["attention_mask"][select.any(-1)], strict=True)
        ]
    wanted = torch.cat([torch.stack([one.start_logits, one.end_logits], -1) for one in whole])
    assert said is not None and said.isfinite().all()
    torch.testing.assert_close(said, wanted[select[select.any(-1)]])


def test_an_export_is_a_model_of_transformers_and_its_head_becomes_the_source_head(tmp_path: Path) -> None:
    network = TransformersQA(TASK, pretrained=tiny_folder(tmp_path / "a", "bert", "none")).eval()
    assert network.source_head is None, "a head that the weights lack"
    network.save_pretrained(str(tmp_path / "b"))
    again = TransformersQA(TASK, pretrained=str(tmp_path / "b")).eval()
    model = hf.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "b").eval()
    x = {name: value[0] for name, value in windows().items()}
    with torch.no_grad():
        before, said, theirs = network(x), again(x), model(**x)
    assert said.source_logits is not None
    torch.testing.assert_close(said.source_logits, before.logits)
    torch.testing.assert_close(torch.stack([theirs.start_logits, theirs.end_logits], -1), before.logits)
    assert again.source_task == TASK


def test_padding_of_windows_gives_no_gradient_that_is_not_finite(tmp_path: Path) -> None:
    network = TransformersQA(TASK, pretrained=tiny_folder(tmp_path, "bert", "qa"))
    x = windows()
    network(x, x["attention_mask"].bool()).logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_a_tokenizer_without_characters_is_refused(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, "bert", "qa")
    network = TransformersQA(TASK, pretrained=folder)
    from sft_lightning.networks.transformers_qa import with_offsets

    class Slow:
        is_fast = False

    with refused("network.tokenizer", "Slow", "fast"):
        with_offsets(Slow())
    assert with_offsets(network.tokenizer) is network.tokenizer
