"""Scores of generated texts equal the field's own libraries on the whole set, in any batches and order."""

from typing import Any

import pytest
import torch

from sft_lightning.core.structures import Batch, Output, TaskInfo, Texts
from sft_lightning.tasks import CausalLM, make_task
from sft_lightning.tasks.metrics import read_meters, update_meters
from sft_lightning.tasks.texts import TEXT_METRICS
from tests.refused import refused

GENERATED = [
    "the cat sat on the mat",
    "",
    "ein Haus",
    "a dog runs fast in the park today",
    "Wait, what?",
    "same  text ",
]
REFERENCES = [
    ("the cat sat on a mat", "a cat was sitting on the mat"),
    ("something",),
    ("ein grünes Haus",),
    ("a dog runs quickly in the park",),
    ("Wait, what?",),
    ("other", "same  text"),
]
INFO = TaskInfo("causal_lm", 7, metrics=list(TEXT_METRICS))


def batches(order: list[int], size: int) -> list[tuple[Output, Batch]]:
    """The texts in batches; the last has a filler. The logits say nothing here."""
    made = []
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        logits, batch = torch.zeros(len(rows), 7), dict[str, Any](y=torch.zeros(len(rows), dtype=torch.int64))
        texts, right = [GENERATED[r] for r in rows], [REFERENCES[r] for r in rows]
        if len(rows) < size:
            texts, right = [*texts, "a filler"], [*right, ("a filler",)]
            batch["real"] = torch.tensor([True] * len(rows) + [False])
        batch |= {"references": Texts(right), "count": len(rows)}
        made.append((Output(logits, logits, generated=Texts(texts)), batch))
    return made


def scores(order: list[int], size: int) -> dict[str, float]:
    task = make_task(INFO)
    meters = task.make_metrics()
    for output, batch in batches(order, size):
        update_meters(task, {"loss": _Ignored(), **meters}, output, batch)
    return read_meters(meters)


class _Ignored:
    def update(self, *_: Any) -> None: ...


def theirs() -> dict[str, float]:
    import jiwer
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    streams = [[r[k] if k < len(r) else None for r in REFERENCES] for k in range(2)]
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scored = [RougeScorer(kinds).score_multi(list(r), g) for g, r in zip(GENERATED, REFERENCES, strict=True)]
    first, plain = [right[0] for right in REFERENCES], jiwer.Compose([jiwer.ToLowerCase(), jiwer.RemovePunctuation()])
    without = [[plain(text) for text in texts] for texts in (first, GENERATED)]
    return {
        "wer": jiwer.wer(first, GENERATED),
        "cer": jiwer.cer(first, GENERATED),
        "wer_plain": jiwer.wer(*without),
        "cer_plain": jiwer.cer(*([" ".join(t.split()) for t in texts] for texts in without)),
        "bleu": sacrebleu.BLEU().corpus_score(GENERATED, streams).score,
        "chrf": sacrebleu.CHRF().corpus_score(GENERATED, streams).score,
        **{kind: sum(s[kind].fmeasure for s in scored) / len(scored) for kind in kinds},
        "exact_match": 2 / 6,
    }


@pytest.mark.parametrize(("order", "size"), [(list(range(6)), 6), (list(range(6)), 4), ([5, 3, 1, 0, 2, 4], 5)])
def test_scores_are_those_of_sacrebleu_and_rouge_score_in_any_batches_and_order(order: list[int], size: int) -> None:
    assert scores(order, size) == pytest.approx(theirs(), abs=1e-9)


def test_a_batch_for_which_nothing_was_generated_adds_nothing_and_none_at_all_is_refused() -> None:
    task = make_task(INFO)
    meters = task.make_metrics()
    (output, batch), *_ = batches([0, 1], 2)
    task.update(meters["bleu"], output._replace(generated=None), batch)
    with refused("data.generate_samples"):
        meters["bleu"].compute()


def test_rouge_refuses_references_in_a_script_that_it_does_not_read() -> None:
    metric = TEXT_METRICS["rougeL"].make(INFO)
    metric.update(["привет"], [("привет",)])
    with refused("data.metrics", "rougeL"):
        metric.compute()


def test_predictions_hold_the_generated_text_of_each_sample_that_is_not_a_filler() -> None:
    logits = torch.zeros(3, 7)
    batch = {
        "select": torch.tensor([[True, True], [True, False], [False, False]]),
        "real": torch.tensor([True, True, False]),
    }
    rows = CausalLM(INFO).decode(Output(logits, logits, generated=Texts(["a", "b", "filler"])), batch)
    assert [(row["text"], len(row["tokens"])) for row in rows] == [("a", 2), ("b", 1)]
