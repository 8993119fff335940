"""Multiple choice: the same scores as transformers' own, an export that transformers loads, a source head that is kept."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules import LinearProbe, PlainSFT
from sft_lightning.networks import TransformersChoice, TransformersText, spec
from tests.exactness.cases import FewChoices
from tests.networks.tiny import tiny_folder
from tests.support import fit

TASK = TaskInfo("multiple_choice", 1)
IDS = torch.randint(5, 60, (2, 3, 6), generator=torch.Generator().manual_seed(0))
X = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
@torch.no_grad()
def test_an_export_is_a_multiple_choice_model_of_transformers_and_keeps_its_head_as_source(
    tmp_path: Path, kind: str
) -> None:
    from transformers import AutoModelForMultipleChoice

    first = TransformersChoice(TASK, pretrained=tiny_folder(tmp_path / "base", kind, "none")).eval()
    first.save_pretrained(str(tmp_path / "export"))
    theirs = AutoModelForMultipleChoice.from_pretrained(tmp_path / "export").eval()
    wanted = theirs(**X).logits
    torch.testing.assert_close(first(X).logits.squeeze(-1), wanted, rtol=1e-5, atol=1e-6)
    second = TransformersChoice(TASK, pretrained=str(tmp_path / "export")).eval()
    assert second.source_task == TASK
    torch.testing.assert_close(second(X).source_logits.squeeze(-1), wanted, rtol=1e-5, atol=1e-6)
    second.save_pretrained(str(tmp_path / "tuned"))
    third = TransformersChoice(TASK, pretrained=str(tmp_path / "tuned"), keep_source_head="source").eval()
    assert third.source_task == TASK
    torch.testing.assert_close(third(X).source_logits.squeeze(-1), wanted, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_choice_that_is_not_there_changes_no_other(tmp_path: Path) -> None:
    network = TransformersChoice(TASK, pretrained=tiny_folder(tmp_path, "bert", "choices")).eval()
    fewer = {name: value.clone() for name, value in X.items()}
    fewer["input_ids"][1, 2], fewer["attention_mask"][1, 2] = 0, 0
    there = fewer["attention_mask"].any(-1)
    torch.testing.assert_close(network(fewer, there).features, network(X, there).features, rtol=1e-5, atol=1e-6)


def test_features_below_a_new_pooler_are_those_of_each_choice(tmp_path: Path) -> None:
    """As of weights without a pooler: what enters it can be compared, choice by choice."""
    from transformers import BertModel

    folder = tiny_folder(tmp_path, "bert", "none")
    BertModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)
    network = TransformersChoice(TASK, pretrained=folder).eval()
    assert network.fresh and network.pretrained_below_new
    fewer = {name: value.clone() for name, value in X.items()}
    fewer["attention_mask"][1, 2] = 0
    there = fewer["attention_mask"].any(-1)
    output = network(fewer, there)
    assert output.below_new is not None and output.below_new.shape == (5, 16)
    torch.testing.assert_close(output.below_new, network(X, there).below_new)


def test_the_probe_on_choices_is_solved_and_learns_what_features_tell(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path, "bert", "choices")
    module = LinearProbe(spec(TransformersChoice, pretrained=folder), strengths=[0.01, 1.0])
    fit(module, FewChoices(sizes=(40, 12, 12)), max_epochs=1)
    assert module.found["converged"] and module.found["n"] == 40
    assert module.found["loss"] < 0.95, "no better than guessing, which is about 1.07 nats for 2 to 4 choices"


def test_sets_of_labels_are_exported_as_transformers_has_them(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    info = TaskInfo("multi_label", 3, ["a", "b", "c"])
    network: Any = TransformersText(info, pretrained=tiny_folder(tmp_path / "base", "bert", "sequence")).eval()
    network.save_pretrained(str(tmp_path / "export"))
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "export").eval()
    assert theirs.config.problem_type == "multi_label_classification"
    x = {name: value[:, 0] for name, value in X.items()}
    torch.testing.assert_close(network(x).logits, theirs(**x).logits, rtol=1e-5, atol=1e-6)
    again = TransformersText(info, pretrained=str(tmp_path / "export"))
    assert again.source_task == info


def test_training_on_choices_lowers_their_loss(tmp_path: Path) -> None:
    module = PlainSFT(spec(TransformersChoice, pretrained=tiny_folder(tmp_path, "bert", "choices")), lr=1e-2)
    data = FewChoices(sizes=(16, 16, 4))
    data.setup()
    data.splits["val"] = data.splits["train"]
    trainer = fit(module, data, max_epochs=15)
    assert float(trainer.callback_metrics["val/accuracy"]) > 0.6, "no better than guessing, which is about 0.36"
