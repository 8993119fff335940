"""Samples of several parts: questions with a context or with choices, source texts, prompts and conversations."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from sft_lightning.core.errors import UserError
from sft_lightning.data.text.choice_rows import ChoiceRows
from sft_lightning.data.text.choice_table import read_choices
from sft_lightning.data.text.files import Table, check_text, read_table
from sft_lightning.data.text.layouts import layout_of
from sft_lightning.data.text.notes import Notes
from sft_lightning.data.text.pair_rows import PairRows
from sft_lightning.data.text.prompts import Prompts
from sft_lightning.data.text.questions import QuestionRows
from sft_lightning.data.text.tokens import Tokens
from sft_lightning.networks.base import Network
from sft_lightning.serve.items import Found, Item, Prepared
from sft_lightning.serve.text_items import TextReader


class RowReader(TextReader):
    """Samples with named parts, read as the rows of a table."""

    fields: ClassVar[tuple[str, ...]]
    needed: ClassVar[tuple[str, ...]]
    """Fields that hold a text in every sample"""

    def check(self, item: Item) -> None:
        row = self.row(item)
        if others := [name for name in row if name not in self.fields]:
            raise UserError(
                "data", f"{item.name} has {', '.join(others)}, and the model takes {', '.join(self.fields)}"
            )
        if not row:
            raise UserError("data", f"{item.name} has no text: {', '.join(self.fields)} are empty")
        for name in self.needed:
            check_text(row.get(name), name, item.name, "data")
        self.samples(table_of([row], item.name))

    def row(self, item: Item) -> Mapping[str, Any]:
        """An item's fields."""
        if item.row is None:
            raise UserError("data", f"{item.name} must have {' and '.join(self.needed)}")
        return item.row

    @abstractmethod
    def samples(self, table: Table) -> Tokens:
        """A table's rows, not yet tokenised. Raises UserError for a row of the wrong form, or notes it in `table.bad`."""

    def batches(self, items: Sequence[Item]) -> Found:
        rows = [self.row(item) for item in items]
        of_form: dict[tuple[str, ...], list[int]] = {}
        for number, row in enumerate(rows):
            of_form.setdefault(tuple(name for name in self.fields if name in row), []).append(number)
        for at in of_form.values():
            table = table_of([rows[n] for n in at], "request")
            table.bad = {}
            yield from self.cut(at, items, self.samples(table), table.bad)


class OneTable(Table):
    """Samples of a request or a file, which its name already says."""

    def name(self, row: int) -> str:
        return self.where


def table_of(rows: Sequence[Mapping[str, Any]], where: str) -> Table:
    """Rows that have the same fields, as a table. The first row that cannot be used is an error."""
    return OneTable(where, {name: [row[name] for row in rows] for name in rows[0]})


class QuestionReader(RowReader):
    """Questions, each with the text that answers it."""

    kind = "questions"
    fields = needed = ("question", "context")

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(network, arguments, device)
        self.stride: int | None = arguments.get("doc_stride")

    def samples(self, table: Table) -> Tokens:
        return AskedRows(table.columns["question"], table.columns["context"], None, table, self.stride)

    def sizes(self, samples: Tokens) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(samples, QuestionRows)
        windows = samples.windows_of(np.arange(len(samples)))
        return windows, np.maximum.reduceat(samples.ids.lengths, samples.windows[:-1])

    def example(self) -> Item:
        return Item("example", row={"question": "What is this?", "context": "This is a text."})


class AskedRows(QuestionRows):
    """Questions of which those without a token that may answer are refused."""

    def tokenise(self) -> None:
        super().tokenise()
        if self.table.bad is not None:
            self.table.bad |= dict.fromkeys(
                np.flatnonzero(self.silent).tolist(), "has a context without a token that may answer"
            )


class ChoiceReader(RowReader):
    """Questions with choices, perhaps after a context."""

    kind = "choices"
    fields, needed = ("question", "context", "choices"), ("question",)

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(network, arguments, device)
        known = arguments.get("class_path") is not None
        self.contexts: bool | None = bool(arguments.get("context_column")) if known else None
        """Whether questions have contexts; None if that is unknown"""

    def check(self, item: Item) -> None:
        row = self.row(item)
        if row.get("choices") is None:
            raise UserError("data", f"{item.name} must have question and choices")
        if self.contexts is not None and self.contexts != ("context" in row):
            has, tuned = ("no", "with") if self.contexts else ("a", "without")
            raise UserError("data", f"{item.name} has {has} context, and the model was tuned {tuned} contexts")
        super().check(item)

    def samples(self, table: Table) -> Tokens:
        choices = read_choices(table, None, "choices", Notes())
        return ChoiceRows(table.columns["question"], choices, None, table, table.columns.get("context"))

    def sizes(self, samples: Tokens) -> tuple[np.ndarray, np.ndarray]:
        assert isinstance(samples, ChoiceRows)
        longest = np.zeros(len(samples), dtype=np.int64)
        np.maximum.at(longest, np.repeat(np.arange(len(samples)), samples.counts), samples.ids.lengths)
        return samples.counts, longest

    def example(self) -> Item:
        context = {"context": "This is a text."} if self.contexts else {}
        return Item("example", row={**context, "question": "What is this?", "choices": ["a text", "an image"]})


class PairReader(RowReader):
    """Source texts, for which a network writes others."""

    kind = "pairs"
    fields = needed = ("text",)
    generates = True

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(network, arguments, device)
        self.prefix = str(arguments.get("source_prefix") or "")

    def row(self, item: Item) -> Mapping[str, Any]:
        if item.row is not None or item.text is None:
            raise UserError("data", f"{item.name} must be a text")
        return {"text": item.text}

    def check(self, item: Item) -> None:
        if item.pair is not None:
            raise UserError("data", f"{item.name} has a pair, and the model takes single texts")
        super().check(item)

    def samples(self, table: Table) -> Tokens:
        return PairRows(table.columns["text"], None, table, self.prefix)

    def example(self) -> Item:
        return Item("example", "a text")


class PromptReader(RowReader):
    """Prompts or conversations, which a language model goes on from. A plain text is a prompt in the form of the training data,
    or, if that is unknown, the user's turn for a chat template, or else a prompt as it is.
    """

    kind = "tokens"
    fields = ("messages", "prompt", "instruction", "input", "system")
    needed = ()
    generates = True

    def __init__(self, network: Network, arguments: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(network, arguments, device)
        chat = bool(getattr(self.tokenizer, "chat_template", None))
        self.trained = trained_table(arguments)
        layout = layout_of(self.trained) if self.trained is not None else None
        self.form = layout[0] if layout is not None else "messages" if chat else "prompt"
        self.longest: int | None = getattr(network, "longest_prompt", None)

    def row(self, item: Item) -> Mapping[str, Any]:
        if item.row is not None:
            return item.row
        text = item.text or ""
        check_text(text, "text", item.name, "data")
        if self.form in ("prompt", "instruction"):
            return {self.form: text}
        return {"messages": [{"role": "user", "content": text}]}

    def check(self, item: Item) -> None:
        if item.pair is not None or item.words is not None:
            raise UserError("data", f"{item.name} must be a text, or have {', '.join(self.fields)}")
        super().check(item)

    def samples(self, table: Table) -> Tokens:
        return Prompts(table, self.trained)

    def prepared(self, at: list[int], samples: Tokens, rows: list[int]) -> Prepared:
        """One batch. A prompt is truncated if it is longer than leaves room for an answer."""
        made = super().prepared(at, samples, rows)
        assert isinstance(samples, Prompts)
        most = self.longest
        made.truncated = [most is not None and bool(samples.before_answer.lengths[row] > most) for row in rows]
        return made

    def example(self) -> Item:
        return Item("example", "a text\n")


def trained_table(arguments: Mapping[str, Any]) -> Table | None:
    """The first rows of a run's training file, whose form prompts get; None if the file is not there."""
    file = arguments.get("train") if arguments.get("of_run") else None
    if not isinstance(file, str) or not Path(file).expanduser().is_file():
        return None
    try:
        return read_table(file, "data.train", skip=True)
    except UserError:
        return None
