"""Conversations as samples: token ids, and which of them a model learns."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import Texts
from sft_lightning.data.findings import content
from sft_lightning.data.sampler import Key
from sft_lightning.data.text.answer_tokens import encode
from sft_lightning.data.text.base import Ragged, Tokens
from sft_lightning.data.text.chat_template import ChatTemplate, DamagedTemplate, Rendered, render_plainly
from sft_lightning.data.text.files import Table
from sft_lightning.data.text.layouts import conversations
from sft_lightning.data.text.messages import Conversation
from sft_lightning.data.text.notes import Notes


class InstructionRows(Tokens):
    """Conversations as token ids, and which of them are supervised.

    Args:
        table: The table that holds them.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(None)
        self.table = table
        self.read = Notes()
        """Columns and keys that are not used, and roles that are read as others"""
        self.conversations: list[Conversation] = conversations(table, self.read)
        self.supervised = Ragged([])
        self.written = Notes()
        """Parts that the tokenizer's chat template leaves out or changes"""
        self.ends: np.ndarray = np.zeros(0, dtype=np.int64)
        """The token that ends each row's last answer; -1 if there is none"""
        self.before_answer = Ragged([])
        """The tokens before each row's last answer that is learned, from which a model generates"""
        self.answers = Ragged([])
        """The tokens of that answer"""

    def __len__(self) -> int:
        return len(self.conversations)

    def tokenise(self) -> None:
        """Truncates at the end. `supervised` marks tokens by position, so that EOS is learned even if it also pads."""
        rendered, self.written = [], Notes()
        template = ChatTemplate(self.tokenizer) if getattr(self.tokenizer, "chat_template", None) else None
        for row, conversation in enumerate(self.conversations):
            rendered.append(Rendered(""))
            if row in self.bad_rows():
                continue
            try:
                rendered[row] = (
                    template.render(conversation, self.name(row), self.written)
                    if template is not None
                    else render_plainly(conversation, self.tokenizer, self.name(row), self.written)
                )
            except DamagedTemplate:
                raise
            except UserError as error:
                self.table.refuse(row, error)
        made = encode(rendered, self.tokenizer)
        for row, one in enumerate(rendered):
            if one.ended and not one.ended[-1]:
                self.written.add("answers have no token that ends them: stopping is not learned", self.name(row))
            elif not all(one.ended):
                self.written.add("answers before the last have no token that ends them", self.name(row))
        closed = [bool(one.ended) and one.ended[-1] for one in rendered]
        self.ends = np.array([ids[-1] if shut else -1 for (ids, _), shut in zip(made, closed, strict=True)], np.int64)
        starts = [last_run(marks) for _, marks in made]
        self.before_answer = Ragged([ids[:start] for (ids, _), start in zip(made, starts, strict=True)])
        self.answers = Ragged([ids[start:] for (ids, _), start in zip(made, starts, strict=True)])
        self.truncated = np.array([self.max_length is not None and len(ids) > self.max_length for ids, _ in made])
        self.ids = Ragged([ids[: self.max_length] for ids, _ in made])
        self.supervised = Ragged([[0, *marks[1 : self.max_length]] for _, marks in made], np.int8)

    def answer(self, row: int) -> str:
        """The last answer that is learned: as the file has it, or as its tokens say if the template writes more or else, such
        as thoughts before it.
        """
        conversation = self.conversations[row]
        if not conversation.messages or not len(self.answers[row]):
            return ""
        text: str = self.tokenizer.decode(self.answers[row].tolist(), skip_special_tokens=True)
        content = conversation.messages[conversation.learned[-1]].get("content")
        return content if isinstance(content, str) and content.strip() == text.strip() else text

    def prompts(self, rows: Sequence[int]) -> dict[str, Any]:
        """All that comes before the last answer, padded on the left, and that answer. It begins at the answer's own tokens, so
        that a model continues from what it saw in training.
        """
        self.ready()
        lengths = torch.from_numpy(self.before_answer.lengths[list(rows)])
        width = max(1, int(lengths.max()))
        ids = self.before_answer.padded(rows, width, self.tokenizer.pad_token_id or 0, left=True)
        mask = (torch.arange(width)[None] < lengths[:, None]).flip(-1).long()
        prompt = {"input_ids": ids, "attention_mask": mask}
        return {"prompt": prompt, "references": Texts((self.answer(row),) for row in rows)}

    def taught_ends(self, rows: np.ndarray) -> list[int]:
        """The tokens that end the answers of these rows, without truncated rows; sorted."""
        self.ready()
        ends = self.ends[rows][~self.truncated[rows]]
        return [int(end) for end in np.unique(ends[ends >= 0])]

    def notes(self) -> list[Notes]:
        """What was left out or converted, in reading and in writing."""
        return [self.read, self.written]

    def kept(self) -> np.ndarray:
        """Which rows have a supervised token left after truncation."""
        self.ready()
        return np.array([bool(self.supervised[row].any()) for row in range(len(self))])

    def fetch(self, rows: Sequence[int], keys: Sequence[Key], train: bool) -> dict[str, Any]:
        """`select[B, T]` at the positions whose next token is supervised; `y` those tokens, in the same order."""
        x = self.batch(rows)
        ids = x["input_ids"]
        target = self.supervised.padded(rows, ids.shape[1], 0, self.left).bool()
        select = torch.zeros_like(target)
        select[:, :-1] = target[:, 1:]
        return {**x, "select": select, "y": ids[:, 1:][target[:, 1:]]}

    def digest(self) -> bytes:
        return sha256(repr([c.content() for c in self.conversations]).encode("utf-8", "surrogatepass")).digest()

    def contents(self) -> np.ndarray:
        said = (content(repr(c.content()).encode("utf-8", "surrogatepass")) for c in self.conversations)
        return np.fromiter(said, dtype=np.uint64, count=len(self))

    def bad_rows(self) -> dict[int, str]:
        return self.table.bad or {}

    def name(self, row: int) -> str:
        return self.table.name(row)


def last_run(marks: Sequence[int]) -> int:
    """Where the last run of ones begins; the length if there is none."""
    end = next((at for at in range(len(marks), 0, -1) if marks[at - 1]), 0)
    return next((at for at in range(end, 0, -1) if not marks[at - 1]), 0) if end else len(marks)
