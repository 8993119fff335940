"""Infers a data block from questions with contexts and answers: SQuAD's JSON, or tables of its columns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, fits
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.questions import QuestionRows
from sft_lightning.data.text.squad import SQuAD
from sft_lightning.data.text.squad_files import are_flat

TASK = "extractive_qa"
SEEN = 256
"""Questions whose tokens are counted"""


def holds_questions(table: Table, said: Overrides) -> bool:
    """Whether a table, or SQuAD's JSON read as one, has questions with answers, unless the user's options say otherwise."""
    if said.task not in (None, TASK) or said.label_column is not None or said.text_column is not None:
        return False
    if said.task == TASK:
        return True
    articles = table.columns.get("data", [None])[0] if len(table) == 1 else None
    if isinstance(articles, list):
        return are_flat(articles) or any(isinstance(a, dict) and "paragraphs" in a for a in articles)
    names = set(table.columns)
    return {"question", "context"} <= names and ("answers" in names or {"answer", "answer_start"} <= names)


def question_plan(files: Mapping[str, Path], kinds: tuple[str, ...], network: str, said: Overrides) -> DataPlan:
    """Plans `SQuAD` data on the files of the splits. Raises UserError for the errors of `fit`."""
    where = str(files["train"])
    fits(kinds, ("questions",), network, f"{where} holds questions with answers in a context")
    init: dict[str, Any] = {split: str(file) for split, file in files.items()}
    plan = DataPlan("questions", TASK, {"class_path": "SQuAD", "init_args": init}, 0)
    loaded = load_as_fit_does(plan, SQuAD, said)
    train, plan.labels = loaded.train, loaded.labels
    assert isinstance(train, QuestionRows)
    contexts = len(set(train.plain_contexts))
    if contexts < 3:
        raise UserError(
            "--data",
            f"{where} has questions about {plural(contexts, 'text')}, too few to train, validate and test on different ones",
            "add questions about other texts",
        )
    rows = range(0, len(train), max(1, len(train) // SEEN))
    plan.texts = [f"{train.questions[row]} {train.contexts[row]}" for row in rows]
    plan.lines.insert(
        0,
        f"{where}: {plan.train:,} questions about {contexts:,} texts, with answers from them (SQuAD); splits are by text",
    )
    return plan
