"""LSTM: its words travel with it, padding changes nothing, and it can be the source of a later tuning."""

from pathlib import Path

import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import TextTable
from sft_lightning.modules import DistillSFT, PlainSFT
from sft_lightning.networks import LSTM, spec
from sft_lightning.networks.lstm import WordTokenizer
from tests.data.text_files import texts, write_jsonl
from tests.refused import refused
from tests.support import fit, quiet_trainer

SMALL = {"embedding_dim": 8, "hidden": 8, "vocabulary_size": 60, "min_count": 1}
TASK = TaskInfo("classification", 2, ["no", "yes"])


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "train.jsonl", [{"text": t, "label": i % 2} for i, t in enumerate(texts(40))])


def test_words() -> None:
    tokenizer = WordTokenizer(6, 2)
    tokenizer.fit(["b a! A c", "a B b d"])
    assert tokenizer.words == {"a": 3, "b": 4}
    assert tokenizer(["A, b"])["input_ids"] == [[3, 1, 4]]
    assert tokenizer(["a"], ["b"])["input_ids"] == [[3, 2, 4]]
    assert tokenizer([" "])["input_ids"] == [[1]]
    assert tokenizer(["a a a"], truncation=True, max_length=2)["input_ids"] == [[3, 3]]


@pytest.mark.parametrize("bidirectional", [True, False])
@torch.no_grad()
def test_padding_changes_nothing(bidirectional: bool) -> None:
    network = LSTM(TASK, **SMALL, layers=2, bidirectional=bidirectional).eval()
    ids = torch.randint(3, 60, (3, 7))
    mask = torch.ones_like(ids)
    for row, length in enumerate((7, 4, 1)):
        mask[row, length:] = 0
    ids = ids * mask
    together = network({"input_ids": ids, "attention_mask": mask}).logits
    for row, length in enumerate((7, 4, 1)):
        one = {"input_ids": ids[row : row + 1, :length], "attention_mask": mask[row : row + 1, :length]}
        torch.testing.assert_close(network(one).logits[0], together[row])


def test_source_of_a_later_tuning(file: str, tmp_path: Path) -> None:
    first = PlainSFT(spec(LSTM, **SMALL), lr=1e-2)
    fit(first, TextTable(train=file, batch_size=8), max_epochs=2)
    assert first.network is not None
    folder = str(tmp_path / "export")
    first.network.save_pretrained(folder)
    second = DistillSFT(spec(LSTM, **SMALL, pretrained=folder))
    fit(second, TextTable(train=file, batch_size=8), max_epochs=1)
    assert isinstance(second.network, LSTM)
    assert isinstance(first.network, LSTM)
    assert second.network.tokenizer.words == first.network.tokenizer.words
    assert second.network.source_labels == ["0", "1"]
    assert second.network.report.missing == second.network.report.unexpected == []
    assert second.teacher is not None
    x = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    with torch.no_grad():
        torch.testing.assert_close(second.teacher(x).source_logits, first.network.eval()(x).logits)


def test_a_checkpoint_brings_the_words(file: str, tmp_path: Path) -> None:
    module = PlainSFT(spec(LSTM, **SMALL), lr=1e-2)
    data = TextTable(train=file, batch_size=8)
    trainer = fit(module, data, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    rows = [{"text": t} for t in texts(5)]
    predict = TextTable(predict=write_jsonl(tmp_path / "new.jsonl", rows))  # no training data
    restored = PlainSFT(spec(LSTM, **SMALL), task=module.hparams["task"])
    found = quiet_trainer().predict(restored, predict, ckpt_path=str(tmp_path / "last.ckpt"), weights_only=True)
    assert found is not None
    assert isinstance(restored.network, LSTM)
    assert isinstance(module.network, LSTM)
    assert restored.network.tokenizer.words == module.network.tokenizer.words
    expected = quiet_trainer().predict(module, predict)
    assert [r for batch in found for r in batch] == [r for batch in expected or [] for r in batch]
    # Other training data, another vocabulary: the checkpoint's words count.
    other = write_jsonl(tmp_path / "other.jsonl", [{"text": f"w{i} {i}", "label": i % 2} for i in range(40)])
    test = TextTable(train=other, test=file)
    restored = PlainSFT(spec(LSTM, **SMALL))
    ours = quiet_trainer().test(restored, test, ckpt_path=str(tmp_path / "last.ckpt"), verbose=False)
    theirs = quiet_trainer().test(module, TextTable(train=file, test=file), verbose=False)
    assert ours[0]["test/loss"] == pytest.approx(theirs[0]["test/loss"])


def test_mistakes_are_one_line(file: str, tmp_path: Path) -> None:
    for arguments, key, values in (
        ({"hidden": 0}, "network.hidden", ("1", "0")),
        ({"vocabulary_size": 2}, "network.vocabulary_size", ("4", "2")),
        ({"dropout": 2.0}, "network.dropout", ("[0, 1)", "2.0")),
        ({"pretrained": "bert-base-uncased"}, "network.pretrained", ("bert-base-uncased", "LSTM")),
    ):
        with refused(key, *values) as error:
            LSTM(TASK, **arguments)
        assert "\n" not in str(error.value)
    with refused("network.min_count", 1000):
        fit(PlainSFT(spec(LSTM, min_count=1000)), TextTable(train=file), max_epochs=1)
    predict = TextTable(predict=write_jsonl(tmp_path / "new.jsonl", [{"text": "a"}]))
    with refused("network", "LSTM", "checkpoint"):
        quiet_trainer().predict(PlainSFT(spec(LSTM), task=TASK.to_dict()), predict)
