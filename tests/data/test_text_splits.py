"""Tables of texts whose column `split` divides their rows: the same samples as in a file for each split."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sft_lightning.autoconfig.data_plan import Overrides
from sft_lightning.autoconfig.infer_table import table_plan
from sft_lightning.data import Instructions, MultiLabelTable, MultipleChoice, PlainText, SQuAD, TaggedTable, TextPairs
from sft_lightning.data.text.table import TextTable
from tests.data.text_files import texts, write_jsonl
from tests.refused import refused

NAMES = ("train", "Train", "dev", "test", "training", "TEST") * 4
TEXTS = texts(len(NAMES))
ANSWERS = [{"text": [text[4:9]], "answer_start": [4]} for text in TEXTS]
ROWS: dict[str, tuple[type, list[dict[str, Any]]]] = {
    "labels": (TextTable, [{"text": t, "label": "ab"[i % 2]} for i, t in enumerate(TEXTS)]),
    "sets": (MultiLabelTable, [{"text": t, "labels": ["a", "b"][: i // 2 % 3]} for i, t in enumerate(TEXTS)]),
    "pairs": (TextPairs, [{"source": t, "target": t[::-1]} for t in TEXTS]),
    "tags": (TaggedTable, [{"tokens": t.split(), "tags": ["O"] * len(t.split())} for t in TEXTS]),
    "choices": (MultipleChoice, [{"question": t, "choices": ["x", t], "label": i % 2} for i, t in enumerate(TEXTS)]),
    "answers": (Instructions, [{"prompt": t, "completion": t[:4]} for t in TEXTS]),
    "plain": (PlainText, [{"text": t} for t in TEXTS]),
    "questions": (
        SQuAD,
        [{"id": t, "question": "Who?", "context": t, "answers": a} for t, a in zip(TEXTS, ANSWERS, strict=True)],
    ),
}
OURS = {"train": "train", "training": "train", "dev": "val", "test": "test"}


@pytest.mark.parametrize("what", ROWS)
def test_a_column_of_splits_gives_the_samples_that_files_of_the_splits_give(tmp_path: Path, what: str) -> None:
    cls, rows = ROWS[what]
    whole = write_jsonl(tmp_path / "all.jsonl", [{**r, "split": s} for r, s in zip(rows, NAMES, strict=True)])
    parts = {
        ours: write_jsonl(
            tmp_path / f"{ours}.jsonl", [r for r, s in zip(rows, NAMES, strict=True) if OURS[s.lower()] == ours]
        )
        for ours in ("train", "val", "test")
    }
    one, apart = cls(train=whole).load(), cls(**parts).load()
    second = pd.read_json(whole, lines=True)["split"].str.lower().map(OURS).value_counts()
    for ours in ("train", "val", "test"):
        mine, theirs = getattr(one, ours), getattr(apart, ours)
        assert len(mine) == len(theirs) == second[ours] and mine.digest() == theirs.digest(), ours
    assert any("divides 24 rows: 12 train, 4 val, 8 test" in note for note in one.notes), one.notes
    assert what != "answers" or not one.train.read.lines(), "the column that divides the rows is said not to be used"
    with refused("data", "line 1", "names no split"):
        cls(
            train=write_jsonl(tmp_path / "odd.jsonl", [{**rows[0], "split": "?"}, {**rows[1], "split": "train"}])
        ).load()
    with refused("data", "no row with train"):
        cls(train=write_jsonl(tmp_path / "none.jsonl", [{**row, "split": "test"} for row in rows])).load()


def test_a_column_of_splits_that_is_used_otherwise_divides_nothing(tmp_path: Path) -> None:
    rows = [{"text": text, "split": ("train", "test")[i % 2]} for i, text in enumerate(TEXTS)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    loaded = TextTable(train=file, label_column="split").load()
    assert len(loaded.train) == len(TEXTS) and loaded.test is None and loaded.labels == ["test", "train"]
    folds = write_jsonl(tmp_path / "b.jsonl", [{**row, "split": i % 3, "label": i % 2} for i, row in enumerate(rows)])
    loaded = TextTable(train=folds).load()
    assert len(loaded.train) == len(TEXTS) and any(
        "names no splits" in n or "name no splits" in n for n in loaded.notes
    )


def test_the_front_door_takes_the_splits_of_a_column_and_counts_them(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    with file.open("w", newline="") as out:
        rows = [[text, "ab"[i % 2], split] for i, (text, split) in enumerate(zip(TEXTS, NAMES, strict=True))]
        csv.writer(out).writerows([["text", "kind", "split"], *rows])
    plan = table_plan({"train": file}, ("text",), "bert", Overrides())
    assert plan.block["init_args"]["label_column"] == "kind", "splits are not labels"
    assert (plan.train, plan.val, plan.test) == (12, 4, 8) and sum(plan.counts.values()) == 12
    assert any("divides 24 rows" in line for line in plan.lines) and "12 texts" in plan.lines[0], plan.lines
    blank = [
        {**r, **({"label": None} if OURS[s.lower()] == "test" else {}), "split": s}
        for r, s in zip(ROWS["labels"][1], NAMES, strict=True)
    ]
    plan = table_plan({"train": Path(write_jsonl(tmp_path / "blank.jsonl", blank))}, ("text",), "bert", Overrides())
    assert (plan.train, plan.val, plan.test) == (12, 4, None), "a test split without labels is left out"
    assert any("no row of test has a label" in line for line in plan.lines), plan.lines
    few = [{**row, "text": f"{row['text']} {copy}"} for copy in range(6) for row in blank]
    few[2]["label"] = None  # one of 24 validation samples
    plan = table_plan({"train": Path(write_jsonl(tmp_path / "few.jsonl", few))}, ("text",), "bert", Overrides())
    assert (plan.train, plan.val, plan.test) == (72, 23, None)
    assert plan.block["init_args"]["on_bad_sample"] == "skip"
    for network, rows_of in (("pairs", "pairs"), ("choices", "choices"), ("tokens", "answers")):
        other = Path(
            write_jsonl(
                tmp_path / f"{rows_of}.jsonl", [{**r, "split": s} for r, s in zip(ROWS[rows_of][1], NAMES, strict=True)]
            )
        )
        plan = table_plan({"train": other}, (network,), "it", Overrides())
        assert (plan.train, plan.val, plan.test) == (12, 4, 8), rows_of
