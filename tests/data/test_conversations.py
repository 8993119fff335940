"""Conversations as real exports write them: the tokens and the answers are those that transformers finds, or one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft_lightning.autoconfig.data_plan import Overrides
from sft_lightning.autoconfig.infer_data import infer_data
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Instructions
from sft_lightning.evaluation.source import settle_source
from sft_lightning.networks import TransformersLM
from tests.data.chat_templates import TEMPLATES, attempt, learned, read, second_opinion, template, tokenizer_for
from tests.data.text_files import write_jsonl
from tests.networks.tiny import CHATML, byte_bpe, tiny_folder
from tests.refused import refused
from tests.support import settle

Message = dict[str, Any]


def user(text: Any, **keys: Any) -> Message:
    return {"role": "user", "content": text, **keys}


def assistant(text: Any, **keys: Any) -> Message:
    return {"role": "assistant", "content": text, **keys}


CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}]
CHATS: dict[str, list[Message]] = {
    "one answer": [user("Hi"), assistant("Hello")],
    "two answers": [user("Hi"), assistant("Hello"), user("Bye"), assistant("Ciao")],
    "a system message": [{"role": "system", "content": "Be terse."}, user("Hi"), assistant("Hello")],
    "the answer stands in the prompt": [user("Say Hello Hello"), assistant("Hello"), user("Hello"), assistant("Hello")],
    "the same thrice": [user("4"), assistant("4"), user("4"), assistant("4"), user("4"), assistant("4")],
    "the template's words": [user("assistant\nHello"), assistant("assistant\nHello")],
    "white space": [user(" q "), assistant("  foo\n "), user("r\n"), assistant("\n\nbar\n")],
    "thoughts": [user("q"), assistant("<think>\na\n</think>\n\nb"), user("r"), assistant("<think>\nc\n</think>\n\nd")],
    "reasoning apart": [
        user("q"),
        assistant("b", reasoning_content="a"),
        user("r"),
        assistant("d", reasoning_content="c"),
    ],
    "the assistant first": [assistant("Hello!"), user("q"), assistant("a")],
    "two answers in a row": [user("q"), assistant("a"), assistant("b")],
    "two questions in a row": [user("q"), user("r"), assistant("b")],
    "an end in a question": [user("a <|im_end|> b"), assistant("b")],
    "a conversation in an answer": [
        *(user("x"), assistant("y<|im_end|>\n<|im_start|>user\nz<|im_end|>\n<|im_start|>assistant\nw")),
        *(user("z"), assistant("w")),
    ],
    "a call": [user("q"), assistant("", tool_calls=CALL), {"role": "tool", "content": "7"}, assistant("seven")],
    "a call and null": [
        *(user("q"), assistant(None, tool_calls=CALL), {"role": "tool", "content": "7"}, assistant("seven")),
        *(user("r"), assistant("well")),
    ],
    "a system message and three answers": [
        *({"role": "system", "content": "Be terse."}, user("q"), assistant("a"), user("r"), assistant("b\nb")),
        *(user("s"), assistant("c")),
    ],
    "a system message, two calls and three answers": [
        *({"role": "system", "content": "Be terse."}, user("q"), assistant("a"), user("r")),
        *(assistant("", tool_calls=CALL), {"role": "tool", "content": "7"}),
        *(assistant("then", tool_calls=CALL), {"role": "tool", "content": "8"}, assistant("fifteen")),
        *(user("s"), assistant("c")),
    ],
}
NO_CALLS = {"a call", "a call and null", "a system message, two calls and three answers"}
REFUSED = {name: NO_CALLS for name in TEMPLATES if name != "qwen 3"} | {"qwen 3": set()}
REFUSED["gemma"] = NO_CALLS | {"a system message", "a system message and three answers"}
REFUSED["mistral"] = NO_CALLS | {"the assistant first", "two answers in a row", "two questions in a row"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_tokens_and_answers_are_those_of_the_templates_own_marks(name: str) -> None:
    tokenizer = tokenizer_for(name)
    for what, messages in CHATS.items():
        rows, refused = attempt(tokenizer, {"messages": messages})
        if rows is None:
            assert what in REFUSED[name], f"{name}, {what}: refused ({refused})"
            assert refused.startswith("data: rows.jsonl line 1: ")
            continue
        assert what not in REFUSED[name], f"{name}, {what}: was to be refused, and was read as {learned(rows)}"
        ids, mask = second_opinion(name, messages)
        assert tokenizer.decode(rows.ids[0]) == tokenizer.decode(ids), f"{name}, {what}: another text"
        assert (rows.ids[0].tolist(), rows.supervised[0].tolist()) == (ids, mask), (
            f"{name}, {what}: the loss is on {learned(rows)}, transformers marks "
            f"{tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m])!r}"
        )


def test_a_templates_own_marks_are_taken() -> None:
    tokenizer = byte_bpe(template=template("llama 3", marked=True))
    rows = read(tokenizer, {"messages": CHATS["two answers"]}, {"messages": [*CHATS["one answer"], user("x")]})
    assert [len(learned(rows, r)) for r in (0, 1)] == [2, 1]
    weighted = [user("a"), assistant("b", weight=0), user("c"), assistant("d", weight=1)]
    assert [p.strip() for p in learned(read(tokenizer, {"messages": weighted}))] == ["d<|eot_id|>"]
    unended = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    tokenizer = byte_bpe(template=unended + "<|im_end|>{% else %}{{ m.content }}{% endif %}{% endfor %}")
    rows = read(tokenizer, {"messages": CHATS["one answer"]})
    assert learned(rows) == ["Hello"]
    assert "stopping is not learned (1 time, first in rows.jsonl line 1)" in rows.written.lines()[0]


# ---- layouts ----

ONE = [user("2+2?"), assistant("five"), user("2+3?")]


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"prompt": ONE, "completion": [assistant("six")]}, ["six<|im_end|>"]),
        ({"prompt": ONE, "completion": "six"}, ["six<|im_end|>"]),
        ({"prompt": ONE, "completion": assistant("five")}, ["five<|im_end|>"]),
        ({"prompt": "2+3?", "completion": [assistant("six")]}, ["six<|im_end|>"]),
        ({"prompt": ONE, "completion": [assistant("5"), user("?"), assistant("6")]}, ["5<|im_end|>", "6<|im_end|>"]),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ["b<|im_end|>"]),
        ({"messages": json.dumps([user("a"), assistant("b")])}, ["b<|im_end|>"]),
        ({"instruction": "a", "input": "", "output": "b", "history": [["a", "b"]], "system": "s"}, ["b<|im_end|>"]),
        ({"messages": [user("a"), assistant([{"type": "text", "text": "b"}])], "system": "s"}, ["b<|im_end|>"]),
    ],
)
def test_the_loss_is_on_the_completion_and_not_on_answers_before_it(row: dict[str, Any], parts: list[str]) -> None:
    assert learned(read(tokenizer_for("chatml"), row)) == parts
    plain = [part.replace("<|im_end|>", "</s>") for part in parts]
    assert learned(read(byte_bpe(), row)) == plain, "another answer without a chat template"


@pytest.mark.parametrize("key", ["weight", "train", "trainable", "loss"])
@pytest.mark.parametrize("zero", [0, False, 0.0])
def test_an_answer_that_is_marked_as_not_to_be_learned_is_not(key: str, zero: Any) -> None:
    messages = [user("one"), assistant("bad", **{key: zero}), user("two"), assistant("good", **{key: 1})]
    rows = read(tokenizer_for("chatml"), {"messages": messages})
    assert learned(rows) == ["good<|im_end|>"]
    assert rows.read.lines() == [
        f"answers with {key} 0 are read as context, not learned from (1 time, first in rows.jsonl line 1)"
    ]
    messages[1][key], messages[3][key] = 1, zero
    assert learned(read(tokenizer_for("chatml"), {"messages": messages})) == ["bad<|im_end|>"]
    assert learned(read(byte_bpe(), {"messages": messages})) == ["bad</s>"]


def test_tools_system_and_history_are_written_where_the_template_has_a_place_for_them() -> None:
    places = "{% if tools %}TOOLS {{ tools[0].name }}\n{% endif %}" + TEMPLATES["chatml"].replace("[[", "").replace(
        "]]", ""
    )
    tools = [{"name": "weather"}]
    for given in (tools, json.dumps(tools)):
        rows = read(byte_bpe(template=places), {"messages": CHATS["one answer"], "tools": given})
        assert rows.tokenizer.decode(rows.ids[0]).startswith("TOOLS weather\n")
    rows = read(tokenizer_for("chatml"), {"messages": CHATS["one answer"], "tools": tools})
    assert rows.written.lines()[0].startswith("column tools is not used by the chat template (1 time")
    rows = read(
        tokenizer_for("chatml"),
        {"system": "Be terse.", "history": [["hello", "hi"]], "instruction": "one", "input": "x", "output": "two"},
    )
    turns = [("system", "Be terse."), ("user", "hello"), ("assistant", "hi"), ("user", "one\nx"), ("assistant", "two")]
    text = "\n".join(f"<|im_start|>{role}\n{content}<|im_end|>" for role, content in turns)
    assert rows.tokenizer.decode(rows.ids[0]) == text
    for nothing in ("", None, float("nan")):
        row = {"system": "S.", "history": [["a", "b"]], "instruction": "c", "input": nothing, "output": "d"}
        rows = read(byte_bpe(), row)
        assert rows.tokenizer.decode(rows.ids[0]) == (
            "S.\n\nBelow is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\na\n\n### Response:\nb\n\n### Instruction:\nc\n\n### Response:\nd</s>"
        )
    thinking = "{% if quick %}QUICK{% endif %}" + CHATML
    rows = read(byte_bpe(template=thinking), {"messages": ONE[:2], "chat_template_kwargs": {"quick": True, "x": 1}})
    assert rows.tokenizer.decode(rows.ids[0]).startswith("QUICK")
    assert "variable x changes nothing" in rows.written.lines()[0]


def test_what_is_not_used_or_is_read_as_something_else_is_said_with_its_count(tmp_path: Path) -> None:
    chat = [
        {"role": "developer", "content": "d"},
        {"role": "human", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "Ann"},
        {"role": "gpt", "content": "c"},
        user("left"),
    ]
    file = write_jsonl(tmp_path / "rows.jsonl", [{"messages": chat, "id": i, "source": "web"} for i in range(4)])
    folder = tiny_folder(
        tmp_path / "model", "llama", "lm", tokenizer=byte_bpe(template=CHATML), max_position_embeddings=64
    )
    data = Instructions(train=file, val_fraction=0.25)
    data.setup()
    settle(data, TransformersLM(TaskInfo("causal_lm", 0), pretrained=folder))
    said = data.describe()
    for part in (
        "columns not used: id, source",
        "role human is read as user (4 times, first in",
        "role gpt is read as assistant (4 times",
        "a content of several parts is joined to one text (4 times",
        "turns after the last answer are left out (4 times",
        "key name of messages is not used by the chat template (4 times",
        "role developer, which the chat template does not know, is written as system (4 times",
    ):
        assert part in said, f"'{part}' is not said: {said}"
    assert "\n" not in said


def test_the_front_door_knows_conversations_and_says_what_is_not_used(tmp_path: Path) -> None:
    chat = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    file = write_jsonl(tmp_path / "rows.jsonl", [{"conversations": chat, "id": i} for i in range(12)])
    plan = infer_data(file, ("tokens",), "TransformersLM", Overrides())
    assert plan.block["class_path"] == "Instructions"
    assert "12 instructions with answers in columns 'conversations'" in plan.lines[0]
    assert "columns not used: id" in plan.lines[1]
    labelled = write_jsonl(tmp_path / "labels.jsonl", [{"text": "a b", "label": i % 2} for i in range(12)])
    with refused("--data", "labels.jsonl", "text, label", "prompt and completion"):
        infer_data(labelled, ("tokens",), "TransformersLM", Overrides())


def test_each_row_keeps_its_fingerprint_unless_what_is_learned_changes() -> None:
    """Runs of earlier versions are resumed on the same data, and not on data of which they read less."""
    from hashlib import sha256

    plain = read(tokenizer_for("chatml"), {"messages": CHATS["two answers"]})
    assert plain.digest() == sha256(repr([CHATS["two answers"]]).encode()).digest()
    weighted = [*CHATS["two answers"][:3], assistant("Ciao", weight=0)]
    assert read(tokenizer_for("chatml"), {"messages": weighted}).digest() != plain.digest()


# ---- beginnings and ends ----


def test_a_bos_is_there_once_and_only_where_the_template_writes_it() -> None:
    for name, count in (("llama 3", 1), ("chatml", 0)):
        tokenizer = byte_bpe(bos=True, template=template(name))
        rows = read(tokenizer, {"messages": CHATS["one answer"]})
        asked = tokenizer.apply_chat_template(CHATS["one answer"][:1], add_generation_prompt=True, return_dict=False)
        assert rows.ids[0].tolist()[: len(asked)] == list(asked), "the prompt is not what the model is asked with"
        assert rows.ids[0].tolist().count(tokenizer.bos_token_id) == count


def test_an_answer_that_brings_its_end_has_it_once() -> None:
    for end in ("<|im_end|>", "<|im_end|>\n"):
        messages = [user("a"), assistant("b" + end), user("c"), assistant("d" + end)]
        rows = read(tokenizer_for("chatml"), {"messages": messages})
        assert learned(rows) == ["b<|im_end|>", "d<|im_end|>"]
        assert "hold the end <|im_end|> themselves" in rows.written.lines()[0]


def test_an_end_that_is_an_ordinary_added_token_ends_a_turn() -> None:
    tokenizer = byte_bpe(template=CHATML.replace("<|im_end|>", "<end>"))
    tokenizer.add_tokens(["<end>"])
    rows = read(tokenizer, {"messages": CHATS["one answer"]})
    assert learned(rows) == ["Hello<end>"]
    assert rows.taught_ends(np.array([0])) == [tokenizer.convert_tokens_to_ids("<end>")]


def test_a_tokenizer_without_an_end_is_said() -> None:
    tokenizer = byte_bpe(pad="<pad>")
    tokenizer.eos_token = None
    rows = read(tokenizer, {"prompt": "a", "completion": "b"})
    assert learned(rows) == ["b"]
    assert rows.taught_ends(np.array([0])) == []
    assert rows.written.lines() == [
        "answers have no token that ends them: stopping is not learned (1 time, first in rows.jsonl line 1)"
    ]


@pytest.mark.parametrize(
    ("template", "before", "stops"),
    [(CHATML, 2, [4, 2]), (CHATML, [2, 1], [4, 2, 1]), (CHATML, None, [4, 2]), (None, 2, 2), (None, None, 2)],
)
def test_an_export_stops_where_it_was_taught_to(tmp_path: Path, template: str | None, before: Any, stops: Any) -> None:
    from transformers import GenerationConfig

    folder = tiny_folder(tmp_path / "model", "gpt2", "lm", tokenizer=byte_bpe(template=template))
    settings = GenerationConfig.from_pretrained(folder)
    settings.eos_token_id = before
    settings.save_pretrained(folder)
    network = TransformersLM(TaskInfo("causal_lm", 0), pretrained=folder)
    file = write_jsonl(tmp_path / "rows.jsonl", [{"messages": CHATS["one answer"]}] * 8)
    data = Instructions(train=file)
    data.setup()
    settle(data, network)
    network.save_pretrained(str(tmp_path / "out"))
    made = GenerationConfig.from_pretrained(tmp_path / "out")
    assert made.eos_token_id == stops, "generate() does not stop at the end of a turn"
    assert made.pad_token_id == network.tokenizer.pad_token_id


def test_source_data_that_end_otherwise_do_not_change_where_an_export_stops(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model", "gpt2", "lm", tokenizer=byte_bpe(template="{{ messages[-1].content }}"))
    network = TransformersLM(TaskInfo("causal_lm", 0), pretrained=folder)
    for ends, feed in (("<|im_end|>", settle), ("<s>", lambda data, net: settle_source(net, None, data))):
        rows = [{"messages": [user("a"), assistant(f"b{ends}")]}] * 8
        data = Instructions(train=write_jsonl(tmp_path / "rows.jsonl", rows))
        data.setup()
        feed(data, network)
    assert network.input_view.ends == (network.tokenizer.convert_tokens_to_ids("<|im_end|>"),)


@pytest.mark.slow
def test_generating_from_the_folder_of_a_run_stops_at_the_end_of_a_turn(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sft_lightning.export import export_best
    from sft_lightning.modules import PlainSFT
    from sft_lightning.networks import spec
    from tests.support import fit

    folder = tiny_folder(tmp_path / "model", "gpt2", "lm", tokenizer=byte_bpe(template=CHATML))
    question = [user("What is the capital of France?")]
    file = write_jsonl(tmp_path / "rows.jsonl", [{"messages": [*question, assistant("Paris")]}] * 12)
    module = PlainSFT(spec(TransformersLM, pretrained=folder), lr=0.02)
    trainer = fit(module, Instructions(train=file, val_fraction=0.25, batch_size=4), max_epochs=30)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    export_best(module, tmp_path / "best.ckpt", tmp_path / "out")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
    )
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        said = model.eval().generate(**asked, max_new_tokens=20, do_sample=False)[0][asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == "Paris<|im_end|>", "generate() goes on after the end of the turn"


# ---- refused in one line ----

REFUSALS: dict[str, tuple[dict[str, Any], *tuple[str, ...]]] = {
    "an unknown role": ({"messages": [{"role": "judge", "content": "a"}]}, "'judge'", "system, user, assistant, tool"),
    "no role": ({"messages": [{"text": "a"}]}, "turn 1", "keys: text"),
    "a null answer": ({"messages": [user("a"), assistant(None)]}, "the assistant's content"),
    "an image": (
        {"messages": [user([{"type": "image_url", "image_url": {"url": "x"}}]), assistant("b")]},
        "the user's content",
        "turn 1",
        "'image_url'",
    ),
    "half a weight": ({"messages": [user("a"), assistant("b", weight=0.5)]}, "weight", "turn 2", "0.5", "0 or 1"),
    "no weight": ({"messages": [user("a"), assistant("b", weight=0)]}, "every answer"),
    "an unclear mask": ({"messages": [user("a"), assistant("b", mask=True)]}, "turn 2", "mask", "weight 0"),
    "a contradiction": ({"messages": [user("a"), assistant("b", weight=1, train=False)]}, "turn 2", "weight and train"),
    "two systems": (
        {"messages": [{"role": "system", "content": "a"}, user("a"), assistant("b")], "system": "c"},
        "system column",
        "messages",
    ),
    "history of texts": ({"instruction": "a", "output": "b", "history": ["c"]}, "history"),
    "tools in words": ({"messages": CHATS["one answer"], "tools": "weather"}, "tools"),
    "not JSON": ({"messages": "[{'role': 'user'}]"}, "messages", "JSON"),
    "an empty prompt": ({"prompt": [], "completion": [assistant("a")]}, "prompt"),
    "no answer": ({"prompt": [user("a")], "completion": [user("b")]}, "completion", "assistant"),
    "a mark": ({"messages": [user("a \ue0f5"), assistant("b")]}, "U+E0F5"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_cannot_be_told_is_one_line_that_names_the_row(what: str) -> None:
    row, *values = REFUSALS[what]
    with refused("data", "rows.jsonl line 1: ", *values):
        read(tokenizer_for("chatml"), row)


def test_templates_that_cannot_be_followed_are_one_line() -> None:
    def refuses(chat_template: Any, key: str, *values: str) -> None:
        with refused(key, *values):
            read(byte_bpe(template=chat_template), {"messages": CHATS["two answers"]})

    refuses("{% for m in messages %}", "network.tokenizer", "line 1")
    refuses("{{ messages[0].content + 1 }}", "data", "rows.jsonl line 1", "str")
    refuses("{% for m in messages %}{{ m.content | length }}|{% endfor %}", "data", "rows.jsonl line 1", "turn 2")
    other = "{% for m in messages %}{% if messages[1].content == 'Hello' %}A{% endif %}{{ m.content }}|{% endfor %}"
    refuses(other, "data", "rows.jsonl line 1", "turn 2")
    refuses({"a": "b", "c": "d"}, "network.tokenizer", "multiple chat templates")


def test_preferences_are_refused_with_what_to_do() -> None:
    with refused("data", "rows.jsonl", "chosen", "rejected", "column completion"):
        read(byte_bpe(), {"prompt": "a", "chosen": "b", "rejected": "c"})
