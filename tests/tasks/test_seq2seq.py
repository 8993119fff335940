"""Sequence to sequence: label smoothing as in transformers, and what a prediction says."""

import torch

from sft_lightning.core.structures import Output, TaskInfo, Texts
from sft_lightning.tasks import make_task


def test_label_smoothing_is_that_of_transformers_and_measures_are_without_it() -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    logits, labels = torch.randn(2, 5, 11), torch.randint(0, 11, (2, 5))
    labels[0, 3:] = -100
    kept = labels != -100
    task = make_task(TaskInfo("seq2seq", 11), label_smoothing=0.1)
    theirs = LabelSmoother(epsilon=0.1)({"logits": logits}, labels)
    torch.testing.assert_close(task.row_loss(logits[kept], labels[kept]) / kept.sum(), theirs)


def test_a_prediction_without_a_target_is_its_text_alone() -> None:
    task, empty = make_task(TaskInfo("seq2seq", 3)), torch.zeros(0, 3)
    batch = {"select": torch.zeros(2, 1, dtype=torch.bool), "count": 0}
    assert task.decode(Output(empty, empty, generated=Texts(["a", "b"])), batch) == [{"text": "a"}, {"text": "b"}]
