"""The baseline every tagger must beat: each word gets its most frequent training tag, and an unseen word O.

python benchmarks/frequent_tags.py ../data/wnut17/train.conll ../data/wnut17/test.conll    # word first, tag last in each line
"""

import sys
from collections import Counter, defaultdict

from seqeval.metrics import f1_score, precision_score, recall_score

from sft_lightning.data.text.sentences import Columns

if __name__ == "__main__":
    train, test = (Columns(file, "file", (0, -1)) for file in sys.argv[1:])
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in zip(train.words, train.tags, strict=True):
        for word, tag in zip(words, tags, strict=True):
            counts[word][tag] += 1
    said = [[counts[word].most_common(1)[0][0] if word in counts else "O" for word in words] for words in test.words]
    right = sum(a == b for one, other in zip(said, test.tags, strict=True) for a, b in zip(one, other, strict=True))
    scores = [score(test.tags, said) for score in (f1_score, precision_score, recall_score)]
    print("entity F1 {:.4f}, precision {:.4f}, recall {:.4f}".format(*scores), end=", ")
    print(f"token accuracy {right / sum(map(len, said)):.4f}")
