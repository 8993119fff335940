"""Error rates of transcripts, of words and of characters, by the field's own library: jiwer."""

from collections.abc import Callable, Sequence
from typing import Any

from sft_lightning.core.metric_info import SHARE
from sft_lightning.tasks.base import TaskMetric
from sft_lightning.tasks.text_score import Pair, TextScore


def rates(words: bool, plain: bool) -> Callable[[Sequence[Pair]], float]:
    """The rate over all pairs together: edits over words (or characters) of all references, which may exceed 1.

    White space at both ends has no effect, and more than one space between words none on words: these are jiwer's own
    defaults. With `plain`, letter case, punctuation and further spaces have none either. A text is compared with its
    first reference.
    """

    def score(pairs: Sequence[Pair]) -> float:
        import jiwer

        texts, references = [text for text, _ in pairs], [right[0] if right else "" for _, right in pairs]
        steps: list[Any] = []
        if plain:
            steps = [jiwer.ToLowerCase(), jiwer.RemovePunctuation()]  # type: ignore[no-untyped-call]
        if words or plain:
            steps.append(jiwer.RemoveMultipleSpaces())
        steps.append(jiwer.Strip())
        last = jiwer.ReduceToListOfListOfWords() if words else jiwer.ReduceToListOfListOfChars()
        how = jiwer.Compose([*steps, last])
        found = (jiwer.wer if words else jiwer.cer)(references, texts, how, how)
        return float(found)

    return score


error_rate = rates(words=True, plain=False)
ERROR_RATES = {
    name: TaskMetric("min", SHARE, lambda _, words=words, plain=plain: TextScore(rates(words, plain)))  # type: ignore[misc]
    for name, words, plain in (
        ("wer", True, False),
        ("cer", False, False),
        ("wer_plain", True, True),
        ("cer_plain", False, True),
    )
}
"""Error rates by name: of words and of characters, as written, or without letter case and punctuation"""
