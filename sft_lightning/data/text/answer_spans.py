"""Finds the answers in the text of a chat template, which writes the conversation again with a mark for each answer.

The text around a mark is also the text around its answer, whatever the answer says and however the template trims it. An
answer begins where the template's prompt for it ends: thoughts and calls that the template writes before its words are
the assistant's own. It ends with the token that ends a turn. Conversations whose answers cannot be found so are refused.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.data.text.messages import CALLS

Message = dict[str, Any]
OPEN, CLOSE = "\ue0f5", "\ue0f6"  # from the private use area, which texts do not use
REASONING = ("reasoning_content", "reasoning", "thinking")
THOUGHTS = tuple(re.compile(pattern, re.DOTALL) for pattern in (r".*</think>", r".*</think>\s*", r""))
"""Patterns of thoughts at the beginning of a content, tried in turn. They stay before a mark: templates look for them."""


@dataclass
class Piece:
    """The place of an answer's words, and the text that the template wrote between the previous answer and them."""

    turn: int
    head: str
    """Thoughts that the content begins with, without the white space around them"""
    before: str
    start: int
    end: int


class AnswerSpans:
    """Finds the answers of one conversation in the text that the template wrote.

    Args:
        messages: The messages that the template was given; the last is an answer.
        text: The text that it wrote.
        write: Writes other messages, with the generation prompt if the second argument is true.
        controls: Tokens that may end a turn.
        row: The row's name, for messages.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        text: str,
        write: Callable[[Sequence[Message], bool], str],
        controls: Sequence[str],
        row: str,
    ) -> None:
        self.messages, self.text, self.write, self.controls, self.row = list(messages), text, write, controls, row
        self.answers = [i for i, m in enumerate(messages) if m["role"] == "assistant"]

    def find(self) -> list[tuple[int, int]]:
        """(start, end) in characters of every answer, its end included.

        Raises:
            UserError: The template writes the rest of the conversation differently if an answer differs.
        """
        if OPEN in self.text:
            raise UserError(
                "data", f"{self.row}: a text holds the character U+E0F5, which is reserved as a mark", "remove it"
            )
        thinks = any(THOUGHTS[0].match(self.messages[i].get("content") or "") for i in self.answers)
        for thoughts in THOUGHTS[:-1] if thinks else ():
            try:
                return self._find(thoughts)
            except UserError:
                continue
        return self._find(THOUGHTS[-1])

    def _find(self, thoughts: re.Pattern[str]) -> list[tuple[int, int]]:
        heads = [_match(thoughts, self.messages[i]) for i in self.answers]
        marked = list(self.messages)
        for i, head in zip(self.answers, heads, strict=True):
            marked[i] = _marked(self.messages[i], head, f"{OPEN}{i}{CLOSE}")
        parts = re.split(f"{OPEN}(\\d+){CLOSE}", self.write(marked, False))
        if [int(n) for n in parts[1::2]] != self.answers:
            raise self._ambiguous(self.answers[0])
        around = parts[::2]
        pieces = self._align(heads, around)
        asked, plain = self._asked(self.answers[-1])
        spans = []
        for piece, tail in zip(pieces, self._tails(marked, around), strict=True):
            earlier = not asked and piece.turn != self.answers[-1]  # a template may end its prompts in several ways
            start = piece.start - self._said_before(piece, asked, self._asked(piece.turn)[1] if earlier else plain)
            answer = self.text[start : piece.end + len(tail)]
            bare = answer.rstrip()  # a model stops before the white space after the end of a turn
            spans.append((start, start + len(bare if bare.endswith(tuple(self.controls)) else answer)))
        return spans

    def _ambiguous(self, turn: int) -> UserError:
        return UserError(
            "data",
            f"{self.row}: the tokenizer's chat template changes the assistant's answer in turn {turn + 1}, or writes the "
            "rest of the conversation differently if the answer differs, so the tokens to learn cannot be found",
            "use another template",
        )

    # ---- words ----

    def _align(self, heads: Sequence[str], around: Sequence[str]) -> list[Piece]:
        """Finds the answers' words, which lie between the parts of the text `around` the marks."""
        pieces, at, text = [], 0, self.text
        for number, (i, head) in enumerate(zip(self.answers, heads, strict=True)):
            before, after = around[number], around[number + 1]
            last = number == len(heads) - 1
            if not text.startswith(before, at):
                raise self._ambiguous(i)
            start, end = at + len(before), -1
            for said in _as_written(self.messages[i], head):
                stop = start + len(said)
                if text.startswith(said + after, start) and (not last or stop + len(after) == len(text)):
                    end = stop
                    break
            if end < 0 and last and text.endswith(after) and len(text) - len(after) >= start:
                end = len(text) - len(after)
            elif end < 0 and not last and after and text.count(after, start) == 1:
                end = text.find(after, start)
            if end < 0:
                raise self._ambiguous(i)
            pieces.append(Piece(i, head.strip(), before, start, end))
            at = end
        return pieces

    # ---- beginnings ----

    def _asked(self, turn: int) -> tuple[str, str]:
        """(the generation prompt before an answer, empty if the template has none; the text before that)."""
        try:
            plain, asking = (self.write(self.messages[:turn], ask) for ask in (False, True)) if turn else ("", "")
        except UserError:
            return "", ""
        return (asking[len(plain) :] if asking.startswith(plain) else ""), plain

    def _said_before(self, piece: Piece, asked: str, plain: str) -> int:
        """Counts the characters before an answer's words that the assistant writes itself: thoughts, calls, a space."""
        message, before = self.messages[piece.turn], piece.before
        bare = before.rstrip()
        thoughts = len(bare) - len(piece.head) if piece.head and bare.endswith(piece.head) else -1
        at = before.rfind(asked, 0, thoughts if thoughts >= 0 else len(before)) if asked else -1
        if at >= 0:
            return len(before) - at - len(asked)
        if piece.head or message.get(CALLS) or any(message.get(key) for key in REASONING):
            return self._unasked(piece, thoughts, plain)
        return len(_space(before, plain))

    def _unasked(self, piece: Piece, thoughts: int, plain: str) -> int:
        """As `_said_before`, for thoughts and calls in a template without a generation prompt: the text that it writes before
        a plain answer is not the assistant's. `thoughts` is where the content's thoughts begin, or -1.
        """
        earlier, before = self.messages[: piece.turn], piece.before
        prompt = self.write(earlier, False) if earlier else ""
        simple = self.write([*earlier, {"role": "assistant", "content": OPEN}], False).partition(OPEN)[0]
        header = simple.removeprefix(prompt)
        if header.strip() and (at := before.rfind(header)) >= 0:
            return len(before) - at - len(header)
        if thoughts >= 0:
            return len(before) - thoughts + len(_space(before[:thoughts], plain))
        if prompt and not header.strip() and self.text.startswith(prompt) and len(prompt) <= piece.start:
            return piece.start - len(prompt)
        raise self._ambiguous(piece.turn)

    # ---- ends ----

    def _tails(self, marked: Sequence[Message], around: Sequence[str]) -> list[str]:
        """The text after each answer's words that belongs to the answer: the end of the turn, and calls if there are any."""
        closing = around[-1]
        calls = {i for i in self.answers if self.messages[i].get(CALLS)}
        tails = []
        for i, after in zip(self.answers, around[1:], strict=True):
            end = closing
            if i != self.answers[-1] and (i in calls or self.answers[-1] in calls):
                end = self.write(marked[: i + 1], False).rpartition(CLOSE)[2]
            if not after.startswith(end):  # the end of the conversation differs from that of a turn
                same = after[: _common(after, end)]
                end = same[: max((same.rfind(c) + len(c) for c in self.controls if c in same), default=0)]
            tails.append(end)
        return tails


# ---- parts of messages ----


def _match(thoughts: re.Pattern[str], message: Message) -> str:
    found = thoughts.match(message.get("content") or "")
    return found[0] if found else ""


def _called(message: Message) -> Message:
    """The first function that a message calls."""
    first: Message = message[CALLS][0]
    function = first.get("function")
    return function if isinstance(function, dict) else first


def _marked(message: Message, head: str, mark: str) -> Message:
    """Replaces a message's words by a mark: those after its thoughts, or the name of the first function it calls."""
    if not message.get(CALLS):
        return {**message, "content": head + mark}
    function, (first, *others) = {**_called(message), "name": mark}, message[CALLS]
    return {**message, CALLS: [{**first, "function": function} if "function" in first else function, *others]}


def _as_written(message: Message, head: str) -> list[str]:
    """The ways in which a template may write the words that a mark replaces."""
    if message.get(CALLS):
        return [str(_called(message).get("name"))]
    said = (message.get("content") or "").removeprefix(head)
    return list(dict.fromkeys((said, said.strip(), said.lstrip(), said.rstrip(), said.strip("\n"), said.lstrip("\n"))))


def _space(before: str, plain: str) -> str:
    """White space before an answer that the prompt does not end with, so that a model has to write it."""
    mine, theirs = before.rstrip(), plain.rstrip()
    more, there = before[len(mine) :], plain[len(theirs) :]
    return more[len(there) :] if mine and mine[-6:] == theirs[-6:] and more.startswith(there) else ""


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
