"""Prompts without answers, for predicting: rows in any layout of Instructions, from which a language model goes on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.conversation import InstructionRows
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.layouts import LAYOUTS, layout_of
from sft_lightning.data.text.messages import ALIASES, decoded, is_messages

ANSWER = "?"
"""Stands for the answers in writing a prompt, so that it is written as in training, up to where its answer begins"""
ANSWERS = {"prompt": "completion", "instruction": "output"}


class Prompts(InstructionRows):
    """Prompts as token ids. Nothing is supervised; `prompts` gives what comes before the answer.

    Args:
        table: The table that holds them; answers in it are not read.
        trained: The training file, whose layout and white space before answers prompts get too; None if it is not there.
    """

    def __init__(self, table: Table, trained: Table | None = None) -> None:
        super().__init__(with_answers(table, trained))

    def kept(self) -> np.ndarray:
        """All rows: a prompt may be longer than max_length, and is then cut at the left."""
        self.ready()
        return np.ones(len(self), dtype=bool)

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        made = super().fetch(rows, keys, train)
        made.pop("y", None)
        made.pop("bytes", None)
        return {**made, "select": made["select"] & False}


def with_answers(table: Table, trained: Table | None = None) -> Table:
    """The table with a placeholder in the place of each last answer."""
    columns = dict(table.columns)
    known = layout_of(trained) if trained is not None else layout_of(table)
    likely = ([known] if known is not None else []) + list(LAYOUTS)
    layout = next((layout for layout in likely if layout[0] in columns), None)
    if layout is None:
        return table  # which has no known layout, as reading it will say
    first = layout[0]
    for made in LAYOUTS:  # a column of answers in another layout must not decide how the table is read
        if made != layout and made[0] in columns:
            columns.pop(made[-1], None)
    if (answer := ANSWERS.get(first)) is not None:
        space = "" if answer != "completion" else space_before(table, trained)
        columns[answer] = [_like(value, space) for value in columns[first]]
        return replace(table, columns=columns)
    asked = []
    for row, value in enumerate(columns[first]):
        try:
            asked.append(_asked(value, first, table.name(row)))
        except UserError as error:
            table.refuse(row, error)
            asked.append(value)
    return replace(table, columns={**columns, first: asked})


def _like(prompt: Any, space: str) -> Any:
    """An answer in the form of its prompt: a message for messages, a text for a text."""
    return [{"role": "assistant", "content": ANSWER}] if is_messages(prompt) and prompt else space + ANSWER


def _asked(value: Any, column: str, row: str) -> Any:
    """A conversation up to its last question, with a placeholder for the answer; what is no conversation stays as it is."""
    messages = decoded(value, column, row)
    if not isinstance(messages, list) or not is_messages(messages):
        return value
    asked = list(messages)
    while asked and _role(asked[-1]) == "assistant":
        asked.pop()
    if not any(_role(message) != "system" for message in asked):
        raise UserError("data", f"{row}: {column} has no question to answer", "add a turn of the user")
    keys = ("from", "value") if "from" in asked[-1] and "role" not in asked[-1] else ("role", "content")
    return [*asked, {keys[0]: "assistant", keys[1]: ANSWER}]


def _role(message: dict[str, Any]) -> str:
    named = str(message.get("role") or message.get("from"))
    return ALIASES.get(named, named)


def space_before(table: Table, trained: Table | None) -> str:
    """White space with which answers begin: that of the training file's first completion.

    Raises UserError if there is no training file, and a prompt does not end with white space, which would decide too.
    """
    if trained is not None:
        for value in trained.columns.get("completion", []):
            if isinstance(value, str) and not missing(value):
                return value[: len(value) - len(value.lstrip())]
        return ""
    for row, prompt in enumerate(table.columns["prompt"]):
        if isinstance(prompt, str) and prompt and not prompt[-1].isspace():
            raise UserError(
                "data.predict",
                f"{table.name(row)}: the training file is not there, so it is unknown whether answers begin with a space or on "
                "a new line",
                "set data.train to it, or end each prompt with that white space",
            )
    return ""
