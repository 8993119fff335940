"""Reads the messages of conversations: keys, roles, contents in parts, and which answers to learn from."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.data.text.files import check_text
from sft_lightning.data.text.notes import Notes

ROLES = ("system", "user", "assistant", "tool")
ALIASES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Roles in exports by ShareGPT and others, and ours for them"""
STAND_INS = {
    "developer": "system",
    "ipython": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
"""Roles that some chat templates name, and the roles that replace them for other templates"""
TRAINED = ("weight", "train", "trainable", "training", "loss")
"""Keys of a message that say whether it is learned from: OpenAI's and Mistral's, axolotl's, others'"""
UNCLEAR = ("mask", "masked", "train_detail")
CALLS = "tool_calls"


@dataclass
class Conversation:
    """One sample: messages up to the last answer, and the chat template's other inputs."""

    messages: list[dict[str, Any]]
    """With `role` and `content`, and the further keys that the file gives"""
    prompt: str | None = None
    """The whole prompt as written without a chat template; None to write the messages one by one"""
    trained: list[int] | None = None
    """The turns to learn from; None for every assistant turn"""
    tools: list[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """More variables of the chat template (`enable_thinking`)"""

    @property
    def answers(self) -> list[int]:
        """All assistant turns."""
        return [i for i, m in enumerate(self.messages) if m["role"] == "assistant"]

    @property
    def learned(self) -> list[int]:
        """The assistant turns to learn from."""
        return self.answers if self.trained is None else self.trained

    def content(self) -> object:
        """Everything that identifies the sample, for hashing."""
        if self.trained is None and self.tools is None and not self.options:
            return self.messages
        return self.messages, self.trained, self.tools, self.options


# ---- values that files hold in several ways ----


def decoded(value: Any, what: str, row: str) -> Any:
    """A list or an object, decoded if a file holds it as JSON in a text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise UserError("data", f"{row}: {what} holds a text that is not JSON ({error})", "write a list") from None


def without_nulls(value: Any) -> Any:
    """Removes the keys that are null: parquet gives every object the keys of all."""
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list | tuple) else value


def is_messages(value: Any) -> bool:
    """Whether a value is a list of objects, or one object."""
    return isinstance(value, dict) or (isinstance(value, list) and all(isinstance(m, dict) for m in value))


# ---- messages ----


def chat(
    messages: Any, row: str, notes: Notes, *, column: str = "messages", given: int = 0, system: str | None = None
) -> Conversation:
    """Reads a conversation up to its last answer. The first `given` messages are a prompt, which is not learned from."""
    messages = decoded(messages, column, row)
    if not isinstance(messages, list) or not is_messages(messages):
        raise UserError("data", f"{row}: {column} must be a list of objects with role and content")
    read, trained = [], []
    for at, message in enumerate(messages):
        one, learn = read_message(message, at + 1, row, notes, learned=at >= given)
        read.append(one)
        if learn and at >= given:
            trained.append(at)
    answers = [i for i, m in enumerate(read) if m["role"] == "assistant"]
    later = [i for i in answers if i >= given]
    if not later:
        raise UserError("data", f"{row}: {column} has no assistant turn to learn from", "add one or remove the row")
    if not trained:
        raise UserError("data", f"{row}: every answer is marked as not to be learned from", "remove the row")
    if answers[-1] + 1 < len(read):
        notes.add("turns after the last answer are left out", row)
    read = read[: answers[-1] + 1]
    if system is not None:
        if read[0]["role"] in ("system", "developer"):
            raise UserError(
                "data", f"{row}: the system column and {column} both hold a system prompt", "keep one of them"
            )
        read, trained = [{"role": "system", "content": system}, *read], [i + 1 for i in trained]
        answers = [i + 1 for i in answers]
    return Conversation(read, trained=None if trained == answers else trained)


def read_message(
    message: dict[str, Any], turn: int, row: str, notes: Notes, learned: bool = True
) -> tuple[dict[str, Any], bool]:
    """(the message with role and content, whether it is an answer to learn from)."""
    role_key = "role" if message.get("role") is not None else "from"
    key = "content" if message.get("content") is not None or "value" not in message else "value"
    if role_key not in message:
        keys = ", ".join(message) or "none"
        raise UserError(
            "data", f"{row}: turn {turn} has no role (its keys: {keys})", "give each message a role and a content"
        )
    named = message[role_key] if isinstance(message[role_key], str) else repr(message[role_key])
    role = ALIASES.get(named, named)
    if role not in ROLES and role not in STAND_INS:
        raise UserError(
            "data", f"{row}: unknown role '{named}'{nearest(named, ROLES)}", f"use one of {', '.join(ROLES)}"
        )
    if role != named:
        notes.add(f"role {named} is read as {role}", row)
    drop = {role_key, key} - {"role", "content"} | set(TRAINED) | set(UNCLEAR)
    read = {"role": role, "content": None} if drop & {"from", "value"} else {}
    read |= {k: v for k, v in message.items() if k not in drop}
    read["role"] = role
    learn = learns(message, role, turn, row, notes)
    content = text_of(message.get(key), role, turn, row, notes)
    if message.get(CALLS) is not None:
        read[CALLS] = calls = decoded(message[CALLS], CALLS, row)
        if not is_messages(calls) or isinstance(calls, dict):
            raise UserError("data", f"{row}: {CALLS} of turn {turn} must be a list of objects")
    if not (content is None and read.get(CALLS)):
        optional = role != "assistant" or not learn or not learned or bool(read.get(CALLS))
        check_text(content, f"the {role}'s content", row, "data.train", allow_empty=optional)
    read["content"] = content
    return read, learn


def text_of(content: Any, role: str, turn: int, row: str, notes: Notes) -> Any:
    """Joins a content in parts to one text; other contents stay as they are."""
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text") if isinstance(part, dict) else part
        if kind != "text" or not isinstance(text, str):
            what = f"a part of type '{kind}'" if kind != "text" else "a part without text"
            raise UserError(
                "data",
                f"{row}: the {role}'s content in turn {turn} has {what}, and only texts are supported",
                "remove that part, or the row",
            )
        parts.append(text)
    if len(parts) > 1:
        notes.add("a content of several parts is joined to one text", row)
    return "".join(parts)


def learns(message: dict[str, Any], role: str, turn: int, row: str, notes: Notes) -> bool:
    """Whether a message is an answer to learn from: every assistant turn, unless one of its keys says no."""
    said: dict[str, bool] = {}
    for name in (*TRAINED, *UNCLEAR):
        value = message.get(name)
        if value is None:
            continue
        if role != "assistant":
            if name in UNCLEAR or value not in (0, False):
                notes.add(f"key {name} of a {role}'s message is not used", row)
        elif name in UNCLEAR:
            raise UserError(
                "data",
                f"{row}: turn {turn} has the key {name}, whose meaning is unclear",
                "remove it, and write weight 0 in answers not to learn from",
            )
        elif not isinstance(value, bool | int | float) or value not in (0, 1):
            raise UserError("data", f"{row}: {name} of turn {turn} is {value!r}", "write 0 or 1, or true or false")
        else:
            said[name] = bool(value)
    if len(set(said.values())) > 1:
        raise UserError("data", f"{row}: turn {turn} has {' and '.join(said)}, which contradict each other", "keep one")
    if role == "assistant" and False in said.values():
        notes.add(f"answers with {next(iter(said))} 0 are read as context, not learned from", row)
        return False
    return role == "assistant"


# ---- the roles that a template knows ----


def fitted(
    messages: list[dict[str, Any]], knows: Callable[[str], bool], row: str, notes: Notes
) -> list[dict[str, Any]]:
    """Prepares messages for a chat template: removes null keys, and replaces roles that the template does not know."""
    made = []
    for message in messages:
        one = {k: v for k, v in message.items() if v is not None}
        if (role := one["role"]) in STAND_INS and not knows(role):
            one["role"] = STAND_INS[role]
            notes.add(f"role {role}, which the chat template does not know, is written as {one['role']}", row)
        made.append(one)
    return made
