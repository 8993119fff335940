"""The baseline every text fine-tune must beat: TF-IDF of words and pairs, and logistic regression.

python benchmarks/tfidf.py trec ../data/trec        # a folder with train.jsonl and test.jsonl (text, label)
"""

import json
import sys
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline


def rows(path: Path) -> tuple[list[str], list[int]]:
    read = [json.loads(line) for line in path.read_text().splitlines()]
    return [r["text"] for r in read], [r["label"] for r in read]


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    train, test = rows(folder / "train.jsonl"), rows(folder / "test.jsonl")
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    said = model.fit(*train).predict(test[0])
    print(
        f"{name}: accuracy {accuracy_score(test[1], said):.4f}, f1_macro {f1_score(test[1], said, average='macro'):.4f}"
    )
