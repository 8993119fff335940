"""Scores of generated texts against references, by the field's own libraries: sacrebleu, rouge-score and jiwer."""

from collections.abc import Callable, Sequence
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.metric_info import SHARE
from sft_lightning.tasks.base import TaskMetric
from sft_lightning.tasks.error_rates import ERROR_RATES
from sft_lightning.tasks.text_score import Pair, TextScore


def streams(pairs: Sequence[Pair]) -> tuple[list[str], list[list[Any]]]:
    """(texts, references) as sacrebleu takes them: the first reference of each text, then the second or None, and so on."""
    most = max(len(right) for _, right in pairs)
    references = [[right[k] if k < len(right) else None for _, right in pairs] for k in range(most)]
    return [text for text, _ in pairs], references


def bleu(pairs: Sequence[Pair]) -> float:
    """Corpus BLEU from 0 to 100 (Papineni et al. 2002), with sacrebleu's defaults: tokens of 13a, exponential smoothing."""
    import sacrebleu

    return float(sacrebleu.corpus_bleu(*streams(pairs)).score)


def chrf(pairs: Sequence[Pair]) -> float:
    """Corpus chrF from 0 to 100 (Popović 2015), with sacrebleu's defaults: up to six characters, no words, β = 2."""
    import sacrebleu

    return float(sacrebleu.corpus_chrf(*streams(pairs)).score)


def rouge(kind: str) -> Callable[[Sequence[Pair]], float]:
    """ROUGE (Lin 2004): mean F in [0, 1] over texts, each against its best reference, by rouge-score without stemming.

    Its tokens are runs of a to z and 0 to 9, so it says nothing about texts in other scripts, which are refused.
    """

    def score(pairs: Sequence[Pair]) -> float:
        from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]
        from rouge_score.tokenize import tokenize  # type: ignore[import-untyped]

        if not any(tokenize(one, None) for _, right in pairs for one in right):
            raise UserError(
                "data.metrics",
                f"{kind} reads the letters a to z and digits alone, and the references have none",
                "choose chrf instead",
            )
        scorer = RougeScorer([kind])
        return float(sum(scorer.score_multi(list(right), text)[kind].fmeasure for text, right in pairs) / len(pairs))

    return score


def exact_match(pairs: Sequence[Pair]) -> float:
    """Share of texts that equal one of their references, white space at both ends apart."""
    return sum(text.strip() in {one.strip() for one in right} for text, right in pairs) / len(pairs)


TEXT_METRICS = {
    "bleu": TaskMetric("max", "", lambda _: TextScore(bleu)),
    "chrf": TaskMetric("max", "", lambda _: TextScore(chrf)),
    **{
        kind: TaskMetric("max", SHARE, lambda _, kind=kind: TextScore(rouge(kind)))  # type: ignore[misc]
        for kind in ("rouge1", "rouge2", "rougeL", "rougeLsum")
    },
    "exact_match": TaskMetric("max", SHARE, lambda _: TextScore(exact_match)),
    **ERROR_RATES,
}
"""Metrics of generated texts, by name"""
