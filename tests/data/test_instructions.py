"""Instructions: what is supervised, in every layout, template and tokenizer family; padding, truncation, perplexity."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sft_lightning.core.structures import Batch, TaskInfo
from sft_lightning.data import Instructions, TextTable
from sft_lightning.modules import DistillSFT, PlainSFT
from sft_lightning.networks import TransformersLM, TransformersText, spec
from tests.data.text_files import write_jsonl
from tests.networks.tiny import (
    CHATML,
    FORGETFUL,
    MISTRAL,
    NO_END,
    NO_GENERATION_PROMPT,
    byte_bpe,
    tiny_folder,
    unigram,
    wordpiece,
)
from tests.refused import refused
from tests.support import fit, quiet_trainer, settle

TASK = TaskInfo("causal_lm", 0)
PAIRS = [
    ("What is the capital of France?", "Paris."),
    ("How many questions?", "One two three four."),
    ("A film", "so dull!"),
]


def wordpiece_lm() -> Any:
    tokenizer = wordpiece()
    tokenizer.eos_token = "[SEP]"
    return tokenizer


FAMILIES: dict[str, Callable[[], Any]] = {"wordpiece": wordpiece_lm, "bpe": byte_bpe, "unigram": unigram}


def make(
    tmp_path: Path, rows: list[Any], tokenizer: Any = None, *, side: str = "right", **arguments: Any
) -> tuple[TransformersLM, Instructions]:
    """A tiny Llama with this tokenizer, and data bound to it; all rows train, validate and test."""
    tokenizer = tokenizer or byte_bpe()
    folder = tiny_folder(tmp_path / "model", "llama", "lm", tokenizer=tokenizer, max_position_embeddings=256)
    network = TransformersLM(TASK, pretrained=folder, max_length=256).eval()
    network.tokenizer.padding_side = side
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    data = Instructions(train=file, val=file, test=file, **{"batch_size": len(rows), **arguments})
    data.setup()
    settle(data, network)
    return network, data


def answers(tokenizer: Any, batch: Batch) -> list[str]:
    """The supervised tokens of each row, decoded."""
    parts = batch["y"].split(batch["select"].sum(1).tolist())
    return [tokenizer.decode(p, clean_up_tokenization_spaces=False) for p in parts]


def by_index(batch: Batch, values: list[Any]) -> list[Any]:
    return [v for _, v in sorted(zip(batch["index"].tolist(), values, strict=True))]


def prompts(rows: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"prompt": p, "completion": c} for p, c in rows]


def messages(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(turns)]}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_labels_decode_to_the_completion_and_its_end(tmp_path: Path, family: str, side: str) -> None:
    network, data = make(tmp_path, prompts(PAIRS), FAMILIES[family](), side=side)
    batch = next(iter(data.val_dataloader()))
    eos = network.tokenizer.eos_token
    said = [a.replace(" ", "") for a in by_index(batch, answers(network.tokenizer, batch))]
    wanted = [c + eos for _, c in PAIRS]
    if family == "wordpiece":
        wanted = [w.lower().replace(eos.lower(), eos) for w in wanted]
    assert said == [w.replace(" ", "") for w in wanted]
    assert batch["count"] == len(batch["y"]) == int(batch["select"].sum())


@pytest.mark.parametrize("family", ["bpe", "unigram"])
@pytest.mark.parametrize("pad", [None, "<pad>"])
def test_the_true_end_is_supervised_even_where_it_pads(tmp_path: Path, family: str, pad: str | None) -> None:
    tokenizer = byte_bpe(pad=pad) if family == "bpe" else unigram(pad=pad)
    network, data = make(tmp_path, prompts(PAIRS), tokenizer)
    tokenizer = network.tokenizer
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == (pad is None)
    batch = next(iter(data.val_dataloader()))
    assert (batch["y"] == tokenizer.eos_token_id).sum() == len(PAIRS)
    x = batch["x"]
    after = batch["select"].long().cumsum(1).argmax(1) + 1  # where the last supervised token of each row stands
    assert (x["input_ids"].gather(1, after[:, None]) == tokenizer.eos_token_id).all()
    assert (x["attention_mask"].sum(1) == after + 1).all()


@pytest.mark.parametrize("tokenizer", [lambda: byte_bpe(bos=True), unigram, lambda: unigram(template=MISTRAL)])
def test_exactly_one_bos(tmp_path: Path, tokenizer: Callable[[], Any]) -> None:
    network, data = make(tmp_path, prompts(PAIRS), tokenizer())
    ids = next(iter(data.val_dataloader()))["x"]["input_ids"]
    assert (ids[:, 0] == network.tokenizer.bos_token_id).all()
    assert (ids == network.tokenizer.bos_token_id).sum() == len(ids)


def test_no_bos_where_the_tokenizer_uses_none(tmp_path: Path) -> None:
    network, data = make(tmp_path, prompts(PAIRS), byte_bpe())
    assert not (next(iter(data.val_dataloader()))["x"]["input_ids"] == network.tokenizer.bos_token_id).any()


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Answer: ", "Paris"),  # byte-level BPE would make one token of the space and the word
        ("Answer:", " Paris"),
        ("Answer:\n", "\n\nParis"),
        ("capi", "tal of France"),
        ("The quick brown fo", "x jumps"),
        ("fox?", "jumps</s>"),  # brings its end
    ],
)
def test_tokens_that_merge_across_the_boundary(tmp_path: Path, prompt: str, completion: str) -> None:
    network, data = make(tmp_path, prompts([(prompt, completion)] * 4))
    batch = next(iter(data.val_dataloader()))
    wanted = completion if completion.endswith("</s>") else completion + "</s>"
    assert answers(network.tokenizer, batch) == [wanted] * 4
    joint = "" if prompt[-1].isspace() or completion[0].isspace() else "\n"
    assert network.tokenizer.decode(batch["x"]["input_ids"][0]) == prompt + joint + wanted


@pytest.mark.parametrize("side", ["right", "left"])
def test_left_and_right_padding_give_the_same_loss(tmp_path: Path, side: str) -> None:
    network, data = make(tmp_path, prompts(PAIRS), side=side)
    batch = next(iter(data.val_dataloader()))
    assert (batch["x"]["attention_mask"][:, 0 if side == "left" else -1] == 0).any()
    with torch.no_grad():
        loss = F.cross_entropy(network(batch["x"], batch["select"]).logits, batch["y"], reduction="sum")
        alone = torch.zeros(())
        for row in range(len(PAIRS)):
            split = data.splits["val"]
            one = split.samples.fetch([row], [], False)
            alone = alone + F.cross_entropy(
                network({k: v for k, v in one.items() if k.startswith(("input", "att"))}, one["select"]).logits,
                one["y"],
                reduction="sum",
            )
    torch.testing.assert_close(loss, alone, rtol=1e-5, atol=1e-4)


# ---- layouts and templates ----

CHAT = [
    messages("What is it?", "A film.", "Is it dull?", "Not once!"),
    messages("One", "two three"),
    messages("a", "b", "c"),
]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (None, "</s>"),
        (CHATML, "<|im_end|>"),
        (NO_GENERATION_PROMPT, "<|im_end|>"),
        (MISTRAL, "</s>"),
        (FORGETFUL, "<|im_end|>"),
    ],
)
def test_every_assistant_turn_is_supervised(tmp_path: Path, template: str | None, end: str) -> None:
    network, data = make(tmp_path, CHAT, byte_bpe(template=template))
    batch = next(iter(data.val_dataloader()))
    wanted = [f"A film.{end}Not once!{end}", f"two three{end}", f"b{end}"]
    said = by_index(batch, answers(network.tokenizer, batch))
    if template == MISTRAL:  # writes a space before each answer, and a model asked to answer has to as well
        said = [s.replace(" A", "A").replace(" Not", "Not").replace(" two", "two").replace(" b", "b") for s in said]
    if template == FORGETFUL:
        said = [s.replace("<think></think>\n", "") for s in said]
    assert said == wanted


def test_each_answer_begins_where_its_own_prompt_ends(tmp_path: Path) -> None:
    """The last answer's prompt, which a tool's turn ends, stood for all: the first answer's space was not learned."""
    rows = [messages("What is it?", "A film."), messages("One", "two three")]
    rows[0]["messages"] += [{"role": "tool", "content": "dull"}, {"role": "assistant", "content": "Not once!"}]
    network, data = make(tmp_path, rows, byte_bpe(template=MISTRAL))
    batch = next(iter(data.val_dataloader()))
    assert by_index(batch, answers(network.tokenizer, batch)) == [" A film.</s> Not once!</s>", " two three</s>"]


def test_a_template_without_an_end_gets_one(tmp_path: Path) -> None:
    network, data = make(tmp_path, prompts(PAIRS), byte_bpe(template=NO_END))
    batch = next(iter(data.val_dataloader()))
    assert by_index(batch, answers(network.tokenizer, batch)) == [f"{c}\n</s>" for _, c in PAIRS]


def test_prompts_are_what_the_template_asks_with(tmp_path: Path) -> None:
    """The tokens before the answer are those a model gets when asked: none more, none less."""
    network, data = make(tmp_path, [messages(*p) for p in PAIRS], byte_bpe(template=CHATML))
    split = data.splits["val"]
    for row, (prompt, _) in enumerate(PAIRS):
        x = split.samples.fetch([row], [], False)
        asked = network.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        start = int(x["select"][0].long().argmax()) + 1
        assert x["input_ids"][0, :start].tolist() == list(asked)


def test_alpaca(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Count.", "input": "", "output": "One two three"},
        {"instruction": "Translate.", "input": "Paris", "output": "Paris is the capital"},
    ]
    network, data = make(tmp_path, rows)
    batch = next(iter(data.val_dataloader()))
    assert by_index(batch, answers(network.tokenizer, batch)) == ["One two three</s>", "Paris is the capital</s>"]
    texts = by_index(batch, [network.tokenizer.decode(i[m.bool()]) for i, m in zip(*_ids(batch), strict=True)])
    assert texts[0] == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nCount.\n\n### Response:\nOne two three</s>"
    )
    assert "paired with an input that provides further context" in texts[1]
    assert "### Input:\nParis\n\n### Response:\nParis is" in texts[1]


def _ids(batch: Batch) -> tuple[Any, Any]:
    return batch["x"]["input_ids"], batch["x"]["attention_mask"]


def test_json_list_and_conversational_prompts(tmp_path: Path) -> None:
    turns = [{"prompt": messages("One")["messages"], "completion": [{"role": "assistant", "content": "two"}]}] * 4
    network, _ = make(tmp_path, prompts(PAIRS))
    (tmp_path / "a.json").write_text(json.dumps(turns))
    data = Instructions(train=str(tmp_path / "a.json"), val_fraction=0.25)
    data.setup()
    settle(data, network)
    batch = next(iter(data.train_dataloader()))
    assert answers(network.tokenizer, batch) == ["two</s>"] * 3


# ---- truncation ----


def test_truncated_rows_are_counted_and_empty_ones_dropped(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten " * 2
    rows = prompts([("A", "b"), ("A", long), (long, "b"), ("One", "two")])
    network, data = make(tmp_path, rows, max_length=12)
    assert data.truncated["train"] == 0.5
    assert data.dropped == {"train": 1, "val": 1, "test": 1}
    assert "dropped, completion beyond max_length: 1 of train" in data.describe()
    batch = next(iter(data.train_dataloader()))
    assert sorted(batch["index"].tolist()) == [0, 1, 3]
    assert batch["x"]["input_ids"].shape[1] == 12
    assert (batch["select"].sum(1) > 0).all()
    assert int((batch["y"] == network.tokenizer.eos_token_id).sum()) == 2  # the truncated one never ends


def test_rows_dropped_for_one_network_come_back_for_another(tmp_path: Path) -> None:
    long = "one two three four five six seven eight nine ten " * 2
    rows = prompts([("A", "b"), (long, "b"), ("One", "two")])
    short, data = make(tmp_path, rows)
    short.max_length = 12
    data = Instructions(train=data.files["train"], val=data.files["train"])
    data.setup()
    settle(data, short)
    assert data.dropped == {"train": 1, "val": 1}
    settle(data, TransformersLM(TASK, pretrained=str(tmp_path / "model"), max_length=256))
    assert data.dropped == {"train": 0, "val": 0}
    assert len(data.splits["train"]) == 3


def test_a_batch_without_supervised_tokens_costs_nothing(tmp_path: Path) -> None:
    _, data = make(tmp_path, prompts(PAIRS))
    module = PlainSFT(spec(TransformersLM, pretrained=str(tmp_path / "model"), max_length=256), lr=1e-2)
    trainer = fit(module, data, max_epochs=1)
    assert module.network is not None
    assert module.task is not None
    batch = next(iter(data.train_dataloader()))
    batch["select"] = torch.zeros_like(batch["select"])
    batch["y"], batch["count"] = batch["y"][:0], 0
    loss, items = module.task.loss(module.output(batch), batch)
    assert (loss.item(), items) == (0.0, 0)
    module.zero_grad()
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())
    assert trainer.callback_metrics["train/loss"].isfinite()


# ---- training ----


def test_perplexity_is_weighted_by_tokens(tmp_path: Path) -> None:
    rows = prompts([*PAIRS, ("Count", "one two three four five six seven eight nine ten"), ("A", "b")])
    network, data = make(tmp_path, rows)
    data.eval_batch_size = 2
    module = PlainSFT(spec(TransformersLM, pretrained=str(tmp_path / "model"), max_length=256))
    values = quiet_trainer().test(module, data, verbose=False)[0]
    assert module.info is not None
    assert module.info.num_outputs == module.hparams["task"]["num_outputs"] == network.task.num_outputs
    total, right, count = 0.0, 0, 0
    for row in range(len(rows)):
        one = data.splits["test"].samples.fetch([row], [], False)
        with torch.no_grad():
            logits = network({k: v for k, v in one.items() if k.startswith(("input", "att"))}, one["select"]).logits
        total += float(F.cross_entropy(logits, one["y"], reduction="sum"))
        right += int((logits.argmax(-1) == one["y"]).sum())
        count += len(one["y"])
    assert values["test/perplexity"] == pytest.approx(float(torch.tensor(total / count).exp()), rel=1e-4)
    assert values["test/loss"] == pytest.approx(total / count, rel=1e-5)
    assert values["test/token_accuracy"] == pytest.approx(right / count)


def test_accumulation_changes_nothing(tmp_path: Path) -> None:
    """Tokens are the items: micro-batches with few of them must not count as much as those with many."""
    rows = prompts([*PAIRS, ("Count", "one two three four five six seven eight nine ten")])
    _, data = make(tmp_path, rows)
    found = []
    for accumulate in (1, 2, 4):
        data = Instructions(train=data.files["train"], val=data.files["train"], batch_size=4, seed=0)
        network = spec(TransformersLM, pretrained=str(tmp_path / "model"), max_length=256)
        module = PlainSFT(network, lr=0.1, optimizer="SGD")
        fit(module, data, max_epochs=2, accumulate_grad_batches=accumulate)
        assert module.network is not None
        found.append(torch.cat([p.detach().flatten() for p in module.network.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-5, atol=1e-6)


def test_anchored_to_its_own_logits(tmp_path: Path) -> None:
    _, data = make(tmp_path, prompts(PAIRS * 3), batch_size=3)
    network = spec(TransformersLM, pretrained=str(tmp_path / "model"), max_length=256)
    module = DistillSFT(network, lr=1e-2, distance="kl", anchor_weight=1.0)
    trainer = fit(module, data, max_epochs=2)
    assert module.on == "logits"
    assert trainer.callback_metrics["train/loss_anchor"] > 0
    assert {"val/perplexity", "drift/kl", "retention/agreement"} <= trainer.callback_metrics.keys()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = DistillSFT(network, distance="kl")
    tested = quiet_trainer().test(again, data, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True, verbose=False)
    assert tested[0]["test/perplexity"] == pytest.approx(float(trainer.callback_metrics["val/perplexity"]), rel=1e-4)


# ---- mistakes ----

MISTAKES: list[tuple[Any, str, str]] = [
    ({"prompt": "a", "completion": ""}, "completion", ""),
    ({"prompt": "", "completion": "a"}, "prompt", ""),
    ({"prompt": 3, "completion": "a"}, "prompt", "(3)"),
    ({"prompt": "a"}, "completion", ""),
]


@pytest.mark.parametrize(("row", "column", "held"), MISTAKES)
def test_mistakes_in_rows_are_one_line(tmp_path: Path, row: Any, column: str, held: str) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}, row])
    with refused("data", f"rows.jsonl line 2: {column}", held):
        Instructions(train=file).setup()


def test_other_mistakes_are_one_line(tmp_path: Path) -> None:
    def refuses(act: Callable[[], Any], key: str, *values: object) -> None:
        with refused(key, *values):
            act()

    def of(*rows: Any) -> Callable[[], Any]:
        return Instructions(train=write_jsonl(tmp_path / "rows.jsonl", list(rows))).setup

    refuses(of({"prompts": "a", "completions": "b"}), "data", "prompts, completions", "'prompt'")
    refuses(of(messages("a")), "data", "rows.jsonl line 1", "assistant")
    wrong = {"messages": [{"role": "asistant", "content": "a"}]}
    refuses(of(wrong), "data", "line 1", "'asistant'", "system, user, assistant, tool", "'assistant'")
    refuses(of(messages("a", " ")), "data", "line 1", "the assistant's content")
    refuses(of({"messages": "hello"}), "data", "line 1: messages")
    refuses(Instructions, "data", "train", "path")
    file = write_jsonl(tmp_path / "good.jsonl", prompts(PAIRS * 4))
    refuses(Instructions(train=file, shots_per_class=2).setup, "data.shots_per_class", "data.train_fraction")

    network, _ = make(tmp_path, prompts(PAIRS))

    def bound(data: Any, to: Any) -> Callable[[], Any]:
        data.setup()
        return lambda: settle(data, to)

    refuses(bound(Instructions(train=file, max_length=3), network), "data.max_length", "3 tokens")
    network.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    refuses(bound(Instructions(train=file), network), "data", "line 1", "roles must alternate")
    labelled = write_jsonl(tmp_path / "a.jsonl", [{"text": "a", "label": i % 2} for i in range(20)])
    refuses(bound(TextTable(train=labelled), network), "network", "TransformersLM", "TextTable")
    classifier = TransformersText(TaskInfo("classification", 2), pretrained=str(tmp_path / "model"))
    refuses(bound(Instructions(train=file), classifier), "network", "TransformersText", "Instructions")
    with refused("network", "TransformersText", "causal_lm"):
        fit(
            PlainSFT(spec(TransformersText, pretrained=str(tmp_path / "model"))), Instructions(train=file), max_epochs=1
        )
