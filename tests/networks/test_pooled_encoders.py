"""Models that encode and decode: their encoder alone where texts are pooled, and their own pooling with a written end token."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import TextTable
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import TransformersText, spec
from tests.data.text_files import write_jsonl
from tests.networks.test_transformers_text import inputs
from tests.networks.tiny import SENTENCES, unigram
from tests.support import fit

TASK = TaskInfo("classification", 2, ["no", "yes"])
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {"t5": T5, "mt5": T5, "umt5": T5, "bart": BART, "mbart": BART}


def ended() -> Any:
    """A tokenizer that writes </s> after each text."""
    from tokenizers import processors

    made = unigram()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    return made


def folder(root: Path, kind: str, auto: str) -> str:
    import transformers as hf

    tokenizer = ended()
    config = hf.AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=2, num_labels=3, **CONFIGS[kind]
    )
    torch.manual_seed(0)
    cls = getattr(hf, auto)
    model = cls.from_config(config) if auto.startswith("Auto") else cls(config)
    model.save_pretrained(root)
    tokenizer.save_pretrained(root)
    return str(root)


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5", "bart", "mbart"])
@torch.no_grad()
def test_pooling_takes_the_encoder_alone(tmp_path: Path, kind: str) -> None:
    import transformers as hf

    pretrained = folder(tmp_path / "net", kind, "AutoModel")
    x: dict[str, Tensor] = {}
    for pooling in ("mean", "cls", "last"):
        network = TransformersText(TASK, pretrained=pretrained, pooling=pooling).eval()  # type: ignore[arg-type]
        x = x or inputs(network, SENTENCES[:4])
        encoder = hf.AutoModel.from_pretrained(pretrained).eval().get_encoder()
        hidden = encoder(input_ids=x["input_ids"], attention_mask=x["attention_mask"]).last_hidden_state
        rows = [h[m.bool()] for h, m in zip(hidden, x["attention_mask"], strict=True)]
        by_hand = {
            "mean": lambda r: r.mean(0),
            "cls": lambda r: r[0],
            "last": lambda r: r[-1],
        }
        torch.testing.assert_close(network(x).features, torch.stack([by_hand[pooling](r) for r in rows]))
        assert not any("decoder" in name for name, _ in network.named_parameters()), "the unused decoder is kept"
        assert not network.fresh
    network.save_pretrained(str(tmp_path / "out"))
    again = TransformersText(TASK, pretrained=str(tmp_path / "out")).eval()
    torch.testing.assert_close(again(x).features, network(x).features)
    assert again.source_head is not None
    torch.testing.assert_close(again.source_head(again(x).features), network(x).logits)
    genuine = hf.AutoModel.from_pretrained(tmp_path / "out").eval().get_encoder()
    state = genuine.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in network.encoder.encoder.state_dict().items())


def test_an_encoder_saved_alone_is_loaded(tmp_path: Path) -> None:
    pretrained = folder(tmp_path, "t5", "T5EncoderModel")
    network = TransformersText(TASK, pretrained=pretrained, pooling="mean")
    assert not network.fresh and not network.report.missing


@pytest.mark.parametrize("kind", ["t5", "bart", "mbart"])
@torch.no_grad()
def test_a_written_end_token_is_no_error_and_the_last_one_pools(tmp_path: Path, kind: str) -> None:
    import transformers as hf

    pretrained = folder(tmp_path / "net", kind, "AutoModelForSequenceClassification")
    network = TransformersText(TASK, pretrained=pretrained).eval()
    assert network.source_head is not None
    original = hf.AutoModelForSequenceClassification.from_pretrained(pretrained).eval()
    x = inputs(network, SENTENCES[:4])
    torch.testing.assert_close(network(x).source_logits, original(**x).logits)
    written = ["One two</s> three.", *SENTENCES[:2]]
    x = inputs(network, written)
    alone = [original(**inputs(network, [text])).logits for text in written]  # transformers takes them one by one
    torch.testing.assert_close(network(x).source_logits, torch.cat(alone), rtol=1e-4, atol=1e-5)
    with torch.enable_grad():
        rows = [{"text": written[i % 3], "label": ("no", "yes")[i % 2]} for i in range(24)]
        data = TextTable(train=write_jsonl(tmp_path / "a.jsonl", rows), batch_size=8)
        fit(PlainSFT(spec(TransformersText, pretrained=pretrained)), data, max_epochs=1)
