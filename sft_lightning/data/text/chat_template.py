"""Writes conversations with a tokenizer's chat template, and finds each answer in what it wrote.

Where the template marks what the assistant says (`{% generation %}`), its marks are taken. Else the conversation is
written twice, the second time with a mark in place of each answer: what stands around the marks stands around the
answers too, whatever the answers say and however the template trims them. An answer begins where the template's prompt
for it ends, and ends with the token that ends a turn. What cannot be told apart so is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sft_lightning.data.text.messages import CALLS, STAND_INS, Conversation, fitted
from sft_lightning.data.text.notes import Notes
from sft_lightning.errors import UserError

MARK = "\ue0f5{}\ue0f6"  # of the private use area: in no one's texts
REASONING = ("reasoning_content", "reasoning", "thinking")
THOUGHTS = tuple(re.compile(pattern, re.DOTALL) for pattern in (r".*</think>", r".*</think>\s*", r""))
"""Beginnings of contents that are thoughts, which stay around a mark: templates look for them. Tried in turn."""
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


@dataclass
class Rendered:
    """A text and the parts of it that are supervised, as (start, end) in characters."""

    text: str
    spans: list[tuple[int, int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    """Of each span, whether it closes with a token that ends a turn"""
    by_template: bool = False


@dataclass
class Piece:
    """Where an answer's words lie, and the text that the template wrote between the last answer's and them."""

    turn: int
    before: str
    start: int
    end: int


class DamagedTemplate(UserError):
    """A chat template that is wrong for every row, not for one."""


class ChatTemplate:
    """A tokenizer's chat template.

    Args:
        tokenizer: One with a chat template.

    Raises:
        UserError: The template is not valid Jinja.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.controls = sorted({t.content for t in tokenizer.added_tokens_decoder.values()} - {""}, key=len)
        if not self.controls:
            self.controls = [t for t in tokenizer.all_special_tokens if t]

    def source(self, tools: Any = None) -> str:
        """The template's text."""
        try:
            return str(self.tokenizer.get_chat_template(tools=tools))
        except ValueError as error:
            raise DamagedTemplate(f"tokenizer: {str(error).splitlines()[0]}") from None

    def knows(self, role: str) -> bool:
        """Whether the template asks for this role by its name."""
        return bool(re.search(rf"['\"]{role}['\"]", self.source()))

    # ---- writing ----

    def write(self, messages: Sequence[dict[str, Any]], conversation: Conversation, row: str, ask: bool = False) -> str:
        """The text of some messages, with the generation prompt where `ask`."""
        from jinja2 import TemplateError, TemplateSyntaxError

        options = {"tools": conversation.tools, **conversation.options}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=ask, **options
                )
            )
        except TemplateSyntaxError as error:
            raise DamagedTemplate(f"tokenizer: its chat template is damaged at line {error.lineno}: {error}") from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(f"data: {row}: the tokenizer's chat template refuses it: {said[0]}") from None

    def marked_by_itself(
        self, messages: list[dict[str, Any]], conversation: Conversation
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text and what the template's own `{% generation %}` marks in it."""
        from transformers.utils.chat_template_utils import render_jinja_template

        (text,), (spans,) = render_jinja_template(
            conversations=[messages],
            tools=conversation.tools,
            chat_template=self.source(conversation.tools),
            return_assistant_tokens_mask=True,
            **{**self.tokenizer.special_tokens_map, **conversation.options},
        )
        return text, [(start, end) for start, end in spans if end > start]

    # ---- rendering ----

    def render(self, conversation: Conversation, row: str, notes: Notes) -> Rendered:
        """Writes a conversation out and marks the answers to learn from, each with its end."""
        messages = fitted(conversation.messages, self.knows, row, notes)
        text = self.write(messages, conversation, row)
        messages, text = self._ends_once(messages, text, conversation, row, notes)
        self._note_unused(messages, text, conversation, row, notes)
        answers, learned = conversation.answers, conversation.learned
        if marks := bool(GENERATION.search(self.source(conversation.tools))):
            text, spans = self.marked_by_itself(messages, conversation)
            if len(spans) != len(answers) and conversation.trained is not None:
                raise UserError(
                    f"data: {row}: the chat template marks {len(spans)} parts in {len(answers)} answers, so it cannot be "
                    "told which parts are not to be learned from"
                )
            learned = learned if conversation.trained is not None else list(range(len(spans)))
            answers = answers if conversation.trained is not None else learned
        else:
            spans = self._by_marks(messages, answers, text, conversation, row, notes)
        if not spans:
            raise UserError(f"data: {row}: the tokenizer's chat template writes no answer to learn from")
        kept = [span for i, span in zip(answers, spans, strict=True) if i in learned]
        ended = [self._ends(text[start:end]) for start, end in kept]
        text = text[: kept[-1][1]]
        eos = self.tokenizer.eos_token or ""
        if answers[-1] in learned and eos and not ended[-1] and not marks:  # the template has no end of turn
            text += "" if text.endswith(eos) else eos
            kept[-1], ended[-1] = (kept[-1][0], len(text)), True
        return Rendered(text, kept, ended, by_template=True)

    def _ends(self, text: str) -> bool:
        return text.endswith(tuple(self.controls))

    def _ends_once(
        self, messages: list[dict[str, Any]], text: str, conversation: Conversation, row: str, notes: Notes
    ) -> tuple[list[dict[str, Any]], str]:
        """Without the end of a turn in contents that bring it, where the template writes it too."""
        closing = next((c for c in reversed(self.controls) if text.rstrip().endswith(c)), None)
        if closing is None or not any(_brings(m, closing) for m in messages):
            return messages, text
        last = (messages[-1].get("content") or "").rstrip()
        if last.endswith(closing) and text.rstrip().endswith(last):  # the template itself writes none
            return messages, text
        notes.add(f"answers that bring the end {closing} themselves get it once", row)
        shorter = [
            {**m, "content": m["content"].rstrip().removesuffix(closing)} if _brings(m, closing) else m
            for m in messages
        ]
        return shorter, self.write(shorter, conversation, row)

    def _note_unused(
        self, messages: list[dict[str, Any]], text: str, conversation: Conversation, row: str, notes: Notes
    ) -> None:
        """Says which keys and tools change nothing in what the template writes."""
        for key in dict.fromkeys(k for m in messages for k in m if k not in ("role", "content")):
            bare = [{k: v for k, v in m.items() if k != key} for m in messages]
            if not self._changes(bare, text, conversation, row):
                if key == CALLS and any(m.get(CALLS) and not m.get("content") for m in messages):
                    raise UserError(
                        f"data: {row}: an answer is made of {CALLS} alone, which the tokenizer's chat template does not "
                        "write: use another template, or remove the row"
                    )
                notes.add(f"key {key} of messages is not used by the chat template", row)
        if conversation.tools and not self._changes(messages, text, _without_tools(conversation), row):
            notes.add("column tools is not used by the chat template", row)
        for name in conversation.options:
            options = {k: v for k, v in conversation.options.items() if k != name}
            if not self._changes(messages, text, Conversation([], None, None, conversation.tools, options), row):
                notes.add(f"variable {name} changes nothing in the chat template", row)

    def _changes(self, messages: list[dict[str, Any]], text: str, conversation: Conversation, row: str) -> bool:
        try:
            return self.write(messages, conversation, row) != text
        except UserError:
            return True

    # ---- finding answers ----

    def _by_marks(
        self,
        messages: list[dict[str, Any]],
        answers: list[int],
        text: str,
        conversation: Conversation,
        row: str,
        notes: Notes,
    ) -> list[tuple[int, int]]:
        if "\ue0f5" in text:
            raise UserError(f"data: {row}: a text holds the character U+E0F5, which is used here as a mark: remove it")
        for number, thoughts in enumerate(THOUGHTS):
            try:
                return self._around_marks(messages, answers, text, conversation, row, thoughts, notes)
            except UserError:
                if number == len(THOUGHTS) - 1 or not any(THOUGHTS[0].match(m.get("content") or "") for m in messages):
                    raise
        raise AssertionError

    def _around_marks(
        self,
        messages: list[dict[str, Any]],
        answers: list[int],
        text: str,
        conversation: Conversation,
        row: str,
        thoughts: re.Pattern[str],
        notes: Notes,
    ) -> list[tuple[int, int]]:
        heads = {i: _match(thoughts, messages[i]) for i in answers}
        marked = list(messages)
        for i in answers:
            marked[i] = _mark(messages[i], heads[i], MARK.format(i))
        around = re.split("\ue0f5(\\d+)\ue0f6", self.write(marked, conversation, row))
        if [int(n) for n in around[1::2]] != answers:
            raise self._ambiguous(answers[0], row)
        around = around[::2]
        pieces = self._align(messages, heads, text, around, row)
        asked, lead = self._asked(messages, pieces[-1], text, conversation, row)
        tails, spans = self._tails(messages, marked, pieces, around, conversation, row), []
        for piece, tail in zip(pieces, tails, strict=True):
            head = heads[piece.turn].strip()
            start = piece.start - self._said_before(piece, messages, head, asked, lead, text, conversation, row)
            end = piece.end + len(tail)
            spans.append((start, start + len(_to_end(text[start:end], self._ends))))
        for piece, (start, end) in zip(pieces, spans, strict=True):
            if (said := (messages[piece.turn].get("content") or "").strip()) and said not in text[start:end]:
                notes.add("answers of which the chat template leaves something out or changes it", row)
        return spans

    def _ambiguous(self, turn: int, row: str) -> UserError:
        return UserError(
            f"data: {row}: the tokenizer's chat template changes what the assistant said in turn {turn + 1}, or writes the "
            "conversation around it in another way, so it cannot be told what to learn: use another template"
        )

    def _align(
        self, messages: list[dict[str, Any]], heads: dict[int, str], text: str, around: list[str], row: str
    ) -> list[Piece]:
        """Where the answers lie in `text`, which is what stands `around` them with the answers between."""
        pieces, at = [], 0
        for number, (i, head) in enumerate(heads.items()):
            before, after = around[number], around[number + 1]
            last = number == len(heads) - 1
            if not text.startswith(before, at):
                raise self._ambiguous(i, row)
            start, found = at + len(before), -1
            for said in _as_written(messages[i], head):
                stop = start + len(said)
                if text.startswith(said + after, start) and (not last or stop + len(after) == len(text)):
                    found = stop
                    break
            if found < 0 and last and text.endswith(after) and len(text) - len(after) >= start:
                found = len(text) - len(after)
            elif found < 0 and not last and after and text.count(after, start) == 1:
                found = text.find(after, start)
            if found < 0:
                raise self._ambiguous(i, row)
            pieces.append(Piece(i, before, start, found))
            at = found
        return pieces

    def _asked(
        self, messages: list[dict[str, Any]], last: Piece, text: str, conversation: Conversation, row: str
    ) -> tuple[str, str]:
        """(the generation prompt; white space that the template writes between what it asks with and an answer)."""
        if not last.turn:
            return "", ""
        try:
            plain = self.write(messages[: last.turn], conversation, row)
            with_prompt = self.write(messages[: last.turn], conversation, row, ask=True)
        except UserError:
            return "", ""
        asked = with_prompt[len(plain) :] if with_prompt.startswith(plain) else ""
        lead = text[len(plain) : last.start] if text.startswith(plain) else ""
        return asked, lead if not lead.strip() else ""

    def _said_before(
        self,
        piece: Piece,
        messages: list[dict[str, Any]],
        head: str,
        asked: str,
        lead: str,
        text: str,
        conversation: Conversation,
        row: str,
    ) -> int:
        """How many characters before an answer's words the assistant has to write itself: thoughts, calls, a space."""
        message, before = messages[piece.turn], piece.before
        own = next((str(message[k]) for k in REASONING if isinstance(message.get(k), str)), "")
        inside = [t for t in (head, own.strip()) if t and t in before]
        outer = min((before.rfind(t) for t in inside), default=len(before))
        at = before.rfind(asked, 0, outer) if asked else -1
        if at >= 0:
            return len(before) - at - len(asked)
        if inside or message.get(CALLS):
            return self._before_own_words(piece, messages, outer if head in inside else -1, text, conversation, row)
        return len(lead) if before.endswith(lead) else 0

    def _before_own_words(
        self,
        piece: Piece,
        messages: list[dict[str, Any]],
        thoughts: int,
        text: str,
        conversation: Conversation,
        row: str,
    ) -> int:
        """As `_said_before` of an answer with thoughts or calls where the template has no generation prompt: what it
        writes before a plain answer is not the assistant's. `thoughts` is where a content's own begin, or -1.
        """
        mark = {"role": "assistant", "content": MARK.format(0)}
        prompt = self.write(messages[: piece.turn], conversation, row) if piece.turn else ""
        plain = self.write([*messages[: piece.turn], mark], conversation, row).partition(mark["content"])[0]
        header = plain.removeprefix(prompt)
        at = piece.before.rfind(header) if header.strip() else -1
        if at >= 0:
            return len(piece.before) - at - len(header)
        if thoughts >= 0:
            space = not header.strip() and piece.before.endswith(header, 0, thoughts)
            return len(piece.before) - thoughts + (len(header) if space else 0)
        if prompt and not header.strip() and text.startswith(prompt) and len(prompt) <= piece.start:
            return piece.start - len(prompt)
        raise self._ambiguous(piece.turn, row)

    def _tails(
        self,
        messages: list[dict[str, Any]],
        marked: list[dict[str, Any]],
        pieces: list[Piece],
        around: list[str],
        conversation: Conversation,
        row: str,
    ) -> list[str]:
        """What belongs to each answer after its words: the end of the turn, and calls where there are some."""
        closing, tails = around[-1], []
        if messages[pieces[-1].turn].get(CALLS):
            closing = ""
        for piece, after in zip(pieces, around[1:], strict=True):
            end = closing
            if piece is not pieces[-1] and (messages[piece.turn].get(CALLS) or not closing):
                alone = self.write(marked[: piece.turn + 1], conversation, row)
                end = alone.rpartition(MARK.format(piece.turn))[2]
            elif piece is pieces[-1]:
                end = around[-1]
            if not after.startswith(end):
                same = after[: _common(after, end)]
                end = same[: max((same.rfind(c) + len(c) for c in self.controls if c in same), default=0)]
            tails.append(end)
        return tails


# ---- without a chat template ----


def render_plainly(conversation: Conversation, tokenizer: Any, row: str, notes: Notes) -> Rendered:
    """For tokenizers without a chat template: the prompt as it is, or paragraphs by role; EOS after each answer."""
    messages = fitted(conversation.messages, lambda role: True, row, notes)
    for key in dict.fromkeys(k for m in messages for k in m if k not in ("role", "content")):
        notes.add(f"key {key} of messages is not used: the tokenizer has no chat template", row)
    if conversation.tools:
        notes.add("column tools is not used: the tokenizer has no chat template", row)
    if conversation.options:
        notes.add("column chat_template_kwargs is not used: the tokenizer has no chat template", row)
    eos, learned = tokenizer.eos_token or "", conversation.learned
    for i in learned:
        if not messages[i].get("content"):
            raise UserError(
                f"data: {row}: the answer in turn {i + 1} has no content, and the tokenizer has no chat template to write "
                "its other keys: use a tokenizer with one, or remove the row"
            )
    if conversation.prompt is not None:
        text = conversation.prompt + messages[-1]["content"]
        text += "" if eos and text.endswith(eos) else eos
        return Rendered(text, [(len(conversation.prompt), len(text))], [bool(eos)])
    text, spans = "", []
    for i, message in enumerate(messages[: learned[-1] + 1]):
        text += f"### {message['role'].capitalize()}:\n"
        start = len(text)
        text += message.get("content") or ""
        if message["role"] == "assistant":
            text += "" if eos and text.endswith(eos) else eos
            if i in learned:
                spans.append((start, len(text)))
        text += "\n\n"
    return Rendered(text[: spans[-1][1]], spans, [bool(eos)] * len(spans))


# ---- parts of messages ----


def _brings(message: dict[str, Any], closing: str) -> bool:
    content = message.get("content")
    return message["role"] == "assistant" and isinstance(content, str) and content.rstrip().endswith(closing)


def _without_tools(conversation: Conversation) -> Conversation:
    return Conversation([], options=conversation.options)


def _match(thoughts: re.Pattern[str], message: dict[str, Any]) -> str:
    found = thoughts.match(message.get("content") or "")
    return found[0] if found else ""


def _mark(message: dict[str, Any], head: str, mark: str) -> dict[str, Any]:
    """A message with a mark for its words: those after thoughts, or the name of the first function it calls."""
    calls = message.get(CALLS)
    if calls:
        first = dict(calls[0])
        if isinstance(first.get("function"), dict):
            first["function"] = {**first["function"], "name": mark}
        else:
            first["name"] = mark
        return {**message, CALLS: [first, *calls[1:]]}
    return {**message, "content": head + mark}


def _as_written(message: dict[str, Any], head: str) -> list[str]:
    """In which ways a template may write what the mark stands for."""
    if calls := message.get(CALLS):
        called = calls[0].get("function") if isinstance(calls[0].get("function"), dict) else calls[0]
        return [str(called.get("name"))]
    said = (message.get("content") or "").removeprefix(head)
    return list(dict.fromkeys((said, said.strip(), said.lstrip(), said.rstrip(), said.strip("\n"), said.lstrip("\n"))))


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _to_end(answer: str, ends: Any) -> str:
    """Without the white space that a template writes after the end of a turn: a model stops before it."""
    bare = answer.rstrip()
    return bare if ends(bare) else answer
