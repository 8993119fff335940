"""Reads questions with a context and answers: SQuAD's JSON, or tables with these columns."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.text.cells import missing, number
from sft_lightning.data.text.files import KINDS, Bad, Table, check_text, once, read_table
from sft_lightning.data.text.label_sets import indicator
from sft_lightning.data.text.labels import said
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.utf8 import open_text
from sft_lightning.data.text.written import written

MEND = "mend or remove it, or set data.on_bad_sample skip"


class Answer(NamedTuple):
    """An answer as it stands in its context."""

    start: int
    """Its first character in the context"""
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass
class QuestionTable(Table):
    """Rows of SQuAD's JSON."""

    places: Sequence[str] = ()

    def name(self, row: int) -> str:
        """`train.json question 56beb4343aeaaa14008c925b`"""
        return f"{self.where} question {self.places[row]}"


def read_questions(path: str | Path, where: str, skip: bool = False) -> Table:
    """A table with columns `question`, `context`, and where the file has them `id`, `answers`, `is_impossible`.

    Args:
        path: SQuAD's JSON, or a table (.csv, .tsv, .json, .jsonl, .parquet).
        where: The key that names the file.
        skip: Whether rows that cannot be used are left out.
    """
    place = Path(path).expanduser()
    if place.suffix.lower() == ".json" and (articles := squad_articles(place)) is not None:
        return squad_table(articles, str(path), {} if skip else None)
    table = read_table(path, where, skip)
    rows = table.columns.get("data", [None])[0] if len(table) == 1 else None
    return (
        Table(str(path), columns_of(rows), bad={} if skip else None)
        if isinstance(rows, list) and are_flat(rows)
        else table
    )


def are_flat(rows: list[Any]) -> bool:
    """Whether each object of the list `data` of a JSON file has a question with its context, as transformers' script wants."""
    return bool(rows) and all(isinstance(row, dict) and {"question", "context"} <= row.keys() for row in rows)


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of rows."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def squad_articles(path: Path) -> list[Any] | None:
    """The list `data` of a file in SQuAD's format; None for other JSON."""
    try:
        with open_text(path, True) as file:
            whole = json.load(file, object_pairs_hook=once)
    except (OSError, ValueError, RecursionError):
        return None  # read_table says why
    articles = whole.get("data") if isinstance(whole, dict) else None
    nested = isinstance(articles, list) and any(isinstance(a, dict) and "paragraphs" in a for a in articles)
    return articles if nested else None


def squad_table(articles: list[Any], where: str, bad: Bad) -> Table:
    """Flattens SQuAD's articles, paragraphs and `qas` into one row for each question."""
    rows: list[dict[str, Any]] = []
    places: list[str] = []
    for a, article in enumerate(articles):
        for p, paragraph in enumerate(listed(article, "paragraphs", f"{where} data[{a}]")):
            at = f"{where} data[{a}].paragraphs[{p}]"
            for q, asked in enumerate(listed(paragraph, "qas", at)):
                if not isinstance(asked, dict):
                    raise UserError("data", f"{at}.qas[{q}] is {kind_of(asked)}, not an object", "mend it")
                rows.append({**asked, "context": paragraph.get("context")})
                places.append(str(asked.get("id", len(rows) - 1)))
    if not rows:
        raise UserError("data", f"{where} has no questions", "use another file")
    names = dict.fromkeys(
        ["id", "question", "context", *(n for n in ("answers", "is_impossible") if any(n in r for r in rows))]
    )
    return QuestionTable(where, {n: [row.get(n) for row in rows] for n in names}, bad=bad, places=places)


def listed(value: Any, key: str, where: str) -> list[Any]:
    """The list `key` of an object. Raises UserError without one."""
    if not isinstance(value, dict):
        raise UserError("data", f"{where} is {kind_of(value)}, not an object", "mend it")
    if not isinstance(value.get(key), list):
        lacks = f"has no '{key}'{nearest(key, value)}" if key not in value else f"'{key}' is {kind_of(value[key])}"
        raise UserError("data", f"{where} {lacks}, and a list is needed", "mend it")
    found: list[Any] = value[key]
    return found


def kind_of(value: Any) -> str:
    """A kind of JSON value, for messages."""
    return KINDS.get(type(value).__name__, f"a {type(value).__name__}")


# ---- questions and contexts ----


def texts_of(table: Table, name: str) -> list[str]:
    """The column `question` or `context`, empty in rows that are left out."""
    if name not in table.columns:
        raise UserError(
            "data",
            f"{table.where} has no column '{name}'{nearest(name, table.columns)}, only {', '.join(table.columns)}",
            f"name the column with the {name}s '{name}'",
        )
    values = table.columns[name]
    for row, value in enumerate(values):
        try:
            check_text(value, f"'{name}'", table.name(row), "data")
        except UserError as error:
            table.refuse(row, error)
    return ["" if table.bad and row in table.bad else str(value) for row, value in enumerate(values)]


def refuse_repeats(table: Table) -> None:
    """Refuses a question whose id an earlier one has, since scores are by id."""
    ids = [str(i) for i in table.columns.get("id", []) if not missing(i)]
    if len(ids) == len(set(ids)):
        return
    twice, seen = {i for i, count in Counter(ids).items() if count > 1}, set[str]()
    for row, value in enumerate(table.columns["id"]):
        if not missing(value) and str(value) in twice:
            if str(value) in seen:
                problem = f"{table.name(row)}: the id '{value}' occurs before"
                table.refuse(row, UserError("data", problem, "give each question an id of its own, or remove it"))
            seen.add(str(value))


# ---- answers ----


def answers_of(table: Table, contexts: Sequence[str], notes: Notes) -> list[list[Answer]]:
    """The answers of each question as they stand in its context, each once; none for a question without an answer.

    An answer whose offset points elsewhere is refused. One that is spelled in another Unicode form than the context is
    read as the context has it, and counted, as are answers with white space at their ends.
    """
    if "answers" not in table.columns and not {"answer", "answer_start"} <= table.columns.keys():
        raise UserError(
            "data",
            f"{table.where} has no column 'answers', only {', '.join(table.columns)}",
            "add it with text and answer_start for each answer, or the columns answer and answer_start",
        )
    found = []
    for row, context in enumerate(contexts):
        answers: list[Answer] = []
        try:
            if not (table.bad and row in table.bad):
                answers = [in_context(one, context, table.name(row), notes) for one in given(table, row)]
        except UserError as error:
            table.refuse(row, error)
            answers = []
        found.append(list(dict.fromkeys(answers)))
    return found


def given(table: Table, row: int) -> list[tuple[str, int]]:
    """(text, offset) of each answer as the file has it."""
    where = table.name(row)
    value = table.columns["answers"][row] if "answers" in table.columns else None
    if "answers" not in table.columns:
        one = {"text": table.columns["answer"][row], "answer_start": table.columns["answer_start"][row]}
        value = [] if missing(one["text"]) else [one]
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):  # in a cell of a CSV file
        try:
            value = written(value)
        except ValueError as error:
            raise UserError("data", f"{where}: 'answers' is {value!r:.40}, not JSON ({error})", MEND) from None
    if isinstance(value, dict):  # as `datasets` has them: lists of texts and of offsets
        texts, starts = value.get("text"), value.get("answer_start")
        texts, starts = (list(v) if isinstance(v, list | tuple) else [] if v is None else [v] for v in (texts, starts))
        if len(texts) != len(starts):
            raise UserError("data", f"{where}: {len(texts)} texts of answers, but {len(starts)} offsets", MEND)
        value = [{"text": t, "answer_start": s} for t, s in zip(texts, starts, strict=True)]
    if value is None:
        raise UserError("data", f"{where} has no 'answers'", MEND)
    if not isinstance(value, list):
        raise UserError("data", f"{where}: 'answers' is {kind_of(value)}, not a list", MEND)
    said = table.columns["is_impossible"][row] if "is_impossible" in table.columns else None
    impossible = indicator(said)
    if impossible is None and not missing(said):
        raise UserError("data", f"{where}: is_impossible is {said!r:.40}, not true or false", MEND)
    if impossible == 1 and value:
        raise UserError("data", f"{where} is_impossible, but has {len(value)} answers", MEND)
    if impossible == 0 and not value:
        raise UserError("data", f"{where} has no answers, but is not is_impossible", MEND)
    return [text_and_start(one, where) for one in value]


def text_and_start(one: Any, where: str) -> tuple[str, int]:
    """Text and offset of one answer. Raises UserError if one is missing or of another kind."""
    if not isinstance(one, dict):
        raise UserError("data", f"{where}: an answer is {kind_of(one)}, not an object with text and answer_start", MEND)
    for key in ("text", "answer_start"):
        if missing(one.get(key)):
            lacks = f"an answer has no '{key}'{nearest(key, one)}"
            lacks = f"'{key}' of an answer is {said(one[key])}" if key in one else lacks
            raise UserError("data", f"{where}: {lacks}", MEND)
    check_text(one["text"], "an answer", where, "data")
    start = number(one["answer_start"])
    if start is None or start != int(start):
        raise UserError("data", f"{where}: answer_start is {one['answer_start']!r}, not a whole number", MEND)
    return one["text"], int(start)


def in_context(given: tuple[str, int], context: str, where: str, notes: Notes) -> Answer:
    """An answer as it stands in the context. Raises UserError if it is not at its offset."""
    text, start = given
    if not 0 <= start < len(context):
        problem = f"{where}: answer_start {start} is outside the context, which has {len(context)} characters"
        raise UserError("data", problem, MEND)
    if text.strip() != text:
        notes.add("white space at the ends of an answer is left out", where)
        start, text = start + len(text) - len(text.lstrip()), text.strip()
    if context[start : start + len(text)] == text:
        return Answer(start, text)
    plain = normalize("NFC", text)
    for end in range(start + 1, min(len(context), start + 4 * len(text)) + 1):
        if normalize("NFC", context[start:end]) == plain:
            notes.add("an answer in another Unicode form than its context is read as the context has it", where)
            return Answer(start, context[start:end])
    there = context[start : start + len(text)]
    once = f" (it is at {context.index(text)}, in characters)" if context.count(text) == 1 else ""
    problem = f"{where}: the answer {text!r:.60} is not at its offset {start}, where {there!r:.60} is{once}"
    raise UserError("data", problem, MEND)
