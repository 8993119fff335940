"""A baseline for extractive question answering that only counts words: what a network has to beat.

    python benchmarks/overlap_qa.py squad.json

The answer is the span of the context that is closest to the question's words: each word of the question that stands in the
context adds its inverse document frequency, divided by its distance from the span. A span has no word of the question, and
neither begins nor ends with a common one. The most words of a span are those with the best F1 on the training questions. The
splits are those of `SQuAD` with the same fractions.
"""

import argparse
import math
import re
from collections import Counter
from collections.abc import Sequence

from sft_lightning.data import SQuAD
from sft_lightning.data.split import Split
from sft_lightning.data.text.questions import QuestionRows
from sft_lightning.tasks.answer_scores import scores

WORD = re.compile(r"\w+(?:[.,'’-]\w+)*")
COMMON = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "from",
        "by",
        "with",
        "and",
        "or",
        "but",
        "as",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "being",
        "do",
        "does",
        "did",
        "has",
        "have",
        "had",
        "it",
        "its",
        "he",
        "she",
        "they",
        "them",
        "his",
        "her",
        "their",
        "this",
        "that",
        "these",
        "those",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "many",
        "much",
        "not",
        "no",
        "than",
        "then",
        "there",
        "into",
        "also",
        "can",
        "could",
        "would",
        "will",
        "one",
    ]
)
WIDEST = 6
"""Most words of a span that are tried"""


def rarity(contexts: Sequence[str]) -> dict[str, float]:
    """Inverse document frequency of each word."""
    counts = Counter(word for text in set(contexts) for word in {w.lower() for w in WORD.findall(text)})
    return {word: math.log(1 + len(set(contexts)) / n) for word, n in counts.items()}


def answer(question: str, context: str, weights: dict[str, float], longest: int) -> str:
    """The span of at most `longest` words that is closest to the question's words; the shortest and first of equals."""
    wanted = {w.lower() for w in WORD.findall(question)} - COMMON
    words = list(WORD.finditer(context))
    lowered = [w.group().lower() for w in words]
    anchors = [(at, weights.get(w, max(weights.values()))) for at, w in enumerate(lowered) if w in wanted]
    best, found = -1.0, words[0].group()
    for length in range(1, longest + 1):
        for first in range(len(words) - length + 1):
            last = first + length - 1
            inside = lowered[first : last + 1]
            if inside[0] in COMMON or inside[-1] in COMMON or wanted & set(inside):
                continue
            if re.search(r"[.!?;]\s", context[words[first].start() : words[last].end()]):
                continue
            near = sum(w / (first - at if at < first else at - last) for at, w in anchors)
            near *= 1 + 0.1 * (length - 1)  # else no span is longer than a word
            if near > best:
                best, found = near, context[words[first].start() : words[last].end()]
    return found


def measure(split: Split, weights: dict[str, float], longest: int) -> tuple[float, float]:
    """(exact match, F1), each in [0, 1]."""
    rows = split.samples
    assert isinstance(rows, QuestionRows) and rows.answers is not None
    each = [
        scores(answer(rows.questions[r], rows.contexts[r], weights, longest), [a.text for a in rows.answers[r]], False)
        for r in split.rows
    ]
    return sum(e for e, _ in each) / len(each), sum(f for _, f in each) / len(each)


def main() -> None:
    """Prints exact match and F1 on the test questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="file in SQuAD's format")
    parser.add_argument("--test_fraction", type=float, default=0.25)
    parser.add_argument("--val_fraction", type=float, default=0.15)
    given = parser.parse_args()
    data = SQuAD(train=given.train, test_fraction=given.test_fraction, val_fraction=given.val_fraction, seed=0)
    data.setup()
    rows = data.splits["train"].samples
    assert isinstance(rows, QuestionRows)
    weights = rarity([rows.contexts[r] for r in data.splits["train"].rows])
    on_train = {n: measure(data.splits["train"], weights, n)[1] for n in range(1, WIDEST + 1)}
    longest = max(on_train, key=lambda n: on_train[n])
    for name in ("train", "val", "test"):
        exact, f1 = measure(data.splits[name], weights, longest)
        said = f"{len(data.splits[name]):,} questions, exact match {exact:.3f}, F1 {f1:.3f}"
        print(f"{name}: {said} (spans of at most {longest} words)")


if __name__ == "__main__":
    main()
