"""Typing errors: the same for a sample in each run, one for each word that has any, and of the text alone."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from sft_lightning.cli.main import main
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.data.text.tokens import TextRows
from sft_lightning.data.text.typos import ERRORS, NEAR, SHARES, WORD, typos
from sft_lightning.evaluation.retention_sets import MistypedSource, make_set
from sft_lightning.evaluation.source_data import SourceData
from sft_lightning.runs.load import load
from tests.data.text_files import texts, write_jsonl
from tests.refused import refused
from tests.support import OLD, digits

PROSE = "It was the best of times, it was the worst of times in 1859; aé Straße čeština 東京都庁 O'Neill " * 40


def edits(one: str, other: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment)."""
    d = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    d[:, 0], d[0] = range(len(one) + 1), range(len(other) + 1)
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            d[i, j] = min(d[i - 1, j] + 1, d[i, j - 1] + 1, d[i - 1, j - 1] + (one[i - 1] != other[j - 1]))
            if i > 1 and j > 1 and one[i - 2 : i] == other[j - 2 : j][::-1]:
                d[i, j] = min(d[i, j], d[i - 2, j - 2] + 1)
    return int(d[-1, -1])


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_the_stated_share_of_words_has_one_error_each(severity: int) -> None:
    (made,) = typos([PROSE], severity, row=7)
    before, after = PROSE.split(), made.split()
    assert len(before) == len(after) and re.sub(r"\w", "", PROSE) == re.sub(r"\w", "", made)
    long = [(a, b) for a, b in zip(before, after, strict=True) if WORD.search(a)]
    changed = [edits(a, b) for a, b in long if a != b]
    assert set(changed) == {1}, "a word has more than one error"
    share, n = SHARES[severity - 1], len(long)
    assert abs(len(changed) / n - share) < 4 * (share * (1 - share) / n) ** 0.5
    assert all(a == b for a, b in zip(before, after, strict=True) if not WORD.search(a)), (
        "a short word or number changed"
    )


def test_errors_follow_the_row_alone_and_grow_with_severity() -> None:
    made = {(s, r): typos([PROSE], s, r)[0].split() for s in (1, 2, 3, 4, 5) for r in (0, 1)}
    assert made[3, 0] == typos([PROSE, "more"], 3, 0)[0].split() and made[3, 0] != made[3, 1]
    for less, more in ((1, 2), (2, 3), (3, 4), (4, 5)):
        for word, fewer, many in zip(PROSE.split(), made[less, 0], made[more, 0], strict=True):
            assert fewer in (word, many), "a higher severity has lost an error"
    words = {(kind, word, at): kind(word, at, 5) for kind in ERRORS for word in ("aab", "Abc") for at in range(3)}
    assert all(edits(word, made_word) == 1 and made_word for (_, word, _), made_word in words.items())
    assert set(NEAR["g"]) == set("tyfhvb") and all(a in NEAR[b] for a, near in NEAR.items() for b in near)


def test_a_copy_of_the_samples_has_the_errors_and_the_samples_have_none() -> None:
    first, second = [PROSE[:200]] * 3, [PROSE[200:400]] * 3
    rows = TextRows(first, second, np.zeros(3, dtype=np.int64))
    rows._made_by = "as before"
    made = rows.rewritten(lambda said, row: typos(said, 5, row), [1, 2])
    assert made is not None and rows.texts == first and rows.pairs == second
    assert made.texts[0] == first[0] and [made.texts[1], made.pairs[1]] == typos([first[1], second[1]], 5, 1)  # type: ignore[index]
    assert made.digest() != rows.digest() and made._made_by is None, "tokens of the right texts would be used"
    sentences = Sentences.of([PROSE.split()[:20]] * 2, "here")
    tagged = TaggedRows(sentences, None)
    wrong = tagged.rewritten(lambda said, row: typos(said, 5, row), [1])
    assert wrong.sentences.words[0] == sentences.words[0] and wrong.sentences.words[1] == typos(
        sentences.words[1], 5, 1
    )
    assert sentences.words[1] == PROSE.split()[:20] and all(wrong.sentences.words[1])


def test_typos_are_found_as_a_corruption_and_refused_for_images() -> None:
    source = SourceData(digits(OLD))
    made = make_set("retention_sets.t", {"corruption": "typos", "severity": 2}, source)
    assert isinstance(made, MistypedSource) and made.severity == 2 and made.data is not source.data
    assert made.data.arguments == source.data.arguments
    with refused("retention_sets.t", "Digits", "typos"):
        made.load(None, None, None)  # type: ignore[arg-type]
    with refused("retention_sets.t.corruption", "typo", "typos"):
        make_set("retention_sets.t", {"corruption": "typo"}, source)


@pytest.mark.slow
def test_a_run_measures_its_source_task_with_typos(tmp_path: Path) -> None:
    rows = [{"text": text, "label": "even" if i % 2 else "odd"} for i, text in enumerate(texts(120))]
    file = write_jsonl(tmp_path / "old.jsonl", rows)
    new = write_jsonl(tmp_path / "new.jsonl", [{**row, "label": f"{i % 3}"} for i, row in enumerate(rows)])
    common = {"trainer": {"max_epochs": 8, "accelerator": "cpu"}, "wandb": "disabled", "quiet": True}
    model = {"class_path": "PlainSFT", "init_args": {"lr": 0.01}}
    network = {"class_path": "LSTM", "init_args": {"pretrained": None}}
    data = {"class_path": "TextTable", "init_args": {"train": file, "test": file}}
    base = {**common, "model": model, "network": network, "data": data, "test_after_fit": True}
    more = {
        "network": {"class_path": "LSTM", "init_args": {"pretrained": str(tmp_path / "runs/a/one")}},
        "data": {"class_path": "TextTable", "init_args": {"train": new, "test": new}},
        "retention": data,
        "retention_sets": {
            "few": {"corruption": "typos", "severity": 1},
            "many": {"corruption": "typos", "severity": 5},
        },
    }
    for name, content in (("a", base), ("b", {**base, **more})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        flags = ["--runs_dir", str(tmp_path / "runs"), "--experiment", name, "--run_id", "one"]
        assert main(["fit", "--config", str(tmp_path / f"{name}.yaml"), *flags]) == 0
    run = load(tmp_path / "runs/b/one")
    before = {n: e["before"] for n, e in run.record["metrics"].items() if "before" in e}
    assert before["retention/many/loss"] > before["retention/few/loss"] > before["retention/loss"]
    assert run.record["n"]["retention/few"] == run.record["n"]["retention"]
    assert run.record["test"]["retention/many/loss"] != run.record["test"]["retention/loss"]
