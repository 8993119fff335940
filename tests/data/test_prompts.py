"""Instructions for generation: what a model is given, what it should say, and on how many samples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data.drawn import EvenBatches, draw
from sft_lightning.data.text.conversation import InstructionRows
from sft_lightning.data.text.files import read_table
from sft_lightning.data.text.instructions import Instructions
from sft_lightning.data.text.prompts import Prompts
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import TransformersLM
from sft_lightning.networks.spec import spec
from tests.networks.tiny import CHATML, byte_bpe, tiny_folder
from tests.refused import refused

ROWS = [{"prompt": f"{n} plus {n} is", "completion": f" {'many ' * (n % 4)}{2 * n}"} for n in range(30)]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "llama", "llama", "lm", max_position_embeddings=256)


def data_of(folder: Path, **settings: Any) -> Instructions:
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Instructions(train=str(folder / "a.jsonl"), val=str(folder / "a.jsonl"), **settings)


@torch.no_grad()
def test_a_generated_answer_is_the_most_likely_token_each_time_whatever_the_batch(llama: str, tmp_path: Path) -> None:
    data = data_of(tmp_path, generate_samples=30, batch_size=7, seed=0)
    data.setup()
    network = TransformersLM(TaskInfo("causal_lm", 0), pretrained=llama, max_new_tokens=5).eval()
    network.settle(data.settle(network.wanted_input()))
    said: dict[int, str] = {}
    for batch in data.val_dataloader():
        said |= dict(zip(batch["rows"], network.generate(batch["prompt"]), strict=True))
    ends = {network.tokenizer.eos_token_id, *(network.input_view.ends or ())}
    for row in (0, 3, 29):
        text = ROWS[row]["prompt"]
        ids = list(network.tokenizer(text)["input_ids"])
        start = len(ids)
        while len(ids) < start + 5 and (len(ids) == start or ids[-1] not in ends):
            now = torch.tensor([ids])
            ids.append(int(network._whole[0](input_ids=now).logits[0, -1].argmax()))
        assert said[row] == network.tokenizer.decode(ids[start:], skip_special_tokens=True), f"row {row}"


def test_prompt_and_answer_of_a_row_are_those_of_the_file(llama: str, tmp_path: Path) -> None:
    data = data_of(tmp_path, generate_samples=4, batch_size=4, seed=0)
    data.setup()
    network = TransformersLM(TaskInfo("causal_lm", 0), pretrained=llama)
    data.settle(network.wanted_input())
    first = next(iter(data.val_dataloader()))
    for row, ids, mask, (reference,) in zip(
        first["rows"], first["prompt"]["input_ids"], first["prompt"]["attention_mask"], first["references"], strict=True
    ):
        assert network.tokenizer.decode(ids[mask.bool()], skip_special_tokens=True) == ROWS[row]["prompt"]
        assert reference == ROWS[row]["completion"]


def test_the_samples_for_which_texts_are_generated_are_drawn_evenly_and_come_in_batches_of_their_own(
    llama: str, tmp_path: Path
) -> None:
    data = data_of(tmp_path, generate_samples=11, batch_size=4, seed=0)
    data.setup()
    data.compare_on(5)
    data.settle(TransformersLM(TaskInfo("causal_lm", 0), pretrained=llama).wanted_input())
    batches = list(data.val_dataloader())
    asked = sorted(row for batch in batches if "prompt" in batch for row in batch["rows"])
    compared = sorted(row for batch in batches if batch["compared"] for row in batch["rows"])
    assert asked == draw(30, 11).tolist() and compared == draw(30, 5).tolist()
    assert sorted(row for batch in batches for row in batch["rows"]) == list(range(30))
    assert not any("prompt" in batch for batch in data.train_dataloader())


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("number", "compared", "generated"), [(50, 10, 20), (50, 20, 10), (50, None, 0), (9, 20, None)]
)
def test_draws_of_one_evaluation_are_nested(ranks: int, number: int, compared: Any, generated: Any) -> None:
    keys = [
        key
        for rank in range(ranks)
        for batch in EvenBatches(60, 4, rank, ranks, None, number, compared, generated)
        for key in batch
        if key.real
    ]
    expected = {
        which: draw(60, number if n is None else min(n, number)) if n != 0 else np.zeros(0, int)
        for which, n in (("compared", compared), ("generated", generated))
    }
    assert sorted(k.position for k in keys) == draw(60, number).tolist()
    for which, rows in expected.items():
        assert sorted(k.position for k in keys if getattr(k, which)) == rows.tolist(), which


def test_a_run_scores_generated_answers_before_at_each_validation_and_in_the_test_and_says_on_how_many(
    llama: str, tmp_path: Path
) -> None:
    from lightning import Trainer

    import sft_lightning
    from sft_lightning.modules import PlainSFT
    from sft_lightning.networks.spec import spec

    data = data_of(tmp_path, generate_samples=11, batch_size=10, seed=0)
    data.files["test"] = data.files["val"]
    module = PlainSFT(spec(TransformersLM, pretrained=llama, max_new_tokens=4), lr=1e-3)
    with sft_lightning.run("answers", runs_dir=str(tmp_path / "runs")) as run:
        trainer = Trainer(**run.trainer_kwargs(max_epochs=2, accelerator="cpu"))
        trainer.fit(module, data)
        trainer.test(module, data)
    record = json.loads((run.path / "run.json").read_text())
    assert record["n"] == {"val": 30, "drift": 30, "generated": 11, "test": 30, "test/drift": 30, "test/generated": 30}
    assert {"before", "final"} <= record["metrics"]["val/exact_match"].keys()
    assert record["metric_info"]["val/rougeL"] == {"better": "max", "unit": "share"}
    assert {"test/exact_match", "test/rougeL", "test/perplexity"} <= record["test"].keys()


LAYOUTS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "completions that begin with a space": (
        [{"prompt": "One plus one is", "completion": " two"}],
        [{"prompt": "Two plus two is"}, {"prompt": "Two plus one is"}],
    ),
    "completions that begin with a word": (
        [{"prompt": "One plus one?", "completion": "two"}],
        [{"prompt": "Two plus two?"}],
    ),
    "instructions": ([{"instruction": "Add", "input": "1 1", "output": "2"}], [{"instruction": "Add", "input": "2 2"}]),
    "messages": (
        [{"messages": [{"role": "user", "content": "Add"}, {"role": "assistant", "content": "2"}]}],
        [{"messages": [{"role": "user", "content": "Add two"}]}],
    ),
    "messages with an answer": (
        [{"messages": [{"role": "user", "content": "Add"}, {"role": "assistant", "content": "2"}]}],
        [{"messages": [{"role": "user", "content": "Add two"}, {"role": "assistant", "content": "old"}]}],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_prompt_to_predict_on_is_written_as_in_training_up_to_its_answer(
    llama: str, tmp_path: Path, layout: str
) -> None:
    train, asked = LAYOUTS[layout]
    for name, rows in (("train", train * 12), ("asked", asked)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    network = TransformersLM(TaskInfo("causal_lm", 0), pretrained=llama, max_new_tokens=3, max_length=256).eval()
    data = Instructions(train=str(tmp_path / "train.jsonl"), predict=str(tmp_path / "asked.jsonl"), seed=0)
    data.setup("predict")
    data.settle(network.wanted_input())
    (batch,) = data.predict_dataloader()
    prompts = [
        network.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(batch["prompt"]["input_ids"], batch["prompt"]["attention_mask"], strict=True)
    ]
    key = next(iter(asked[0]))
    answered = [
        {**row, "completion": train[0].get("completion"), "output": "2"}
        if key != "messages"
        else {key: [row[key][0], {"role": "assistant", "content": "2"}]}
        for row in asked
    ]
    (tmp_path / "answered.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answered))
    trained = Instructions(
        train=str(tmp_path / "answered.jsonl"), val=str(tmp_path / "answered.jsonl"), generate_samples=9
    )
    trained.setup()
    trained.settle(network.wanted_input())
    (same,) = trained.val_dataloader()
    expected, found = (
        {row: ids[mask.bool()].tolist() for row, ids, mask in zip(b["rows"], *b["prompt"].values(), strict=True)}
        for b in (same, batch)
    )
    assert found == expected, f"the prompts are {prompts}"
    assert batch["count"] == 0 and "y" not in batch


def test_the_right_answer_is_what_is_learned_also_where_the_template_writes_thoughts_before_it(tmp_path: Path) -> None:
    message = {"role": "assistant", "content": "ten", "reasoning_content": "one"}
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}, message]}) + "\n")
    thinking = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m.get('reasoning_content') %}<think>"
        "{{ m['reasoning_content'] }}</think>{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    for template, expected in ((thinking, "<think>one</think>ten"), (CHATML, "ten")):
        rows = InstructionRows(read_table(tmp_path / "a.jsonl"))
        rows.use(byte_bpe(pad="<pad>", template=template), None)
        assert rows.prompts([0])["references"][0] == (expected,)


@torch.no_grad()
def test_a_prompt_that_is_too_long_loses_its_beginning_with_a_warning_and_a_short_one_stays(llama: str) -> None:
    network = TransformersLM(TaskInfo("causal_lm", 0), pretrained=llama, max_length=16, max_new_tokens=128).eval()
    whole = TransformersLM(TaskInfo("causal_lm", 0), pretrained=llama, max_length=200, max_new_tokens=8).eval()
    ids = torch.arange(5, 12)[None]
    short = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert network.generate(short) == whole.generate(short), (
        "half of max_length is for new tokens, the rest for prompts"
    )
    long = {name: torch.cat([torch.full_like(values, 9)] * 3 + [values], 1) for name, values in short.items()}
    long["attention_mask"] = torch.ones_like(long["input_ids"])
    with pytest.warns(UserWarning, match="lose their beginning"):
        said = network.generate(long)
    assert said == whole.generate({name: values[:, -8:] for name, values in long.items()})


@torch.no_grad()
def test_a_models_own_settings_do_not_make_a_text_depend_on_its_batch(llama: str) -> None:
    network = TransformersLM(TaskInfo("causal_lm", 0), pretrained=llama, max_new_tokens=12).eval()
    own = network._whole[0].generation_config
    own.min_length, own.do_sample, own.repetition_penalty = 20, True, 1.7
    lengths = [3, 9, 14]
    ids = torch.zeros(3, 14, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, 14 - length :] = torch.arange(5, 5 + length)
    mask = (torch.arange(14)[None] >= 14 - torch.tensor(lengths)[:, None]).long()
    together = network.generate({"input_ids": ids, "attention_mask": mask})
    alone = [
        network.generate({"input_ids": ids[r : r + 1, 14 - n :], "attention_mask": mask[r : r + 1, 14 - n :]})[0]
        for r, n in enumerate(lengths)
    ]
    assert together == alone
    assert network._whole[0].generation_config is own and own.min_length == 20, "the model's own settings are kept"


ASKED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "no training file": ({"prompt": "Two plus two is"}, ("data.predict", "asked.jsonl", "data.train")),
    "no question": ({"messages": [{"role": "assistant", "content": "four"}]}, ("data", "asked.jsonl", "question")),
    "no message": ({"messages": []}, ("data", "asked.jsonl", "question")),
}


@pytest.mark.parametrize("case", ASKED)
def test_prompts_that_cannot_be_written_as_in_training_are_refused(llama: str, tmp_path: Path, case: str) -> None:
    row, (key, *values) = ASKED[case]
    (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
    data = Instructions(train=str(tmp_path / "nowhere.jsonl"), predict=str(tmp_path / "asked.jsonl"))
    with refused(key, *values):
        data.setup("predict")


def test_prompts_are_read_in_the_layout_of_the_training_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({"instruction": "a", "prompt": "Say", "completion": " b"}) + "\n")
    (tmp_path / "asked.jsonl").write_text(json.dumps({"instruction": "other", "prompt": "Say it"}) + "\n")
    data = Instructions(train=str(tmp_path / "train.jsonl"), predict=str(tmp_path / "asked.jsonl"))
    samples = data.load_for_prediction()
    assert isinstance(samples, Prompts)
    assert samples.conversations[0].prompt == "Say it" and samples.conversations[0].messages[-1]["content"] == " ?"


def test_predicting_stops_at_the_ends_of_the_answers_that_were_learned(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "chat", "llama", "lm", tokenizer=byte_bpe(pad="<pad>", template=CHATML))
    rows = [
        {"messages": [{"role": "user", "content": f"hi {n}"}, {"role": "assistant", "content": "ten"}]}
        for n in range(20)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = str(tmp_path / "a.jsonl")
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    module = PlainSFT(spec(TransformersLM, pretrained=folder, max_new_tokens=3))
    trainer = Trainer(max_steps=1, enable_checkpointing=False, **settings)
    trainer.fit(module, Instructions(train=file, val=file, batch_size=20, seed=0))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = PlainSFT(
        spec(TransformersLM, pretrained=folder, max_new_tokens=3), task={"name": "causal_lm", "num_outputs": 0}
    )
    Trainer(**settings).predict(again, Instructions(train=file, predict=file), ckpt_path=str(tmp_path / "a.ckpt"))
    assert again.network.input_view.ends == module.network.input_view.ends != (again.network.tokenizer.eos_token_id,)
