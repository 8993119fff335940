"""Infers a data block from a table of questions with choices."""

import re
from pathlib import Path
from typing import Any

from sft_lightning.autoconfig import infer_columns as columns
from sft_lightning.autoconfig.data_plan import DataPlan, Overrides
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.choice_rows import ChoiceRows
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.text.labels import all_unlabelled, is_list
from sft_lightning.data.text.multiple_choice import MultipleChoice

LISTS = ("choices", "options", "endings", "candidates", "alternatives")
NUMBERED = re.compile(r"(choice|option|ending|answer|alternative|candidate)[ _-]?([0-9]+|[a-h])", re.IGNORECASE)
QUESTIONS = ("question", "query", "stem", "question_stem", "ctx", "premise", "prompt", "sentence", "text")
CONTEXTS = ("context", "article", "passage", "paragraph")
RIGHT = (
    *("label", "labels", "answer", "answerkey", "answer_key", "correct", "gold", "target", "correct_choice"),
    *("correct_answer", "correct_option"),
)


def choices_of(table: Table, said: Overrides, only: bool = False) -> dict[str, Any] | None:
    """The arguments of MultipleChoice on columns; None if the table has no questions with choices. Raises UserError instead if
    the user names that task, or if the table has choices and the network takes `only` such.
    """
    if said.task not in (None, "multiple_choice"):
        return None
    own = {n: v for n, v in said.settings.items() if n.startswith("choice") and n.endswith(("_column", "_columns"))}
    found = own or choice_columns(table)
    taken = [*found.get("choice_columns", []), found.get("choices_column")] if found else []
    free = [c for c in table.columns if c not in taken]
    label = said.settings.get("label_column") or said.label_column or next(iter(columns.named(free, RIGHT)), None)
    asked: dict[str, str | None]
    if said.text_column is not None:
        texts = columns.texts_of(table, said.text_column, label)
        asked = {"question_column": texts[-1], **({"context_column": texts[0]} if len(texts) > 1 else {})}
    else:
        names = {c.lower().strip(): c for c in free if c != label}
        question = next((names[name] for name in (*QUESTIONS, *CONTEXTS) if name in names), None)
        context = next((names[name] for name in CONTEXTS if name in names and names[name] != question), None)
        asked = {"question_column": question, **({"context_column": context} if context else {})}
    asked |= {n: said.settings[n] for n in ("question_column", "context_column") if n in said.settings}
    if found and label is not None and asked["question_column"] is not None:
        return {**asked, **found, "label_column": label}
    if said.task == "multiple_choice" or (only and found):
        lacking = "choices" if not found else "the right choice" if label is None else "questions"
        raise UserError(
            "--task" if said.task else "--data",
            f"{table.where} has no column that looks like {lacking} (columns: {', '.join(table.columns)})",
            "rename it to question, choices or label, or write a study file",
        )
    return None


def choice_columns(table: Table) -> dict[str, Any]:
    """A column of lists of choices, or two or more columns with one choice each; empty if there are none."""
    for column in columns.named(table.columns, LISTS):
        there = [v for v in table.columns[column] if not missing(v)]
        if there and all(isinstance(v, list | dict) or (isinstance(v, str) and is_list(v)) for v in there):
            return {"choices_column": column}
    stems: dict[str, list[str]] = {}
    for column in table.columns:
        if match := NUMBERED.fullmatch(column.strip()):
            stems.setdefault(match[1].lower(), []).append(column)
    letters = [c for c in table.columns if re.fullmatch("[A-H]", c)]
    for found in (*stems.values(), letters if letters[:2] == ["A", "B"] else []):
        if len(found) > 1 and all(isinstance(v, str) for c in found for v in table.columns[c] if not missing(v)):
            return {"choice_columns": found}
    return {}


def choices_plan(files: dict[str, Path], table: Table, init: dict[str, Any], said: Overrides) -> DataPlan:
    """Plans `MultipleChoice` data; `init` are its arguments on columns."""
    plan = DataPlan("choices", "multiple_choice", {"class_path": "MultipleChoice", "init_args": init}, 0)
    for split, file in files.items():
        if split != "train" and all_unlabelled(read_table(file, "--data"), init["label_column"]):
            use = "test on" if split == "test" else "validate on"
            plan.lines.append(f"{file} has no labels: left out, to {use} a share of train")
        else:
            init[split] = str(file)
    samples = load_as_fit_does(plan, MultipleChoice, said).train
    assert isinstance(samples, ChoiceRows)
    there = [row for row in columns.spread(len(samples)) if samples.choices[row]]
    plan.texts = [f"{samples.questions[row]} {max(samples.choices[row], key=len)}" for row in there]
    many = sorted({int(n) for n in samples.counts if n})
    numbers = f"{many[0]}" if len(many) == 1 else f"{many[0]} to {many[-1]}"
    where = init.get("choices_column") or ", ".join(init["choice_columns"])
    context = f" after a text in column '{init['context_column']}'" if "context_column" in init else ""
    plan.lines.insert(
        0,
        f"{table.where}: {plan.train:,} questions in column '{init['question_column']}'{context}, with {numbers} choices "
        f"({where}), the right one in column '{init['label_column']}'",
    )
    return plan
