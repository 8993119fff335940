"""Loss on a general text as retention, while a language model is tuned on instructions: by hand, with and without LoRA."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.callbacks import RetentionMonitor
from sft_lightning.core.metric_info import MetricInfo
from sft_lightning.data import PlainText
from sft_lightning.data.base import SFTDataModule
from sft_lightning.evaluation.known_metrics import for_record, info_of
from sft_lightning.modules import DistillSFT, PlainSFT
from sft_lightning.networks import TransformersLM, spec
from tests.data.text_files import write_text
from tests.exactness.cases import FewAnswers, FewTags, few_texts
from tests.networks.tiny import byte_bpe, tiny_folder
from tests.refused import refused
from tests.support import fit, quiet_trainer

LORA = {"class_path": "LoRA", "init_args": {"r": 2, "alpha": 8.0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_folder(tmp_path_factory.mktemp("model"), "llama", "lm", tokenizer=byte_bpe(bos=True))


@pytest.fixture
def general(tmp_path: Path) -> PlainText:
    """40 documents, of which 10 validate and 8 test, in blocks of at most 16 tokens."""
    file = write_text(tmp_path / "general.txt", "\n\n".join(few_texts(40, 5)))
    return PlainText(train=file, max_length=16, eval_batch_size=3, val_fraction=0.25, test_fraction=0.2)


@torch.no_grad()
def by_hand(network: Any, data: PlainText, split: str) -> dict[str, float]:
    """One block at a time."""
    network.eval()
    nats, tokens, size, right = 0.0, 0, 0, 0
    part = data.splits[split]
    for position in range(len(part)):
        batch = part[position]
        logits = network(batch["x"], batch["select"]).logits.double()
        nats -= float(logits.log_softmax(-1).gather(1, batch["y"][:, None]).sum())
        right += int((logits.argmax(-1) == batch["y"]).sum())
        tokens, size = tokens + batch["count"], size + int(batch["bytes"])
    texts = part.samples.documents.texts  # type: ignore[attr-defined]
    assert size == sum(len(texts[d].encode()) for d in {int(part.samples.document[row]) for row in part.rows})  # type: ignore[attr-defined]
    loss = nats / tokens
    return {
        "retention/loss": loss,
        "retention/perplexity": math.exp(loss),
        "retention/bits_per_byte": nats / math.log(2) / size,
        "retention/token_accuracy": right / tokens,
    }


@pytest.mark.parametrize("transforms", [None, [LORA]])
@pytest.mark.parametrize("split", ["val", "test"])
def test_retention_on_a_general_text_is_that_of_the_tuned_network(
    folder: str, general: PlainText, transforms: Any, split: str
) -> None:
    module = PlainSFT(spec(TransformersLM, pretrained=folder, transforms=transforms), lr=2e-2)
    monitor, data = RetentionMonitor(general), FewAnswers(packing=True)
    trainer = fit(module, data, max_epochs=2, callbacks=[monitor])
    found = {k: float(v) for k, v in trainer.callback_metrics.items()}
    if split == "test":
        (found,) = quiet_trainer(callbacks=[monitor]).test(module, data, verbose=False)
        found = {k.replace("n/test/", "n/"): v for k, v in found.items()}
    assert module.teacher is not None
    expected, before = (by_hand(n, general, split) for n in (module.network, module.teacher.network))
    expected["retention/forgetting"] = expected["retention/perplexity"] - before["retention/perplexity"]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), f"{name}: {found[name]}, by hand {value}"
    assert abs(expected["retention/loss"] - before["retention/loss"]) > 0.01, "the network has not changed"
    assert found["n/retention"] == len(general.splits[split]) > (10 if split == "val" else 8)
    if split == "val":
        for name, value in before.items():
            assert monitor.before[name] == pytest.approx(value, rel=1e-5), f"{name} before training"
        assert monitor.before["retention/forgetting"] == 0.0


def test_a_record_knows_the_facts_of_these_metrics(folder: str, general: PlainText) -> None:
    monitor = RetentionMonitor(general)
    fit(PlainSFT(spec(TransformersLM, pretrained=folder)), FewAnswers(), max_steps=1, callbacks=[monitor])
    assert monitor.source_task is not None
    task = monitor.source_task.info
    assert info_of("retention/bits_per_byte", None, task) == MetricInfo("retention/bits_per_byte", "min", "bits")
    record = for_record({"metrics": {"val/perplexity": 1.0, "retention/perplexity": 1.0}}, task, task)
    assert record["primary"] == {"target": "val/perplexity", "source": "retention/perplexity"}


def test_distillation_and_retention_share_nothing_but_the_network(folder: str, general: PlainText) -> None:
    """The anchor is on the instructions; the general text is only measured."""
    settings: dict[str, Any] = {"lr": 1e-2, "on": "logits", "distance": "kl"}
    losses = {}
    for strength in (0.0, 20.0):
        module = DistillSFT(spec(TransformersLM, pretrained=folder), anchor_weight=strength, **settings)
        trainer = fit(module, FewAnswers(), max_epochs=3, callbacks=[RetentionMonitor(general)])
        losses[strength] = abs(float(trainer.callback_metrics["retention/forgetting"]))
    assert losses[20.0] < losses[0.0], "the anchor keeps nothing of the general text"


@pytest.mark.parametrize(
    ("data", "network", "values"),
    [
        (FewTags, {}, ("causal_lm", "token_classification", "PlainText")),
        (None, {"pretrained": None}, ("random", "pretrained")),
    ],
)
def test_data_of_another_task_and_random_networks_are_refused(
    folder: str, general: PlainText, data: Any, network: dict[str, Any], values: tuple[str, ...]
) -> None:
    source: SFTDataModule = general if data is None else data()
    arguments: dict[str, Any] = {"pretrained": folder, "config": folder, "tokenizer": folder, **network}
    module = PlainSFT(spec(TransformersLM, **arguments))
    with refused("retention", *values):
        fit(module, FewAnswers(), max_steps=1, callbacks=[RetentionMonitor(source)])
