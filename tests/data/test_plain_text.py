"""Plain text: every token predicted once, exact bits per byte, documents in one split, and files that are refused."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.core.structures import TaskInfo
from sft_lightning.data import Instructions, PlainText
from sft_lightning.data.text.documents import Blocks, Documents, bytes_of, start_and_end
from sft_lightning.data.text.files import Table
from sft_lightning.modules import PlainSFT
from sft_lightning.networks import TransformersLM, spec
from sft_lightning.tasks import make_task
from tests.cover import covering
from tests.data.text_files import write_jsonl, write_parquet, write_text
from tests.exactness.tokenizers import FAMILIES, tokenizer
from tests.networks.tiny import byte_bpe, tiny_folder
from tests.refused import refused
from tests.support import quiet_trainer, settle

HOSTILE = [
    "The quick brown fox jumps over the lazy dog. " * 4,
    "x",
    "  two  spaces,\ttabs\nand lines \n",
    "Ünïcödé ﬁ ﬀ ½ 𝟙 é é 東京 🤷🏽‍♀️ " * 3,
    "\u200b\u200b",
    "end</s>of it",
    "What is the capital of France? Paris is the capital of France.",
]


def blocks(family: str, side: str, most: int, overlap: int, end: bool = True) -> Blocks:
    documents = Documents(Table("pages", {"text": HOSTILE}), "text", "data.text_column", end)
    documents.use(tokenizer(family, side, False), most)
    made = Blocks(documents, overlap)
    made.use(documents.tokenizer, most)
    made.ready()
    return made


# ---- tokens ----


@covering("family side most overlap", list(FAMILIES), ("right", "left"), (8, 13, 64), (1, 3, 7))
def test_every_token_is_predicted_once_from_the_tokens_before_it(
    family: str, side: str, most: int, overlap: int
) -> None:
    made = blocks(family, side, most, overlap)
    order = np.random.default_rng(0).permutation(len(made)).tolist()
    found: dict[int, list[tuple[int, int]]] = {}
    for start in range(0, len(order), 3):
        rows = order[start : start + 3]
        x = made.fetch(rows, [], False)
        answers = iter(x["y"].tolist())
        for row, ids, mask, select in zip(rows, x["input_ids"], x["attention_mask"].bool(), x["select"], strict=True):
            assert int(mask.sum()) <= most and not bool(select[~mask].any()), "padding is asked for a token"
            first = int(mask.int().argmax())
            whole = made.documents.ids[int(made.document[row])].tolist()
            for at in select.nonzero().ravel().tolist():
                place = int(made.begin[row]) + at - first + 1
                assert ids[first : at + 1].tolist() == whole[int(made.begin[row]) : place], (
                    "the context is another text"
                )
                seen = at - first + 1
                assert seen >= (1 if made.begin[row] == 0 else overlap), "a token sees less than the overlap"
                found.setdefault(int(made.document[row]), []).append((place, next(answers)))
    before, after = start_and_end(made.tokenizer)
    for number, text in enumerate(HOSTILE):
        own = made.tokenizer(text, add_special_tokens=False)["input_ids"]
        expected = [*([] if before is None else [before]), *own, *([] if after is None else [after])]
        said = sorted(found.get(number, []))
        assert [place for place, _ in said] == list(range(1, len(expected))), "a token is lost, or predicted twice"
        assert [token for _, token in said] == expected[1:]


@covering("family most end", list(FAMILIES), (8, 64), (True, False))
def test_the_bytes_of_blocks_are_the_bytes_of_their_documents(family: str, most: int, end: bool) -> None:
    made = blocks(family, "right", most, 2, end)
    of_document = np.bincount(made.document, made.bytes, len(HOSTILE)).astype(int).tolist()
    for text, size, ids in zip(HOSTILE, of_document, (made.documents.ids[i] for i in range(len(HOSTILE))), strict=True):
        assert size == (len(text.encode()) if len(ids) > 1 else 0), f"{text!r} has other bytes"


def test_a_tokenizer_without_bos_and_eos_leaves_the_first_token_of_each_document_unpredicted() -> None:
    documents = Documents(Table("pages", {"text": ["one two", "three four"]}), "text", "data.text_column", True)
    words = byte_bpe()
    words.bos_token = words.eos_token = None
    documents.use(words, 64)
    made = Blocks(documents, 1)
    made.use(words, 64)
    made.ready()
    first = [words.decode([int(documents.ids[row][0])]) for row in range(2)]
    assert made.bytes.tolist() == [7 - len(first[0]), 10 - len(first[1])]


def test_tokens_without_offsets_share_the_bytes_of_a_text() -> None:
    assert bytes_of("äbc", 3, None).tolist() == [1, 1, 2]
    assert bytes_of("", 0, []).tolist() == []


# ---- bits per byte ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_folder(tmp_path_factory.mktemp("model"), "llama", "lm", tokenizer=byte_bpe(bos=True))


@pytest.mark.parametrize(("batch", "order", "most"), [(1, 1, 16), (2, -1, 16), (64, 1, 9), (5, -1, 64)])
def test_bits_per_byte_are_the_nats_of_all_tokens_over_the_bytes_of_the_texts(
    tmp_path: Path, folder: str, batch: int, order: int, most: int
) -> None:
    """Whatever the batches and the order of documents; other blocks give other context, and so other nats."""
    file = write_jsonl(tmp_path / "pages.jsonl", [{"text": t} for t in HOSTILE[::order]])
    data = PlainText(train=file, val=file, max_length=most, eval_batch_size=batch, packing=batch == 64)
    module = PlainSFT(spec(TransformersLM, pretrained=folder))
    (values,) = quiet_trainer(precision="64-true").validate(module, data, verbose=False)
    network = module.network.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for text in HOSTILE:
            ids = network.tokenizer(text)["input_ids"] + [network.tokenizer.eos_token_id]
            for start in range(0, len(ids) - 1, most - 1):
                part = torch.tensor([ids[start : start + most]])
                logits = network({"input_ids": part, "attention_mask": torch.ones_like(part)}).logits[0, :-1]
                total -= float(logits.log_softmax(-1).gather(1, part[0, 1:, None]).sum())
                tokens += part.shape[1] - 1
    expected = total / math.log(2) / sum(len(t.encode()) for t in HOSTILE)
    assert values["val/bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    assert values["val/loss"] == pytest.approx(total / tokens, rel=1e-6)
    assert values["val/perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-6)


def test_bits_per_byte_are_refused_for_data_that_does_not_count_bytes(tmp_path: Path, folder: str) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}] * 4)
    data = Instructions(train=file, val=file)
    data.metrics = ["bits_per_byte"]
    with refused("metrics", "bits_per_byte", "PlainText"):
        quiet_trainer().validate(PlainSFT(spec(TransformersLM, pretrained=folder)), data, verbose=False)


# ---- files ----


def texts_of(tmp_path: Path, content: str | bytes, name: str = "pages.txt", **arguments: Any) -> PlainText:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = PlainText(train=str(path), **arguments)
    data.setup()
    return data


def loaded(data: PlainText) -> list[str]:
    return list(data.splits["train"].samples.texts)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("division", "expected"),
    [
        (None, [" one\ntwo", "three", "four"]),
        ("blank_lines", [" one\ntwo", "three", "four"]),
        ("lines", [" one", "two", "three", "four"]),
    ],
)
def test_a_text_file_is_divided_as_asked(tmp_path: Path, division: Any, expected: list[str]) -> None:
    data = texts_of(tmp_path, "\ufeff\n one\r\ntwo\n  \n\n\nthree\n\nfour", documents=division)
    assert loaded(data) == expected
    assert any("CR LF" in note for note in data.notes) and str(len(expected)) in data.notes[0]
    assert data.splits["train"].samples.name(0).endswith("line 2")


def test_carriage_returns_alone_end_lines_and_are_said(tmp_path: Path) -> None:
    data = texts_of(tmp_path, "one\rtwo\r\rthree\r\rfour")
    assert loaded(data) == ["one\ntwo", "three", "four"]
    assert any("5 line ends CR read as LF" in note for note in data.notes), data.notes


def test_a_whole_file_is_one_document_and_needs_other_documents_to_validate_on(tmp_path: Path) -> None:
    with refused("data.val", "pages.txt", "lines"):
        texts_of(tmp_path, "one\n\ntwo\n", documents="file")
    val = write_text(tmp_path / "val.txt", "three")
    data = texts_of(tmp_path, "one\n\ntwo\n", documents="file", val=val)
    assert loaded(data) == ["one\n\ntwo\n"]


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("caf\xe9 x".encode("latin-1"), ("byte 3", "line 1", "WINDOWS-1252")),
        ("one\n\ntwo".encode("utf-16"), ("UTF-16",)),
        ("one\n\ntwo".encode("utf-16-le"), ("line 1", "NUL")),
        (b"one\n\n\x00two", ("line 3", "NUL")),
    ],
)
def test_a_file_in_another_encoding_is_refused(tmp_path: Path, content: bytes, values: tuple[str, ...]) -> None:
    with refused("data", "pages.txt", *values):
        texts_of(tmp_path, content)


def test_empty_files_and_files_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with refused("data.train", "pages.txt"):
        texts_of(tmp_path, " \n\n \r\n")
    with refused("data.train", "page.txt", "pages.txt"):
        PlainText(train=str(tmp_path / "page.txt")).setup()
    (tmp_path / "folder.txt").mkdir()
    with refused("data.train", "folder"):
        PlainText(train=str(tmp_path / "folder.txt")).setup()


@pytest.mark.parametrize(
    "row", ['{"text": ""}', '{"text": null}', '{"text": "a\\ud800"}', '{"text": 3}', '{"other": "a"}']
)
def test_a_row_without_a_text_is_refused_or_left_out_and_counted(tmp_path: Path, row: str) -> None:
    rows = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(9)) + row + "\n"
    with refused("data", "pages.jsonl line 10"):
        texts_of(tmp_path, rows, "pages.jsonl")
    data = texts_of(tmp_path, rows, "pages.jsonl", on_bad_sample="skip")
    assert data.skipped_report()["train"]["count"] == 1
    data = texts_of(tmp_path, b"one\n\ntwo\n\ncaf\xe9\n\nthree", on_bad_sample="skip")
    assert data.skipped_report()["train"]["count"] == 1


def test_a_file_with_another_suffix_is_plain_text_if_its_division_is_given(tmp_path: Path) -> None:
    assert loaded(texts_of(tmp_path, "one\ntwo\nthree", "captions.en", documents="lines")) != []
    with refused("data.train", "captions.en", "data.documents", ".txt"):
        texts_of(tmp_path, "one", "captions.en")


def test_tables_have_their_own_column(tmp_path: Path) -> None:
    data = texts_of(tmp_path, 'body\n"one, two"\nthree\n', "pages.csv", text_column="body", val_fraction=0.5)
    assert loaded(data) == ["one, two", "three"]
    parquet = write_parquet(tmp_path / "pages.parquet", {"text": ["one", "two"]})
    plain = PlainText(train=parquet, val=write_text(tmp_path / "val.txt", "x"))
    plain.setup()
    assert loaded(plain) == ["one", "two"]
    with refused("data", "body", "data.text_column"):
        texts_of(tmp_path, "body\none\ntwo\n", "pages.csv")


@pytest.mark.parametrize(
    ("key", "arguments"),
    [
        ("data", {}),
        ("data", {"train": "a.txt", "path": "b"}),
        ("data.documents", {"train": "a.jsonl", "documents": "lines"}),
        ("data.documents", {"train": "a.txt", "documents": "words"}),
        ("data.text_column", {"train": "a.txt", "text_column": "body"}),
        ("data.overlap", {"train": "a.txt", "overlap": 0}),
    ],
)
def test_options_without_effect_or_sense_are_refused(key: str, arguments: dict[str, Any]) -> None:
    with refused(key):
        PlainText(**arguments)


# ---- splits ----


def test_no_document_is_in_two_splits_and_repeated_ones_are_found(tmp_path: Path, folder: str) -> None:
    long = [f"{number} " + "One two three four five six seven. " * 9 for number in range(12)]
    data = texts_of(tmp_path, "\n\n".join([*long, long[0]]), max_length=16, val_fraction=0.3, test_fraction=0.2)
    network = TransformersLM(TaskInfo("causal_lm", 0), pretrained=folder)
    settle(data, network)
    of = {
        name: {int(split.samples.document[row]) for row in split.rows}  # type: ignore[attr-defined]
        for name, split in data.splits.items()
    }
    assert sum(map(len, of.values())) == len(set.union(*of.values())) == 13
    found = data.found()
    assert found["repeats_within"] or found["repeats_across"]
    said = data.describe()
    assert "16 tokens" in said and "documents" in said
    again = data.fingerprint()
    data.view = None
    settle(data, network)
    assert data.fingerprint() == again, "settling twice cuts blocks of blocks"


def test_a_block_needs_room_beside_its_context(tmp_path: Path, folder: str) -> None:
    data = texts_of(tmp_path, "one\n\ntwo\n\nthree", overlap=8, max_length=8)
    with refused("data.overlap", "8"):
        settle(data, TransformersLM(TaskInfo("causal_lm", 0), pretrained=folder))


def test_the_metrics_of_plain_text_are_known(folder: str) -> None:
    task = make_task(TaskInfo("causal_lm", 4, metrics=list(PlainText.metrics)))
    assert task.primary.name == "perplexity"
    assert task.metric_info("bits_per_byte").unit == "bits"  # type: ignore[union-attr]
