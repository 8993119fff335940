"""Infers a data block from questions with contexts and answers: SQuAD's JSON, or tables of its columns."""

from collections.abc import Mapping
from pathlib import Path

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, fits
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.questions import QuestionRows
from sft_lightning.data.text.squad import SQuAD

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
    if isinstance(articles, list) and any(isinstance(a, dict) and "paragraphs" in a for a in articles):
        return True
    names = set(table.columns)
    return {"question", "context"} <= names and ("answers" in names or {"answer", "answer_start"} <= names)


def question_plan(files: Mapping[str, Path], kinds: tuple[str, ...], network: str) -> DataPlan:
    """Plans `SQuAD` data on the files of the splits. Raises UserError for the errors of `fit`."""
    where = str(files["train"])
    fits(kinds, ("questions",), network, f"{where} holds questions with answers in a context")
    init = {split: str(file) for split, file in files.items()}
    loaded = SQuAD(**init).load()  # type: ignore[arg-type]
    train = loaded.train
    assert isinstance(train, QuestionRows)
    contexts = len(set(train.plain_contexts))
    if contexts < 3:
        raise UserError(
            "--data",
            f"{where} has questions about {plural(contexts, 'text')}, too few to train, validate and test on different ones",
            "add questions about other texts",
        )
    plan = DataPlan("questions", TASK, {"class_path": "SQuAD", "init_args": init}, len(train))
    for split, samples in (("val", loaded.val), ("test", loaded.test)):
        setattr(plan, split, None if samples is None else len(samples))
    rows = range(0, len(train), max(1, len(train) // SEEN))
    plan.texts = [f"{train.questions[row]} {train.contexts[row]}" for row in rows]
    plan.lines = [
        f"{where}: {len(train):,} questions about {contexts:,} texts, with answers from them (SQuAD); splits are by text",
        *loaded.notes,
    ]
    return plan
