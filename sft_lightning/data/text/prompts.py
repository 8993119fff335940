"""Prompts without answers, for predicting: rows in any layout of Instructions, from which a language model goes on."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sft_lightning.data.sampler import Key
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.conversation import InstructionRows
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.layouts import LAYOUTS
from sft_lightning.data.text.messages import ALIASES, decoded, is_messages

ANSWER = "?"
"""Stands for the answers in writing a prompt, so that it is written as in training, up to where its answer begins"""
ANSWERS = {"prompt": "completion", "instruction": "output"}


class Prompts(InstructionRows):
    """Prompts as token ids. Nothing is supervised; `prompts` gives what comes before the answer.

    Args:
        table: The table that holds them; answers in it are not read.
        space: White space with which the training answers begin, if prompts and completions are texts.
    """

    def __init__(self, table: Table, space: str = "") -> None:
        super().__init__(with_answers(table, space))

    def kept(self) -> np.ndarray:
        """All rows: a prompt may be longer than max_length, and is then cut at the left."""
        self.ready()
        return np.ones(len(self), dtype=bool)

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        made = super().fetch(rows, keys, train)
        made.pop("y", None)
        made.pop("bytes", None)
        return {**made, "select": made["select"] & False}


def with_answers(table: Table, space: str = "") -> Table:
    """The table with a placeholder in the place of each last answer."""
    columns = dict(table.columns)
    layout = next((layout for layout in LAYOUTS if layout[0] in columns), None)
    if layout is None:
        return table  # which has no known layout, as reading it will say
    first = layout[0]
    if (answer := ANSWERS.get(first)) is not None:
        columns[answer] = [_like(value, space) for value in columns[first]]
    else:
        columns[first] = [_asked(value, first, table.name(row)) for row, value in enumerate(columns[first])]
    return replace(table, columns=columns)


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
    key, content = (
        ("from", "value") if asked and "from" in asked[-1] and "role" not in asked[-1] else ("role", "content")
    )
    return [*asked, {key: "assistant", content: ANSWER}] if asked else value


def _role(message: dict[str, Any]) -> str:
    named = str(message.get("role") or message.get("from"))
    return ALIASES.get(named, named)


def leading_space(table: Table) -> str:
    """White space with which the completions of a training file begin: that of the first one that is a text."""
    for value in table.columns.get("completion", []):
        if isinstance(value, str) and not missing(value):
            return value[: len(value) - len(value.lstrip())]
    return ""
