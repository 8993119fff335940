"""Writes conversations as text, with or without a tokenizer's chat template, and marks the answers to learn from.

If a template itself marks the assistant's words (`{% generation %}`), its marks are used; otherwise see `answer_spans`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.data.text.answer_spans import AnswerSpans, Message
from sft_lightning.data.text.messages import CALLS, Conversation, fitted
from sft_lightning.data.text.notes import Notes

GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class DamagedTemplate(UserError):
    """The chat template fails for every row, not only for one."""


@dataclass
class Rendered:
    """A text and the parts of it that are supervised, as (start, end) in characters."""

    text: str
    spans: list[tuple[int, int]] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)
    """For each span, whether its last token ends a turn"""
    by_template: bool = False


class ChatTemplate:
    """A tokenizer's chat template.

    Args:
        tokenizer: One with a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = {token.content for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        self.controls = sorted((added | set(tokenizer.all_special_tokens)) - {""}, key=len)
        self._sources: dict[bool, str] = {}

    def source(self, tools: Any = None) -> str:
        """The template's text; some tokenizers have another one for conversations with tools."""
        if bool(tools) not in self._sources:
            try:
                self._sources[bool(tools)] = str(self.tokenizer.get_chat_template(tools=tools or None))
            except ValueError as error:
                problem = str(error).splitlines()[0]
                raise DamagedTemplate("network.tokenizer", problem, "use a tokenizer with one chat template") from None
        return self._sources[bool(tools)]

    def knows(self, role: str) -> bool:
        """Whether the template names this role."""
        return bool(re.search(rf"['\"]{role}['\"]", self.source()))

    def write(self, messages: Sequence[Message], conversation: Conversation, row: str, ask: bool = False) -> str:
        """Writes messages as text, with the generation prompt if `ask`.

        Raises:
            DamagedTemplate: The template is not valid Jinja.
            UserError: The template refuses these messages.
        """
        from jinja2 import TemplateError, TemplateSyntaxError

        self.source(conversation.tools)
        variables = {"tools": conversation.tools, **conversation.options}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=ask, **variables
                )
            )
        except TemplateSyntaxError as error:
            raise DamagedTemplate(
                "network.tokenizer",
                f"its chat template is damaged at line {error.lineno}: {error}",
                "use another tokenizer, or mend the template",
            ) from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                "data",
                f"{row}: the tokenizer's chat template refuses it: {said[0]}",
                "mend the row, or use another template",
            ) from None

    # ---- rendering ----

    def render(self, conversation: Conversation, row: str, notes: Notes) -> Rendered:
        """Writes a conversation as text and marks the answers to learn from, each with its end."""
        messages = fitted(conversation.messages, self.knows, row, notes)
        messages, text = self._ended_once(messages, conversation, row, notes)
        messages = self._used(messages, text, conversation, row, notes)
        answers, learned = conversation.answers, conversation.learned
        spans = self._by_template(messages, text, conversation)
        by_marks = spans is None
        if spans is None:
            finder = AnswerSpans(
                messages, text, lambda m, ask: self.write(m, conversation, row, ask), self.controls, row
            )
            spans = finder.find()
        elif conversation.trained is None:
            answers = learned = list(range(len(spans)))
        elif len(spans) != len(answers):
            raise UserError(
                "data",
                f"{row}: the chat template marks {len(spans)} parts in {len(answers)} answers, so the parts that should "
                "not be learned from cannot be found",
                "use another template, or remove the row",
            )
        kept = [span for i, span in zip(answers, spans, strict=True) if i in learned]
        if not kept:
            raise UserError(
                "data",
                f"{row}: the tokenizer's chat template marks no answer to learn from",
                "use another template, or remove the row",
            )
        said = [(messages[i].get("content") or "").strip() for i in conversation.learned]
        if by_marks and any(words not in text[a:b] for words, (a, b) in zip(said, kept, strict=True)):
            notes.add("answers that the chat template shortens or changes", row)
        for message in messages[: conversation.learned[-1]]:
            if message["role"] != "assistant" and (message.get("content") or "").strip() not in text:
                notes.add(f"a {message['role']}'s message is left out or changed by the chat template", row)
        ended = [text[a:b].endswith(tuple(self.controls)) for a, b in kept]
        text = text[: kept[-1][1]]
        eos = self.tokenizer.eos_token or ""
        if by_marks and answers[-1] in learned and eos and not ended[-1]:  # the template has no end of turn
            text += "" if text.endswith(eos) else eos
            kept[-1], ended[-1] = (kept[-1][0], len(text)), True
        return Rendered(text, kept, ended, by_template=True)

    def _by_template(
        self, messages: list[Message], text: str, conversation: Conversation
    ) -> list[tuple[int, int]] | None:
        """The spans that the template's own `{% generation %}` marks; None if it has no such marks."""
        if not GENERATION.search(source := self.source(conversation.tools)):
            return None
        from transformers.utils.chat_template_utils import render_jinja_template

        (written,), (spans,) = render_jinja_template(
            conversations=[messages],
            tools=conversation.tools,
            chat_template=source,
            return_assistant_tokens_mask=True,
            **{**self.tokenizer.special_tokens_map, **conversation.options},
        )
        return [(start, end) for start, end in spans if end > start] if written == text else None

    def _ended_once(
        self, messages: list[Message], conversation: Conversation, row: str, notes: Notes
    ) -> tuple[list[Message], str]:
        """(messages, their text), without the end of a turn in contents that hold it if the template writes it too."""
        text = self.write(messages, conversation, row)
        closing = next((c for c in reversed(self.controls) if text.rstrip().endswith(c)), "")
        twice = [i for i, m in enumerate(messages) if closing and _ends_twice(m, closing, text)]
        if not twice:
            return messages, text
        notes.add(f"answers that hold the end {closing} themselves get it once", row)
        shorter = list(messages)
        for i in twice:
            shorter[i] = {**messages[i], "content": messages[i]["content"].rstrip().removesuffix(closing)}
        return shorter, self.write(shorter, conversation, row)

    # ---- unused keys, tools and variables ----

    def _used(
        self, messages: list[Message], text: str, conversation: Conversation, row: str, notes: Notes
    ) -> list[Message]:
        """The messages without keys that the template does not use. Notes these, and tools and variables it does not use."""
        for key in dict.fromkeys(k for m in messages for k in m if k not in ("role", "content")):
            bare = [{k: v for k, v in m.items() if k != key} for m in messages]
            if self._changes(bare, text, conversation, row):
                continue
            if key == CALLS and any(m.get(CALLS) and not m.get("content") for m in messages):
                raise UserError(
                    "data",
                    f"{row}: an answer consists of {CALLS} alone, which the tokenizer's chat template does not write",
                    "use another template, or remove the row",
                )
            notes.add(f"key {key} of messages is not used by the chat template", row)
            messages = bare
        if conversation.tools and not self._changes(messages, text, replace(conversation, tools=None), row):
            notes.add("column tools is not used by the chat template", row)
        for name in conversation.options:
            others = {k: v for k, v in conversation.options.items() if k != name}
            if not self._changes(messages, text, replace(conversation, options=others), row):
                notes.add(f"variable {name} changes nothing in the chat template", row)
        return messages

    def _changes(self, messages: list[Message], text: str, conversation: Conversation, row: str) -> bool:
        try:
            return self.write(messages, conversation, row) != text
        except UserError:
            return True


def _ends_twice(message: Message, closing: str, text: str) -> bool:
    """Whether an answer holds the end of its turn, and the template writes it once more."""
    said = (message.get("content") or "").rstrip()
    if message["role"] != "assistant" or not said.endswith(closing):
        return False
    return bool(re.search(re.escape(said.lstrip()) + r"\s*" + re.escape(closing), text))


# ---- without a chat template ----


def render_plainly(conversation: Conversation, tokenizer: Any, row: str, notes: Notes) -> Rendered:
    """Writes a conversation without a chat template: the prompt as it is, or paragraphs by role; EOS after each answer."""
    why = "is not used: the tokenizer has no chat template"
    for key in dict.fromkeys(k for m in conversation.messages for k, v in m.items() if v is not None):
        if key not in ("role", "content"):
            notes.add(f"key {key} of messages {why}", row)
    if conversation.tools:
        notes.add(f"column tools {why}", row)
    if conversation.options:
        notes.add(f"column chat_template_kwargs {why}", row)
    messages, eos, learned = conversation.messages, tokenizer.eos_token or "", conversation.learned
    for i in learned:
        if not messages[i].get("content"):
            raise UserError(
                "data",
                f"{row}: the answer in turn {i + 1} has no content, and the tokenizer has no chat template to write "
                "its other keys",
                "use a tokenizer with one, or remove the row",
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
