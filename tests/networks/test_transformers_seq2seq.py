"""TransformersSeq2Seq: the model's own logits and decoder inputs, padding, beams, export, languages, a learned tokenizer."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import TransformersSeq2Seq
from sft_lightning.networks.learned_tokenizer import LearnedTokenizer
from tests.networks.tiny import SENTENCES, tiny_folder
from tests.refused import refused

TASK = TaskInfo("seq2seq", 0)
KINDS = ("t5", "t5 unscaled", "marian", "bart", "bart untied")
IDS = torch.tensor([[5, 9, 12, 40, 7, 1], [8, 8, 31, 1, 0, 0]])
X = {"input_ids": IDS, "attention_mask": (IDS != 0).long()}
TARGETS = torch.tensor([[6, 7, 1, 0], [9, 10, 11, 1]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root, made = tmp_path_factory.mktemp("tiny"), {}
    for name in KINDS:
        kind, _, other = name.partition(" ")
        settings = {"tie_word_embeddings": False} if other else {}
        made[name] = tiny_folder(root / name.replace(" ", "-"), kind, "seq2seq", **settings)
        if kind == "marian":  # as its published models have it
            from transformers import MarianMTModel

            model = MarianMTModel.from_pretrained(made[name])
            model.final_logits_bias.normal_()
            model.save_pretrained(made[name])
    return made


def theirs(folder: str) -> Any:
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_and_decoder_inputs_are_the_models_own(folders: dict[str, str], kind: str) -> None:
    network, model = TransformersSeq2Seq(TASK, pretrained=folders[kind]).eval(), theirs(folders[kind])
    select = TARGETS != 0
    wanted = model(**X, labels=TARGETS.masked_fill(~select, -100)).logits[select]
    said = network({**X, "target_ids": TARGETS}, select)
    torch.testing.assert_close(said.logits, wanted, rtol=1e-5, atol=1e-5)
    assert said.features.shape == (7, 16) and network.report.missing == []
    assert torch.equal(network.shifted(TARGETS), model.prepare_decoder_input_ids_from_labels(labels=TARGETS))
    assert network.task.num_outputs == model.config.vocab_size
    if "bart" in kind:  # a target text begins with <s>, and the decoder with </s>
        begins = network.tokenizer(text_target=["A film"])["input_ids"][0]
        assert begins[0] == 1 and network.shifted(torch.tensor([begins]))[0, :2].tolist() == [2, 1]


def test_tied_weights_count_once_and_belong_to_the_pretrained(folders: dict[str, str]) -> None:
    tied, untied = (TransformersSeq2Seq(TASK, pretrained=folders[k]) for k in ("t5", "bart untied"))
    assert tied.head.linear.weight is tied.encoder.encoder.embed_tokens.weight  # type: ignore[union-attr]
    assert "head.linear.weight" not in dict(tied.named_parameters())
    assert "head.linear.weight" in untied.shared_parameters()
    assert tied.new_parameters() == untied.new_parameters() == {}
    whole = sum(p.numel() for p in theirs(folders["t5"]).parameters())
    assert sum(p.numel() for p in tied.parameters()) == whole


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padding_of_sources_and_targets_changes_nothing(folders: dict[str, str], kind: str) -> None:
    network = TransformersSeq2Seq(TASK, pretrained=folders[kind]).eval().double()
    alone = network(
        {"input_ids": IDS[1:, :4], "attention_mask": X["attention_mask"][1:, :4], "target_ids": TARGETS[1:]}
    )
    wide = {n: torch.nn.functional.pad(v, (0, 3)) for n, v in {**X, "target_ids": TARGETS}.items()}
    torch.testing.assert_close(network(wide).logits[1, :4], alone.logits[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_generated_texts_are_the_models_own_by_beam_search_whatever_the_batch(
    folders: dict[str, str], kind: str
) -> None:
    network = TransformersSeq2Seq(TASK, pretrained=folders[kind], num_beams=3, max_new_tokens=7).eval()
    model, tokenizer = theirs(folders[kind]), network.tokenizer
    made = tokenizer(SENTENCES[:4], padding=True, return_tensors="pt", max_length=64, truncation=True)
    said = network.generate({n: made[n] for n in ("input_ids", "attention_mask")})
    for row, sentence in enumerate(SENTENCES[:4]):
        one = tokenizer([sentence], return_tensors="pt", max_length=64, truncation=True)
        asked = {n: one[n] for n in ("input_ids", "attention_mask")}
        wanted = model.generate(**asked, num_beams=3, max_new_tokens=7, do_sample=False)
        assert said[row] == tokenizer.decode(wanted[0], skip_special_tokens=True), f"row {row}"


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_export_is_a_genuine_folder_that_generates_the_same(
    folders: dict[str, str], kind: str, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    network = TransformersSeq2Seq(TASK, pretrained=folders[kind], num_beams=2, max_new_tokens=6).eval()
    next(iter(network.encoder.parameters())).mul_(1.1)
    network.save_pretrained(str(tmp_path))
    model, tokenizer = theirs(str(tmp_path)), AutoTokenizer.from_pretrained(tmp_path)
    labelled = {**X, "labels": TARGETS}
    mine = network({**X, "target_ids": TARGETS}).logits
    torch.testing.assert_close(model(**labelled).logits, mine, rtol=1e-5, atol=1e-5)
    assert (model.generation_config.num_beams, model.generation_config.max_new_tokens) == (2, 6)
    asked = tokenizer(SENTENCES[:3], padding=True, return_tensors="pt", max_length=64, truncation=True)
    asked = {n: asked[n] for n in ("input_ids", "attention_mask")}
    assert tokenizer.batch_decode(model.generate(**asked), skip_special_tokens=True) == network.generate(asked)
    again = TransformersSeq2Seq(TASK, pretrained=str(tmp_path)).eval()
    assert again.pretrained and not again.fresh
    torch.testing.assert_close(again({**X, "target_ids": TARGETS}).logits, mine, rtol=0, atol=0)


def test_a_model_whose_logits_are_something_else_is_refused(folders: dict[str, str], monkeypatch: Any) -> None:
    from transformers import T5ForConditionalGeneration

    own = T5ForConditionalGeneration.forward

    def capped(self: Any, **inputs: Any) -> Any:
        said = own(self, **inputs)
        said.logits = torch.tanh(said.logits)
        return said

    monkeypatch.setattr(T5ForConditionalGeneration, "forward", capped)
    with refused("network", "T5ForConditionalGeneration"):
        TransformersSeq2Seq(TASK, pretrained=folders["t5"])


# ---- languages ----


def nllb(folder: Path) -> str:
    """A BART with the tokenizer of NLLB, whose target texts begin with the code of their language."""
    from transformers import NllbTokenizer

    words = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = NllbTokenizer(vocab=words, merges=[])
    settings = {"vocab_size": len(tokenizer), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return tiny_folder(folder, "bart", "seq2seq", tokenizer=tokenizer, **settings)


@torch.no_grad()
def test_texts_are_written_with_the_codes_of_their_languages(tmp_path: Path) -> None:
    folder = nllb(tmp_path / "nllb")
    network = TransformersSeq2Seq(
        TASK, pretrained=folder, source_language="deu_Latn", target_language="eng_Latn", max_new_tokens=4
    ).eval()
    number = network.tokenizer.convert_tokens_to_ids
    source, target = network.tokenizer(["ab"])["input_ids"][0], network.tokenizer(text_target=["ab"])["input_ids"][0]
    assert number("deu_Latn") in source and target[0] == number("eng_Latn") and target[-1] == 2
    model = network._whole[0]
    made = network.tokenizer(["ab"], return_tensors="pt")
    seen: list[Tensor] = []
    generate = model.generate
    model.generate = lambda **given: seen.append(generate(**given)) or seen[0]
    network.generate({n: made[n] for n in ("input_ids", "attention_mask")})
    assert seen[0][0, :2].tolist() == [2, number("eng_Latn")], "generation begins otherwise than training"
    del model.generate
    network.save_pretrained(str(tmp_path / "out"))
    assert theirs(str(tmp_path / "out")).generation_config.forced_bos_token_id == number("eng_Latn")
    with refused("network.source_language"):
        TransformersSeq2Seq(TASK, pretrained=folder)
    with refused("network.target_language", "eng_Latin"):
        TransformersSeq2Seq(TASK, pretrained=folder, source_language="deu_Latn", target_language="eng_Latin")


# ---- a tokenizer that is learned ----

SMALL = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
HOSTILE = ["Ein  Mann läuft.", "a\u2028b\u0085c\x0cd", "😀 e\u0301 中文", "tab\there", "  ", "</s> <pad>"]


def small(**arguments: Any) -> TransformersSeq2Seq:
    given: dict[str, Any] = {"config": SMALL, "tokenizer": "train", "vocabulary_size": 300, **arguments}
    return TransformersSeq2Seq(TASK, **given).eval()


def test_a_learned_tokenizer_writes_any_text_and_reads_it_back() -> None:
    tokenizer = LearnedTokenizer(300)
    with refused("network.tokenizer"):
        tokenizer(["a"])
    tokenizer.fit([*SENTENCES, *HOSTILE])
    ids = tokenizer(HOSTILE)["input_ids"]
    assert all(row[-1] == tokenizer.eos_token_id for row in ids)
    assert [t.strip() for t in tokenizer.batch_decode(ids, skip_special_tokens=True)[:4]] == HOSTILE[:4]
    assert max(max(row) for row in ids) < 300


@pytest.mark.slow
def test_each_process_learns_the_same_pieces() -> None:
    command = (
        "from sft_lightning.networks.learned_tokenizer import LearnedTokenizer as L; from tests.networks.tiny import SENTENCES;"
        "t = L(320); t.fit(SENTENCES * 3); print(t.state)"
    )
    said = {subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout}
    tokenizer = LearnedTokenizer(320)
    tokenizer.fit(SENTENCES * 3)
    assert said == {f"{tokenizer.state}\n"}


@pytest.mark.parametrize("kind", ["t5", "marian", "bart"])
@torch.no_grad()
def test_a_network_from_scratch_keeps_its_tokenizer_in_checkpoints_and_exports(tmp_path: Path, kind: str) -> None:
    halves = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    halves |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    config = SMALL if kind == "t5" else {"model_type": kind, **halves}
    network, other = small(config=config, max_new_tokens=5), small(config=config, max_new_tokens=5)
    network.tokenizer.fit(SENTENCES)
    other.load_state_dict(network.state_dict())
    assert other.tokenizer(HOSTILE)["input_ids"] == network.tokenizer(HOSTILE)["input_ids"]
    made = network.tokenizer(SENTENCES[:2], padding=True, return_tensors="pt", max_length=64, truncation=True)
    asked = {n: made[n] for n in ("input_ids", "attention_mask")}
    said = network.generate(asked)
    network.save_pretrained(str(tmp_path))
    tuned = TransformersSeq2Seq(TASK, pretrained=str(tmp_path), max_new_tokens=5).eval()
    assert tuned.generate(asked) == said == other.generate(asked)
    assert tuned.tokenizer(HOSTILE)["input_ids"] == network.tokenizer(HOSTILE)["input_ids"]


def test_mistakes_are_one_line(folders: dict[str, str]) -> None:
    def check(key: str, *values: object, **arguments: Any) -> None:
        with refused(key, *values) as error:
            TransformersSeq2Seq(TASK, **arguments)
        assert "\n" not in str(error.value)

    check("network.tokenizer", "train", pretrained=folders["t5"], tokenizer="train", vocabulary_size=300)
    check("network.config", "train", tokenizer="train", vocabulary_size=300)
    check("network.vocabulary_size", 258, 100, config=SMALL, tokenizer="train", vocabulary_size=100)
    check("network.vocabulary_size", "tokenizer: train", pretrained=folders["t5"], vocabulary_size=300)
    both = {**SMALL, "vocab_size": 400}
    check("network.config.vocab_size", config=both, tokenizer="train", vocabulary_size=300)
    check("network.source_language", "T5Tokenizer", pretrained=folders["t5"], source_language="de")
    check("network.num_beams", 0, pretrained=folders["t5"], num_beams=0)
    with refused("network", "TransformersSeq2Seq", "seq2seq", "causal_lm"):
        TransformersSeq2Seq(TaskInfo("causal_lm", 0), pretrained=folders["t5"])
