"""Turns the rows of a file into conversations: detects the layout of its columns, and reads the others."""

from collections.abc import Callable
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.files import Table, check_text
from sft_lightning.data.text.messages import (
    Conversation,
    chat,
    decoded,
    is_messages,
    without_nulls,
)
from sft_lightning.data.text.notes import Notes

LAYOUTS = (("messages",), ("conversations",), ("conversation",), ("instruction", "output"), ("prompt", "completion"))
"""Columns of each layout; the first layout whose columns are all present is used"""
SYSTEM = ("system", "system_prompt")
OPTIONS = "chat_template_kwargs"
ALPACA = (
    "Below is an instruction that describes a task{with_input}. "
    "Write a response that appropriately completes the request.\n\n"
)
TASK = "### Instruction:\n{instruction}\n\n"
WITH_INPUT = ", paired with an input that provides further context"


def layout_of(table: Table) -> tuple[str, ...] | None:
    """Columns of prompts and answers; None if the table has no known layout."""
    return next((layout for layout in LAYOUTS if all(c in table.columns for c in layout)), None)


def conversations(table: Table, notes: Notes | None = None) -> list[Conversation]:
    """Reads the rows of any of the layouts; rows that are left out have no messages."""
    notes = Notes() if notes is None else notes
    layout = layout_of(table)
    if layout is None:
        raise no_layout(table)
    read = {"instruction": _alpaca, "prompt": _completion}.get(layout[0], _chat)
    used = {*layout, *SYSTEM, "tools", OPTIONS} | ({"input", "history"} if read is _alpaca else set())
    unused = [n for n, values in table.columns.items() if n not in used and any(v is not None for v in values)]
    if unused:
        notes.add(f"columns not used: {', '.join(unused[:8])}{', …' if len(unused) > 8 else ''}", table.where)
    found = []
    for row in range(len(table)):
        try:
            found.append(_one(read, {n: v[row] for n, v in table.columns.items()}, layout, table, row, notes))
        except UserError as error:
            table.refuse(row, error)
            found.append(Conversation([]))
    return found


def no_layout(table: Table) -> UserError:
    """The error for a table without a known layout."""
    columns = table.columns
    if "chosen" in columns and "rejected" in columns:
        return UserError(
            "data",
            f"{table.where} has chosen and rejected answers, but learning from preferences is not supported",
            "to learn from the chosen ones, write them as column completion",
        )
    wanted = ("messages", "instruction", "output", "prompt", "completion", "conversations")
    close = next((hint for name in columns if (hint := nearest(name, wanted))), "")
    return UserError(
        "data",
        f"{table.where} has an unknown layout, with columns {', '.join(columns)}{close}",
        "use prompt and completion, or instruction, input and output, or messages",
    )


def _one(
    read: Callable[..., Conversation],
    values: dict[str, Any],
    layout: tuple[str, ...],
    table: Table,
    row: int,
    notes: Notes,
) -> Conversation:
    name = table.name(row)
    systems = {c: values[c] for c in SYSTEM if values.get(c) not in (None, "")}
    for column, text in systems.items():
        check_text(text, column, name, "data.train")
    if len(systems) > 1:
        raise UserError("data", f"{name}: {' and '.join(systems)} both hold a system prompt", "keep one of them")
    made = read(values, layout, next(iter(systems.values()), None), name, notes)
    tools = decoded(values.get("tools"), "tools", name)
    if tools not in (None, "", []):
        if not isinstance(tools, list) or not is_messages(tools):
            raise UserError("data", f"{name}: tools must be a list of objects (JSON schemas)")
        made.tools = tools
    options = decoded(values.get(OPTIONS), OPTIONS, name)
    if options not in (None, "", {}):
        if not isinstance(options, dict) or not set(options).isdisjoint(RESERVED):
            raise UserError("data", f"{name}: {OPTIONS} must be an object with variables of the chat template")
        made.options = options
    if not table.where.lower().endswith((".json", ".jsonl")):
        made.messages, made.tools = without_nulls_inside(made.messages), without_nulls(made.tools)
    return made


RESERVED = {"tokenize", "add_generation_prompt", "messages", "tools", "conversation", "return_dict", "chat_template"}


def without_nulls_inside(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages without the nulls that parquet added to their lists and objects."""
    return [{k: without_nulls(v) if isinstance(v, list | dict) else v for k, v in m.items()} for m in messages]


# ---- layouts ----


def _chat(values: dict[str, Any], layout: tuple[str, ...], system: str | None, row: str, notes: Notes) -> Conversation:
    return chat(values[layout[0]], row, notes, column=layout[0], system=system)


def _turns(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _completion(
    values: dict[str, Any], layout: tuple[str, ...], system: str | None, row: str, notes: Notes
) -> Conversation:
    prompt, completion = values["prompt"], values["completion"]
    if is_messages(prompt) or is_messages(completion):
        parts = []
        for value, what, role in ((prompt, "prompt", "user"), (completion, "completion", "assistant")):
            if not is_messages(value):
                check_text(value, what, row, "data.train")
                value = {"role": role, "content": value}
            elif not value:
                raise UserError("data", f"{row}: {what} is empty", "fill it or remove the row")
            parts.append([value] if isinstance(value, dict) else value)
        return chat(parts[0] + parts[1], row, notes, column="completion", given=len(parts[0]), system=system)
    for value, what in ((prompt, "prompt"), (completion, "completion")):
        check_text(value, what, row, "data.train")
    joint = "" if prompt[-1].isspace() or completion[0].isspace() else "\n"
    return _with_system(_turns(prompt, completion), prompt + joint, system)


def _with_system(messages: list[dict[str, Any]], prompt: str, system: str | None) -> Conversation:
    if system is None:
        return Conversation(messages, prompt)
    return Conversation([{"role": "system", "content": system}, *messages], f"{system}\n\n{prompt}")


def _alpaca(
    values: dict[str, Any], layout: tuple[str, ...], system: str | None, row: str, notes: Notes
) -> Conversation:
    instruction, extra, output = values["instruction"], values.get("input"), values["output"]
    extra = "" if missing(extra) and not isinstance(extra, str) else extra  # null, or NaN as pandas has it
    check_text(instruction, "instruction", row, "data.train")
    check_text(output, "output", row, "data.train")
    check_text(extra, "input", row, "data.train", allow_empty=True)
    history = _history(values.get("history"), row)
    prompt = ALPACA.format(with_input=WITH_INPUT if extra else "")
    for question, answer in history:
        prompt += TASK.format(instruction=question) + f"### Response:\n{answer}\n\n"
    prompt += TASK.format(instruction=instruction)
    prompt += f"### Input:\n{extra}\n\n### Response:\n" if extra else "### Response:\n"
    before = [turn for question, answer in history for turn in _turns(question, answer)]
    turns = _turns(f"{instruction}\n{extra}" if extra else instruction, output)
    made = _with_system(before + turns, prompt, system)
    if history:
        notes.add("answers of column history are read as context, not learned from", row)
        made.trained = [len(made.messages) - 1]
    return made


def _history(history: Any, row: str) -> list[tuple[str, str]]:
    """Pairs of an instruction and its answer that came before."""
    history = decoded(history, "history", row)
    if history in (None, "", []):
        return []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise UserError("data", f"{row}: history must be a list of pairs, each an instruction and its answer")
    for number, pair in enumerate(history, 1):
        for value, what in zip(pair, ("instruction", "answer"), strict=True):
            check_text(value, f"the {what} of history's pair {number}", row, "data.train")
    return [(question, answer) for question, answer in history]
