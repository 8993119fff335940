"""A tokenizer without words is found: a folder without its files, a stub, texts it does not know."""

import shutil
from pathlib import Path

import pytest

from sft_lightning.autoconfig.infer_network import infer_network
from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import TextTable
from sft_lightning.networks import TransformersLM, TransformersText
from tests.data.text_files import write_jsonl
from tests.networks.tiny import tiny_folder, wordpiece
from tests.refused import refused
from tests.support import settle

CLASSES = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "gpt2": "GPT2Tokenizer"}
TASK = TaskInfo("classification", 2, ["no", "yes"])


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
@pytest.mark.parametrize("left", [False, True], ids=["no file", "only a configuration"])
def test_a_folder_without_tokenizer_files_is_refused(tmp_path: Path, kind: str, left: bool) -> None:
    net = Path(tiny_folder(tmp_path / kind, kind, "lm" if kind == "gpt2" else "sequence"))
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    for file in [f for pattern in ("tokenizer*", "vocab*", "special*", "added*") for f in net.glob(pattern)]:
        shutil.move(file, tokenizer)
    if left:
        (net / "tokenizer_config.json").write_text(f'{{"tokenizer_class": "{CLASSES[kind]}"}}')
    values = (net, "network.init_args.tokenizer")
    for cls, task in ((TransformersText, TASK), (TransformersLM, TaskInfo("causal_lm", 0, [], []))):
        if cls is TransformersText or kind == "gpt2":
            with refused("network.tokenizer", *values):
                cls(task, pretrained=str(net))
            cls(task, pretrained=str(net), tokenizer=str(tokenizer))
    with refused("--network", *values):
        infer_network(str(net))


def test_texts_that_a_tokenizer_does_not_know_are_said_and_refused_where_that_is_all(tmp_path: Path) -> None:
    tokenizer = wordpiece()
    net = tiny_folder(tmp_path / "net", "bert", "sequence", tokenizer=tokenizer)
    network = TransformersText(TASK, pretrained=net)

    def found(texts: list[str]) -> TextTable:
        rows = [{"text": t, "label": ("no", "yes")[i % 2]} for i, t in enumerate(texts * 10)]
        data = TextTable(train=write_jsonl(tmp_path / "a.jsonl", rows))
        data.setup()
        settle(data, network)
        return data

    with refused("network.tokenizer", "[UNK]", "network.init_args.tokenizer"):
        found(["Привет мир", "добрый день"])
    half = found(["fox мир добрый день", "Привет dog мир"])
    ids = [
        i
        for t in half.splits["train"].samples.texts
        for i in network.tokenizer(t, add_special_tokens=False)["input_ids"]
    ]  # type: ignore[attr-defined]
    share = ids.count(network.tokenizer.unk_token_id) / len(ids)
    assert half.found()["unknown_tokens"] == pytest.approx(share, abs=1e-4)
    assert any(line.startswith(f"warning: {share:.0%} of the texts' tokens are unknown") for line in half.remarks())
    assert "unknown_tokens" not in found(["the quick fox", "a lazy dog"]).found()
