"""Pairs of texts: files, tables and the hub's layout; batches; what is cut, left out or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import TextPairs
from sft_lightning.networks import TransformersSeq2Seq
from tests.data.text_files import write_jsonl, write_parquet, write_text
from tests.networks.tiny import SENTENCES, tiny_folder
from tests.refused import refused

TASK = TaskInfo("seq2seq", 0)
EN = [f"{sentence} {n}" for n, sentence in enumerate(SENTENCES)]
DE = [f"{n}: {sentence.lower()}" for n, sentence in enumerate(SENTENCES)]


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "t5", "t5", "seq2seq")


def lines(folder: Path, name: str, texts: list[str], end: str = "\n", last: bool = True) -> str:
    (folder / name).write_bytes((end.join(texts) + (end if last else "")).encode())
    return str(folder / name)


def loaded(**settings: Any) -> TextPairs:
    data = TextPairs(**{"val_fraction": 0.25, "seed": 0, "batch_size": 4, **settings})
    data.setup()
    return data


def held(data: TextPairs) -> tuple[list[str], list[Any]]:
    samples: Any = data.splits["train"].samples
    return samples.sources, [texts[0] if len(texts) == 1 else list(texts) for texts in samples.references]


def test_every_format_holds_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = list(zip(EN, DE, strict=True))
    both = [{"translation": {"de": de, "en": en}} for en, de in pairs]
    files = [
        {"train": [lines(tmp_path, "a.en", EN), lines(tmp_path, "a.de", DE, last=False)]},
        {"train": [lines(tmp_path, "b.en", EN, "\r\n"), lines(tmp_path, "b.de", DE)]},
        {"train": write_jsonl(tmp_path / "a.jsonl", [{"source": en, "target": de} for en, de in pairs])},
        {"train": write_text(tmp_path / "a.tsv", "\n".join(["source\ttarget", *map("\t".join, pairs)]))},
        {"train": write_jsonl(tmp_path / "b.jsonl", both), "source_column": "en", "target_column": "de"},
        {
            "train": write_parquet(tmp_path / "b.parquet", {"translation": [row["translation"] for row in both]}),
            "source_column": "en",
            "target_column": "de",
        },
    ]
    for given in files:
        assert held(loaded(**given)) == (EN, DE), given
    import datasets

    hub = datasets.DatasetDict({"train": datasets.Dataset.from_list(both)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: hub)
    assert held(loaded(path="own/pairs", source_column="en", target_column="de")) == (EN, DE)
    assert held(loaded(path="own/pairs", source_column="de", target_column="en")) == (DE, EN)


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    """As `wc -l` counts; Python's splitlines would also cut at these."""
    odd = [f"one\u2028two {n}\u0085three\x0cfour\x1cfive\rsix" for n in range(8)]
    data = loaded(train=[lines(tmp_path, "a.en", odd), lines(tmp_path, "a.de", DE)])
    assert held(data) == (odd, DE)
    assert (tmp_path / "a.en").read_bytes().count(b"\n") == 8


def test_a_batch_has_each_target_token_once_with_its_end(t5: str, tmp_path: Path) -> None:
    data = loaded(train=[lines(tmp_path, "a.en", EN), lines(tmp_path, "a.de", DE)], source_prefix="to German: ")
    network = TransformersSeq2Seq(TASK, pretrained=t5)
    network.settle(data.settle(network.wanted_input()))
    total = 0
    for batch in data.train_dataloader():
        x, said = batch["x"], batch["y"].split(batch["select"].sum(1).tolist())
        for row, ids, mask, target in zip(batch["rows"], x["input_ids"], x["attention_mask"], said, strict=True):
            assert (
                ids[mask.bool()].tolist()
                == network.tokenizer(f"to German: {EN[row]}", max_length=64, truncation=True)["input_ids"]
            )
            assert (
                target.tolist() == network.tokenizer(text_target=DE[row], max_length=64, truncation=True)["input_ids"]
            )
            assert target[-1] == network.tokenizer.eos_token_id
        assert torch.equal(x["target_ids"][batch["select"]], batch["y"]) and batch["count"] == len(batch["y"])
        total += batch["count"]
    samples: Any = data.splits["train"].samples
    assert total == samples.target_ids.lengths[data.splits["train"].rows].sum()


def test_an_end_token_that_the_tokenizer_does_not_write_is_added(tmp_path: Path) -> None:
    from tests.networks.tiny import byte_bpe

    folder = tiny_folder(tmp_path / "t5", "t5", "seq2seq", tokenizer=byte_bpe(pad="<pad>"), eos_token_id=2)
    network = TransformersSeq2Seq(TASK, pretrained=folder)
    data = loaded(
        train=[lines(tmp_path, "a.en", EN), lines(tmp_path, "a.de", DE)], max_target_length=5, generate_samples=0
    )
    data.settle(network.wanted_input())
    samples: Any = data.splits["train"].samples
    assert all(samples.target_ids[row][-1] == 2 for row in range(8))
    assert max(samples.target_ids.lengths) == 5


def test_what_is_cut_is_counted_for_both_sides(t5: str, tmp_path: Path) -> None:
    long = ["word " * 40, *EN[1:]]
    data = loaded(
        train=[lines(tmp_path, "a.en", long), lines(tmp_path, "a.de", DE)],
        val=[lines(tmp_path, "v.en", ["a", "b"]), lines(tmp_path, "v.de", ["c", "word " * 40])],
        max_length=60,
        max_target_length=12,
    )
    network = TransformersSeq2Seq(TASK, pretrained=t5)
    data.settle(network.wanted_input())
    samples: Any = data.splits["val"].samples
    assert data.cut_targets["val"] == 0.5 and data.truncated["val"] == 0.0 and data.truncated["train"] > 0
    assert samples.target_ids.lengths.tolist()[1] == 12 and samples.target_ids[1][-1] == network.tokenizer.eos_token_id
    assert "targets truncated to 12 tokens" in data.describe() and "50.0% of val" in data.describe()
    other = TransformersSeq2Seq(TASK, pretrained=t5, max_length=30)
    again = loaded(train=[str(tmp_path / "a.en"), str(tmp_path / "a.de")], max_target_length=40)
    with refused("data.max_target_length", 40, 30):
        again.settle(other.wanted_input())


def test_the_first_of_several_targets_is_learned_and_all_score(t5: str, tmp_path: Path) -> None:
    rows = [
        {"source": en, "target": [de, f"or {de}"] if n % 2 else de}
        for n, (en, de) in enumerate(zip(EN, DE, strict=True))
    ]
    data = loaded(train=write_jsonl(tmp_path / "a.jsonl", rows), val=write_jsonl(tmp_path / "v.jsonl", rows))
    assert any("4 of 8" in note for note in data.notes)
    data.settle(TransformersSeq2Seq(TASK, pretrained=t5).wanted_input())
    batch = next(iter(data.val_dataloader()))
    for row, references in zip(batch["rows"], batch["references"], strict=True):
        assert references == ((DE[row], f"or {DE[row]}") if row % 2 else (DE[row],))
    assert torch.equal(batch["prompt"]["input_ids"], batch["x"]["input_ids"])


def test_source_texts_that_occur_twice_are_found(tmp_path: Path) -> None:
    twice = [EN[0], *EN[:-1]]
    data = loaded(train=[lines(tmp_path, "a.en", twice), lines(tmp_path, "a.de", DE)], val_fraction=0.1)
    assert any("repeat" in remark for remark in data.remarks()), data.remarks()


BAD: dict[str, tuple[dict[str, Any], tuple[object, ...]]] = {
    "empty source": ({"source": "", "target": "a"}, ("line 2", "source")),
    "blank target": ({"source": "a", "target": "  "}, ("line 2", "target")),
    "null": ({"source": "a", "target": None}, ("line 2", "target")),
    "number": ({"source": 3, "target": "a"}, ("line 2", "data.source_column")),
    "no reference": ({"source": "a", "target": []}, ("line 2", "target")),
    "empty reference": ({"source": "a", "target": ["b", ""]}, ("line 2", "target")),
    "half a character": ({"source": "a\ud800", "target": "b"}, ("line 2",)),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_pair_is_named_or_left_out_and_counted(tmp_path: Path, what: str) -> None:
    row, values = BAD[what]
    good = [{"source": en, "target": de} for en, de in zip(EN, DE, strict=True)]
    file = write_jsonl(tmp_path / "a.jsonl", [good[0], row, *good[1:]])
    with refused("data", *values):
        loaded(train=file)
    data = loaded(train=file, on_bad_sample="skip")
    assert data.skipped_report()["train"]["count"] == 1
    assert sum(len(split) for split in data.splits.values()) == 8


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    en, de = lines(tmp_path, "a.en", EN), lines(tmp_path, "a.de", DE)
    with refused("data.train", "8 lines", 7):
        loaded(train=[en, lines(tmp_path, "b.de", DE[:-1])])
    with refused("data.train", "8 lines", 7):
        loaded(train=[en, str(tmp_path / "b.de")], on_bad_sample="skip")
    with refused("data", "line 2", "source"):
        loaded(train=[lines(tmp_path, "c.en", [EN[0], "", *EN[2:]]), de])
    (tmp_path / "latin.de").write_bytes("\n".join([*DE[:7], "für"]).encode("latin-1"))
    with refused("data", "latin.de", "line 8", "0xfc"):
        loaded(train=[en, str(tmp_path / "latin.de")])
    assert loaded(train=[en, str(tmp_path / "latin.de")], on_bad_sample="skip").skipped_report()["train"]["count"] == 1
    (tmp_path / "wide.de").write_bytes("\n".join(DE).encode("utf-16"))
    with refused("data", "UTF-16"):
        loaded(train=[en, str(tmp_path / "wide.de")])
    with refused("data.train", "a.em", "a.en"):
        loaded(train=[str(tmp_path / "a.em"), de])
    with refused("data.train", "a.en", "[SOURCE, TARGET]"):
        loaded(train=en)
    with refused("data.train", 3):
        loaded(train=[en, de, de])
    with refused("data.source_column"):
        loaded(train=[en, de], source_column="en")
    with refused("data", "'source'", "english, german", "data.source_column"):
        loaded(train=write_text(tmp_path / "a.csv", "english,german\na,b\n"))
    with refused("data"):
        loaded()


def test_options_without_effect_are_refused(tmp_path: Path) -> None:
    for key, values, given in (
        ("data.metrics", ("blue", "bleu"), {"metrics": ["blue"]}),
        ("data.metrics", ("rouge1", "data.generate_samples"), {"metrics": ["rouge1"], "generate_samples": 0}),
        ("data.shots_per_class", ("data.train_fraction",), {"shots_per_class": 4}),
        ("data.max_target_length", (0,), {"max_target_length": 0}),
        ("data.target_column", ("source",), {"target_column": "source"}),
    ):
        with refused(key, *values):
            TextPairs(train=["a", "b"], **given)
    with refused("data.generate_samples"):
        TextPairs(predict="a.txt", generate_samples=0).setup("predict")
    assert TextPairs(metrics=["rougeL"]).metrics == ("perplexity", "token_accuracy", "rougeL")


def test_a_run_translates_every_line_of_a_file_in_order(t5: str, tmp_path: Path) -> None:
    from lightning import Trainer

    import sft_lightning
    from sft_lightning.callbacks import WritePredictions
    from sft_lightning.modules import PlainSFT
    from sft_lightning.networks.spec import spec

    files = {"train": [lines(tmp_path, "a.en", EN * 5), lines(tmp_path, "a.de", DE * 5)]}
    files |= {"val": files["train"], "test": [lines(tmp_path, "t.en", EN), lines(tmp_path, "t.de", DE)]}
    data = TextPairs(**files, generate_samples=11, metrics=["bleu", "rougeL"], batch_size=10, seed=0)
    source = TextPairs(**files, generate_samples=5, batch_size=10, seed=0)
    module = PlainSFT(spec(TransformersSeq2Seq, pretrained=t5, max_new_tokens=4, num_beams=2), lr=1e-3)
    with sft_lightning.run("pairs", retention=source, runs_dir=str(tmp_path / "runs")) as run:
        trainer = Trainer(**run.trainer_kwargs(max_epochs=1, accelerator="cpu"))
        trainer.fit(module, data)
        trainer.test(module, data)
    record = json.loads((run.path / "run.json").read_text())
    assert record["n"]["generated"] == 11 and record["n"]["test/generated"] == 8
    assert {"before", "final"} <= record["metrics"]["val/bleu"].keys()
    assert {"test/bleu", "test/rougeL", "test/perplexity"} <= record["test"].keys()
    assert {"retention/bleu", "retention/perplexity", "retention/forgetting"} <= record["metrics"].keys()
    asked = TextPairs(predict=lines(tmp_path, "p.txt", [*EN, *EN[:2]]), batch_size=3, seed=0)
    path = tmp_path / "predictions.jsonl"
    Trainer(callbacks=[WritePredictions(path)], logger=False, accelerator="cpu", enable_progress_bar=False).predict(
        module, asked, return_predictions=False
    )
    written = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["index"] for row in written] == list(range(10)) and written[0].keys() == {"index", "text"}
    assert [row["text"] for row in written[:2]] == [row["text"] for row in written[8:]]


def test_source_texts_that_are_all_numbers_are_refused_and_such_targets_are_said(tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.tsv", "id\ten\tde\n" + "".join(f"{n}\t{en}\t{n}\n" for n, en in enumerate(EN)))
    with refused("data", "'id'", "numbers", "data.source_column"):
        loaded(train=file, source_column="id", target_column="de")
    data = loaded(train=file, source_column="en", target_column="de")
    assert any("'de'" in note and "numbers" in note for note in data.notes), data.notes
    one = lines(tmp_path, "n.en", [str(n) for n in range(12)])
    assert len(loaded(train=[one, lines(tmp_path, "n.de", DE[:1] * 12)]).splits["train"]), (
        "lines of files are what they are"
    )


def test_a_table_without_a_header_has_its_first_line_as_a_pair_if_told_so(tmp_path: Path) -> None:
    import pandas

    file = write_text(tmp_path / "a.tsv", "\n".join(map("\t".join, zip(EN, DE, strict=True))))
    data = loaded(train=file, header=False)
    second = pandas.read_csv(file, sep="\t", header=None, quoting=3)
    assert held(data) == (EN, DE) == (list(second[0]), list(second[1]))
    assert data.splits["train"].samples.name(0) == f"{file} line 1"
    assert any("line 1 is read as a pair" in note for note in data.notes), data.notes
    turned = loaded(train=file, header=False, source_column="target", target_column="source")
    assert held(turned) == (DE, EN)
    quoted = [f'"{en}, or so";"{de}";"from ""the"" web"' for en, de in zip(EN, DE, strict=True)]
    wide = loaded(train=write_text(tmp_path / "b.csv", "\n".join(quoted)), header=False)
    assert held(wide) == ([f"{en}, or so" for en in EN], DE)
    assert wide.splits["train"].samples.table.columns["3"][0] == 'from "the" web'
    with refused("data", "reads like a pair", "data.header false"):
        loaded(train=write_text(tmp_path / "c.tsv", "Anna sees Rome.\tAnna sieht Rom.\nGo.\tGeh.\n"))
    for more in ("", "Hi\tGrüß Gott\n"):
        with refused("data", "no column 'source'", "data.header false"):
            loaded(train=write_text(tmp_path / "e.tsv", f"Hi\tHallo\nRun\tLauf\n{more}"))
    with refused("data", "line 2", "1 field where the first row has 2"):
        loaded(train=write_text(tmp_path / "d.tsv", "Go.\tGeh.\nStay.\n"), header=False)
    for given in ({"train": write_jsonl(tmp_path / "a.jsonl", [{"source": "a", "target": "b"}])}, {"path": "a/b"}):
        with refused("data.header", "no effect"):
            loaded(header=False, **given)
    with refused("data.header", "no effect"):
        loaded(train=[lines(tmp_path, "a.en", EN), lines(tmp_path, "a.de", DE)], header=False)
