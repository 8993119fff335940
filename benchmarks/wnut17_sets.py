"""Writes sets of labels made from WNUT17: for each sentence, the types of the entities in it, also the empty set.

    python -m benchmarks.wnut17_sets data/wnut17 data/wnut17_sets

It reads train.conll, validation.conll and test.conll, and writes train.jsonl, validation.jsonl and test.jsonl with `text`
(the words with spaces between) and `labels`. It prints how often each type occurs, and the test scores of answers that need
no model: no labels at all, and the most frequent type for every sentence.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from sft_lightning.data.text.sentences import Columns


def types_of(tags: list[str]) -> list[str]:
    """The types of a sentence's entities, sorted."""
    return sorted({tag.partition("-")[2] for tag in tags} - {""})


def write(source: Path, target: Path) -> dict[str, list[list[str]]]:
    """Writes all splits, and returns the sets of each."""
    target.mkdir(parents=True, exist_ok=True)
    found = {}
    for split in ("train", "validation", "test"):
        sentences = Columns(str(source / f"{split}.conll"), "data", (0, -1))
        sets = [types_of(tags) for tags in sentences.tags]
        rows = [{"text": " ".join(words), "labels": s} for words, s in zip(sentences.words, sets, strict=True)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (target / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        found[split] = sets
    return found


def main(source: str, target: str) -> None:
    """Writes the files and prints the counts and the scores of trivial answers."""
    found = write(Path(source), Path(target))
    names = sorted({name for sets in found["train"] for name in sets})
    for split, sets in found.items():
        counts = Counter(name for s in sets for name in s)
        print(f"{split}: {len(sets)} sentences, {sum(not s for s in sets)} without any; {dict(counts.most_common())}")
    true = np.array([[name in s for name in names] for s in found["test"]], dtype=int)
    frequent = Counter(name for s in found["train"] for name in s).most_common(1)[0][0]
    for what, row in (("no labels", []), (f"always {frequent}", [frequent])):
        said = np.tile([int(name in row) for name in names], (len(true), 1))
        scores = {average: f1_score(true, said, average=average, zero_division=0.0) for average in ("micro", "macro")}
        exact = accuracy_score(true, said)
        print(f"{what}: test f1_micro {scores['micro']:.3f}, f1_macro {scores['macro']:.3f}, exact_match {exact:.3f}")
    print(f"map of a constant answer: {true.mean(0).mean():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
