"""From a row of a file to token ids: layouts, templates, and where the supervised answers lie.

An answer's span is found in the text (what the template writes with the answer, less what it writes without) and then
in the tokens: the text before the answer, tokenised alone, must give the first tokens of the whole, as it will when
the model is asked to go on from there. Where tokens merge across that boundary, the parts are tokenised apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from sft_lightning.data.sampler import Key
from sft_lightning.data.text.base import Ragged, Tokens
from sft_lightning.data.text.files import Table, check_text
from sft_lightning.errors import UserError, nearest

ROLES = ("system", "user", "assistant", "tool")
ALPACA = (
    "Below is an instruction that describes a task{with_input}. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
)
WITH_INPUT = ", paired with an input that provides further context"


@dataclass
class Conversation:
    """One sample: messages, and what to write where the tokenizer has no chat template."""

    messages: list[dict[str, Any]]
    prompt: str | None = None
    """The whole prompt as written without a chat template; None to write the messages one by one"""


@dataclass
class Rendered:
    """A text and the parts of it that are supervised, as (start, end) in characters."""

    text: str
    spans: list[tuple[int, int]] = field(default_factory=list)


# ---- layouts ----


def conversations(table: Table) -> list[Conversation]:
    """Reads the rows of any of the three layouts; rows that are left out have no messages."""
    columns = table.columns
    if "messages" in columns:
        return _each(table, _chat, columns["messages"])
    if "instruction" in columns and "output" in columns:
        inputs = columns.get("input", [""] * len(table))
        return _each(table, _alpaca, columns["instruction"], inputs, columns["output"])
    if "prompt" in columns and "completion" in columns:
        return _each(table, _completion, columns["prompt"], columns["completion"])
    wanted = ("messages", "instruction", "output", "prompt", "completion")
    close = next((hint for name in columns if (hint := nearest(name, wanted))), "")
    raise UserError(
        f"data: {table.where} has columns {', '.join(columns)}; wanted are prompt and completion, or instruction, input "
        f"and output, or messages{close}"
    )


def _each(table: Table, read: Callable[..., Conversation], *columns: list[Any]) -> list[Conversation]:
    found = []
    for row, values in enumerate(zip(*columns, strict=True)):
        try:
            found.append(read(*values, table.name(row)))
        except UserError as error:
            table.refuse(row, error)
            found.append(Conversation([]))
    return found


def _turns(question: str, answer: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _completion(prompt: Any, completion: Any, row: str) -> Conversation:
    if isinstance(prompt, list) and isinstance(completion, list):  # both as messages
        return _chat([*prompt, *completion], row)
    for value, what in ((prompt, "prompt"), (completion, "completion")):
        check_text(value, what, row, "data.train")
    joint = "" if prompt[-1].isspace() or completion[0].isspace() else "\n"
    return Conversation(_turns(prompt, completion), prompt + joint)


def _alpaca(instruction: Any, extra: Any, output: Any, row: str) -> Conversation:
    check_text(instruction, "instruction", row, "data.train")
    check_text(output, "output", row, "data.train")
    extra = extra or ""
    check_text(extra, "input", row, "data.train", allow_empty=True)
    prompt = ALPACA.format(with_input=WITH_INPUT if extra else "", instruction=instruction)
    prompt += f"### Input:\n{extra}\n\n### Response:\n" if extra else "### Response:\n"
    return Conversation(_turns(f"{instruction}\n{extra}" if extra else instruction, output), prompt)


def _chat(messages: Any, row: str) -> Conversation:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise UserError(f"data: {row}: messages is not a list of objects with role and content")
    for message in messages:
        role = str(message.get("role"))
        if role not in ROLES:
            raise UserError(f"data: {row}: role '{role}' is none of {', '.join(ROLES)}{nearest(role, ROLES)}")
        check_text(message.get("content"), f"the {role}'s content", row, "data.train", allow_empty=role != "assistant")
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    if not answers:
        raise UserError(f"data: {row}: messages has no assistant turn to learn from: add one or remove the row")
    return Conversation(messages[: answers[-1] + 1])


# ---- templates ----


def render(conversation: Conversation, tokenizer: Any, row: str) -> Rendered:
    """Writes a conversation out and marks its answers, each with its end-of-turn token."""
    if getattr(tokenizer, "chat_template", None):
        return _by_template(conversation.messages, tokenizer, row)
    eos = tokenizer.eos_token or ""
    if conversation.prompt is not None:
        text = conversation.prompt + conversation.messages[-1]["content"]
        text += "" if eos and text.endswith(eos) else eos
        return Rendered(text, [(len(conversation.prompt), len(text))])
    text, spans = "", []
    for message in conversation.messages:
        text += f"### {message['role'].capitalize()}:\n"
        start = len(text)
        text += message["content"]
        if message["role"] == "assistant":
            text += "" if eos and text.endswith(eos) else eos
            spans.append((start, len(text)))
        text += "\n\n"
    return Rendered(text[: spans[-1][1]], spans)


def _by_template(messages: list[dict[str, Any]], tokenizer: Any, row: str) -> Rendered:
    def write(upto: int, ask: bool) -> str:
        from jinja2 import TemplateError

        try:
            return str(tokenizer.apply_chat_template(messages[:upto], tokenize=False, add_generation_prompt=ask))
        except TemplateError as error:
            raise UserError(f"data: {row}: the tokenizer's chat template refuses it: {error}") from None

    text, spans, at = write(len(messages), False), [], 0
    answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for i in answers:
        start = at
        before, after = (write(i, True) if i else ""), (text if i == len(messages) - 1 else write(i + 1, False))
        said = messages[i]["content"].strip()
        asks = text[len(before) :].lstrip().startswith(said) or before != (write(i, False) if i else "")
        if before and asks and text.startswith(before) and text.startswith(after) and len(before) >= at:
            start, end = len(before), len(after)
        else:
            # The template has no generation prompt, or writes a turn in another way once others follow: find the words.
            start = text.find(said, max(at, _common(text, before)) if before else at)
            if start < 0:
                raise UserError(
                    f"data: {row}: the tokenizer's chat template changes what the assistant said in turn {i + 1}, so it "
                    "cannot be told what to learn: use another template"
                )
            tail = _tail(write(i + 1, False), said)
            end = start + len(said) + _common(text[start + len(said) :], tail)
        end = start + len(_to_last_special(text[start:end], tokenizer))
        spans.append((start, end))
        at = end
    text = text[: spans[-1][1]]
    eos = tokenizer.eos_token or ""
    if eos and not _ends_special(text, tokenizer):  # the template has no end of turn
        text += eos
        spans[-1] = (spans[-1][0], len(text))
    return Rendered(text, spans)


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _tail(text: str, said: str) -> str:
    return text[text.rfind(said) + len(said) :]


def _specials(tokenizer: Any) -> list[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [*tokenizer.all_special_tokens, *(t.content for t in added.values() if t.special)]


def _ends_special(text: str, tokenizer: Any) -> bool:
    return any(text.endswith(token) for token in _specials(tokenizer) if token)


def _to_last_special(answer: str, tokenizer: Any) -> str:
    """Without the white space that a template writes after the end of a turn: a model stops before it."""
    bare = answer.rstrip()
    return bare if _ends_special(bare, tokenizer) else answer


# ---- tokens ----


def encode(rendered: Sequence[Rendered], tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    """(token ids, 1 where supervised) of each; with one BOS where the tokenizer uses one."""
    bos = tokenizer.bos_token_id
    starts = bos is not None and [bos] == list(tokenizer("a")["input_ids"])[:1]
    whole = _ids([r.text for r in rendered], tokenizer)
    cuts = [sorted({c for span in r.spans for c in span if 0 < c < len(r.text)}) for r in rendered]
    heads = iter(_ids([r.text[:c] for r, cs in zip(rendered, cuts, strict=True) for c in cs], tokenizer))
    made = []
    for r, cs, ids in zip(rendered, cuts, whole, strict=True):
        before = [next(heads) for _ in cs]
        at = {0: 0, len(r.text): len(ids), **{c: len(head) for c, head in zip(cs, before, strict=True)}}
        if any(ids[: len(head)] != head for head in before):
            ids, at = _apart(r.text, cs, tokenizer)
        marks = [0] * len(ids)
        for start, end in r.spans:
            marks[at[start] : at[end]] = [1] * (at[end] - at[start])
        if starts and ids[:1] != [bos]:
            ids, marks = [bos, *ids], [0, *marks]
        if starts and ids[1:2] == [bos]:  # template and text brought one each
            ids, marks = ids[1:], marks[1:]
        made.append((ids, marks))
    return made


def _ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    return [list(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]]


def _apart(text: str, cuts: list[int], tokenizer: Any) -> tuple[list[int], dict[int, int]]:
    """Ids of the pieces between `cuts`, and where each cut lies in them."""
    edges = [0, *cuts, len(text)]
    ids: list[int] = []
    at = {0: 0}
    for start, end in pairwise(edges):
        ids += _ids([text[start:end]], tokenizer)[0]
        at[end] = len(ids)
    return ids, at


# ---- samples ----


class InstructionRows(Tokens):
    """Conversations as token ids, and which of them are supervised.

    Args:
        table: Where they come from.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(None)
        self.table = table
        self.conversations: list[Conversation] = conversations(table)
        self.supervised = Ragged([])

    def __len__(self) -> int:
        return len(self.conversations)

    def tokenise(self) -> None:
        """Truncates at the end; `supervised` marks tokens by position, so that padding with EOS takes nothing away."""
        rendered = []
        for row, conversation in enumerate(self.conversations):
            rendered.append(Rendered(""))
            if row in self.bad_rows():
                continue
            try:
                rendered[row] = render(conversation, self.tokenizer, self.name(row))
            except UserError as error:
                self.table.refuse(row, error)
        made = encode(rendered, self.tokenizer)
        self.truncated = np.array([self.max_length is not None and len(ids) > self.max_length for ids, _ in made])
        self.ids = Ragged([ids[: self.max_length] for ids, _ in made])
        self.supervised = Ragged([[0, *marks[1 : self.max_length]] for _, marks in made], np.int8)

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
        return sha256(repr([c.messages for c in self.conversations]).encode("utf-8", "surrogatepass")).digest()

    def bad_rows(self) -> dict[int, str]:
        return self.table.bad or {}

    def name(self, row: int) -> str:
        return self.table.name(row)
