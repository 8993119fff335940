"""Conversations of many exports, made at random: the tokens and the loss are those of an independent reader, or one line.

The independent reader turns a row into messages by rules of its own, and lets transformers write them and mark what the
assistant says, with templates that have such marks. The product reads the row as it lies in the file, without marks.
"""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.chat_templates import TEMPLATES, attempt, learned, second_opinion, tokenizer_for
from tests.exactness import figures
from tests.fuzz.conftest import of

TEXTS = [
    *(
        "Hello",
        "a",
        "a b",
        "4",
        "2+2?",
        "user",
        "assistant",
        "Say Hello Hello",
        "é ü 漢字 🙂",
        "x\ty",
        "<think>",
        "[INST]",
    ),
    *(
        " padded ",
        "\nlines\n\nof text\n",
        "assistant\nHello",
        "</s>",
        "<|im_end|>",
        "foo <|im_start|>user\nbar",
        "{{ x }}",
    ),
    *(
        '{"a": [1, "b"]}',
        "<think>\nhm\n</think>\n\nfoo",
        "a</think>b",
        "a<|im_end|>\n<|im_start|>user\na",
        "e\u0301",
        "\u200bx",
    ),
]
ROLES = {
    "user": ["user", "human"],
    "assistant": ["assistant", "gpt"],
    "system": ["system"],
    "tool": ["tool", "observation"],
}


@dataclass
class Row:
    """A row of a file, and what is in it: messages, and the turns to learn from."""

    row: dict[str, Any]
    messages: list[dict[str, Any]]
    trained: list[int]
    calls: bool


@st.composite
def turns(draw: Any) -> list[tuple[str, str]]:
    """Roles and texts: mostly in turn, at times not."""
    found: list[tuple[str, str]] = []
    text = st.sampled_from(TEXTS)
    if draw(st.integers(0, 4)) == 0:
        found.append(("system", draw(text)))
    if draw(st.integers(0, 9)) == 0:
        found.append(("assistant", draw(text)))
    for _ in range(draw(st.integers(1, 3))):
        found.append(("user", draw(text)))
        if draw(st.integers(0, 9)) == 0:
            found.append(("tool", draw(text)))
        found.append(("assistant", draw(text)))
        if draw(st.integers(0, 11)) == 0:
            found.append(("assistant", draw(text)))
    return found


@st.composite
def rows(draw: Any) -> Row:
    """A conversation in one of the layouts, with what exports add to it."""
    said = draw(turns())
    messages = [{"role": role, "content": text} for role, text in said]
    answers = [i for i, (role, _) in enumerate(said) if role == "assistant"]
    trained, calls = list(answers), False
    if draw(st.booleans()):
        weight = {i: draw(st.booleans()) for i in answers}
        trained = [i for i in answers if weight[i]]
    else:
        weight = {}
    if draw(st.integers(0, 5)) == 0:
        at, calls = draw(st.sampled_from(answers)), True
        messages[at]["tool_calls"] = [
            {"type": "function", "function": {"name": "f", "arguments": {"a": draw(st.sampled_from(TEXTS))}}}
        ]
        if draw(st.booleans()):
            del messages[at]["content"]
    layout = draw(st.sampled_from(["messages", "conversations", "json", "completion"]))
    names = ("from", "value") if layout == "conversations" else ("role", "content")
    key = draw(st.sampled_from(["weight", "train", "trainable", "loss"]))
    written = []
    for i, message in enumerate(messages):
        role = draw(st.sampled_from(ROLES[message["role"]])) if layout == "conversations" else message["role"]
        content = message.get("content")
        if isinstance(content, str) and draw(st.integers(0, 5)) == 0:
            content = [{"type": "text", "text": content}]
        one = {names[0]: role, names[1]: content, **{k: v for k, v in message.items() if k == "tool_calls"}}
        if i in weight:
            one[key] = draw(st.sampled_from([1, True, 1.0] if weight[i] else [0, False, 0.0]))
        if draw(st.integers(0, 7)) == 0:
            one["name"] = "Ann"
        written.append(one)
    if draw(st.integers(0, 5)) == 0:  # a question that nobody answers
        written.append({names[0]: "user", names[1]: "and?"})
    if layout == "completion":
        cut = draw(st.integers(1, len(said) - 1))
        trained = [i for i in trained if i >= cut]
        return Row({"prompt": written[:cut], "completion": written[cut:]}, messages, trained, calls)
    row: dict[str, Any] = {"messages": json.dumps(written)} if layout == "json" else {layout: written}
    if said[0][0] != "system" and draw(st.integers(0, 3)) == 0:
        row["system"] = "Be terse."
        messages, trained = [{"role": "system", "content": "Be terse."}, *messages], [i + 1 for i in trained]
    return Row(row, messages, trained, calls)


END = {"llama 3": "<|eot_id|>", "gemma": "<end_of_turn>"} | {
    name: "<|im_end|>" for name, text in TEMPLATES.items() if "<|im_start|>" in text
}


def ended_once(message: dict[str, Any], end: str) -> dict[str, Any]:
    """An answer that brings the end of its turn has it once."""
    said = message.get("content")
    if message["role"] != "assistant" or not said or not said.rstrip().endswith(end):
        return message
    return {**message, "content": said.rstrip().removesuffix(end)}


def holds(name: str, case: Row) -> bool:
    """Whether the row was read, as the independent reader reads it; False where it was refused in one line."""
    tokenizer = tokenizer_for(name)
    made, refused = attempt(tokenizer, case.row)
    if made is None:
        assert refused.startswith("data: rows.jsonl line 1: "), refused
        assert "\n" not in refused and "Traceback" not in refused
        return False
    once = [ended_once(m, END.get(name, "</s>")) for m in case.messages]
    if name == "an end after the last answer alone":
        once[:-1] = case.messages[:-1]
    ids, mask = second_opinion(name, once)
    answers = [i for i, m in enumerate(case.messages) if m["role"] == "assistant"]
    marked = [i for i in range(len(mask)) if mask[i] and not (i and mask[i - 1])]
    assert len(marked) == len(answers), f"{name}: the second opinion marks {len(marked)} of {len(answers)} answers"
    number = -1
    for i, m in enumerate(mask):
        number += i in marked
        mask[i] = int(m and answers[number] in case.trained)
    end = max(i for i, m in enumerate(mask) if m) + 1
    told = f"{name}: {json.dumps(case.row)}"
    assert tokenizer.decode(made.ids[0]) == tokenizer.decode(ids[:end]), f"another text. {told}"
    theirs = [tokenizer.decode([t]) for t, m in zip(ids, mask, strict=True) if m]
    assert made.ids[0].tolist() == ids[:end] and made.supervised[0].tolist() == mask[:end], (
        f"the loss is on {learned(made)}, to be on {theirs}. {told}"
    )
    return True


@pytest.mark.slow
@given(case=rows(), name=st.sampled_from(list(TEMPLATES)))
@of(1500)
def test_1500_conversations(case: Row, name: str) -> None:
    holds(name, case)
    figures.note("fuzzed conversations: read in another way than by transformers", 0)


@given(case=rows(), name=st.sampled_from(list(TEMPLATES)))
@of(40)
def test_a_few_conversations(case: Row, name: str) -> None:
    holds(name, case)
