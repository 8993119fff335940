"""Tagged words in every format: what is read and refused, schemes, shots of types, and gold that comes back as it went in."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sft_lightning.core.structures import Output, TaskInfo
from sft_lightning.data import CoNLL, CoNLLU, SFTDataModule, TaggedTable
from sft_lightning.data.text.cell_lists import as_lists, list_of
from sft_lightning.data.text.sentences import Sentences
from sft_lightning.data.text.tagged import scheme_notes
from sft_lightning.data.text.tagged_rows import TaggedRows
from sft_lightning.networks.transformers_tokens import by_word
from sft_lightning.tasks import make_task
from tests.data.test_conll import FAMILIES, MANY, write
from tests.data.text_files import write_jsonl, write_text
from tests.refused import refused


def ready(data: SFTDataModule, stage: str = "fit") -> SFTDataModule:
    data.setup(stage)
    return data


# ---- schemes ----

IOB1 = "\n\n".join(f"w{i}\tI-x\nv{i}\tB-x\nu{i}\tO" for i in range(30))
IOBES = "\n\n".join(f"w{i}\tB-x\nv{i}\tE-x\nu{i}\tS-y" for i in range(30))


@pytest.mark.parametrize(("text", "scheme"), [(MANY, "IOB2"), (IOB1, "IOB1"), (IOBES, "IOBES")])
def test_the_scheme_is_recognised_and_said(tmp_path: Path, text: str, scheme: str) -> None:
    data = ready(CoNLL(train=write(tmp_path, text), seed=0))
    assert data.task_info is not None and make_task(data.task_info).primary.name == "entity_f1"
    assert f"of entities in {scheme}" in data.describe()
    assert data.task_info.scheme == ("IOB1" if scheme == "IOB1" else ""), "labels tell the others"
    assert any("IOB1" in note for note in data.notes) == (scheme == "IOB1")


def test_a_scheme_that_is_set_counts_and_one_that_the_tags_lack_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path, IOB1)
    data = ready(CoNLL(train=file, scheme="IOB2", seed=0))
    assert any("the tag I-x has no tag of its type before it" in note for note in data.notes), data.notes
    with refused("data.scheme", "IOBES"):
        ready(CoNLL(train=file, scheme="IOBES"))
    with refused("data.scheme", "IOB2", "NOUN"):
        ready(CoNLL(train=write(tmp_path, "a\tNOUN\nb\tX"), scheme="IOB2"))


def test_an_unknown_scheme_is_said_and_words_are_measured(tmp_path: Path) -> None:
    data = ready(CoNLL(train=write(tmp_path, MANY.replace("B-x", "E-x")), seed=0))
    assert data.task_info is not None and make_task(data.task_info).primary.name == "token_accuracy"
    assert any("entities are not measured" in note for note in data.notes), data.notes
    assert (
        "B-PER" in scheme_notes(["O", "B_PER", "I_PER"], "")[0] and "'PER-B'" in scheme_notes(["PER-B", "LOC-I"], "")[0]
    )
    assert scheme_notes(["O", "B", "I"], "") and scheme_notes(["o", "b-per"], ""), "no type, and no capital letters"
    assert "'1' are numbers, taken as names" in scheme_notes(["0", "1"], "")[0]
    assert scheme_notes(["O", "b-per"], "") and not scheme_notes(["O", "PER", "LOC"], "") + scheme_notes(
        ["NN", "VB"], ""
    )


@pytest.mark.parametrize("tag", ["O", "NN", "B-x"])
def test_words_that_all_have_one_tag_are_refused(tmp_path: Path, tag: str) -> None:
    """The network had one output, for which a metric raised an error of its own; the front door planned a study of it."""
    file = write(tmp_path, "\n\n".join(f"w{i}\t{tag}" for i in range(30)))
    with refused("data", file, f"1 tag ({tag})", "2"):
        ready(CoNLL(train=file, seed=0))
    with refused("data", "1 tag (O)"):
        ready(CoNLL(train=write(tmp_path, MANY), types=[], seed=0))


# ---- CoNLL-U ----


def conllu(word: str, upos: str, number: str = "1", misc: str = "_") -> str:
    return "\t".join([number, word, word, upos, f"x{upos}", "Number=Sing", "0", "root", "_", misc])


def sentence(at: int) -> str:
    lines = [
        "# text = vámonos ya",
        conllu("vámonos", "_", "1-2"),
        conllu(f"vamos{at}", "VERB", misc="NER=B-x|SpaceAfter=No"),
    ]
    return "\n".join([*lines, conllu("nos", "PRON", "2"), conllu("ya", "ADV", "2.1"), conllu("ya", "ADV", "3"), ""])


def test_conllu_has_parts_of_speech_and_leaves_ranges_and_empty_nodes_out(tmp_path: Path) -> None:
    file = write(tmp_path, "\n".join(map(sentence, range(20))), "train.conllu")
    data = ready(CoNLLU(train=file, seed=0))
    assert data.task_info is not None and data.task_info.labels == ["ADV", "PRON", "VERB"]
    assert len(data.splits["train"]) + len(data.splits["val"]) == 20
    for what in ("range", "empty node"):
        assert any(what in note and "20 times" in note for note in data.notes), data.notes


@pytest.mark.parametrize(
    ("tags", "labels"),
    [
        ("xpos", ["xADV", "xPRON", "xVERB"]),
        ("deprel", ["root"]),
        ("feats:Number", ["Sing"]),
        ("misc:NER", ["O", "B-x"]),
    ],
)
def test_conllu_takes_its_tags_from_another_column(tmp_path: Path, tags: str, labels: list[str]) -> None:
    data = CoNLLU(train=write(tmp_path, sentence(0), "train.conllu"), tags=tags)
    loaded = data.load()
    assert loaded.labels == labels
    assert any("2 of 3" in note for note in loaded.notes) == (tags == "misc:NER"), loaded.notes


def test_bad_conllu_is_refused_with_its_line(tmp_path: Path) -> None:
    with refused("data.tags", "uppos", "upos"):
        CoNLLU(train="x", tags="uppos")
    for text, *values in (
        ("1\tone\ttwo", "line 1", "3"),
        (conllu(" ", "X"), "line 1", "word"),
        ("x" + conllu("a", "X"), "x1"),
        (conllu("a", "X") + "\n" + conllu("b", "X"), "line 2", "the ID 1 after 1", "blank line"),
    ):
        with refused("data", *values):
            CoNLLU(train=write(tmp_path, text, "train.conllu")).load()
    with refused("data.tags", "misc:Entity"):
        CoNLLU(train=write(tmp_path, sentence(0), "train.conllu"), tags="misc:Entity").load()


# ---- lists of tokens and tags ----

ROWS: list[dict[str, Any]] = [
    {"tokens": [f"Ann{i}", "Lee", "runs"], "tags": ["B-PER", "I-PER", "O"]} for i in range(30)
]


def test_json_lines_have_a_list_of_words_and_one_of_tags(tmp_path: Path) -> None:
    data = ready(TaggedTable(train=write_jsonl(tmp_path / "train.jsonl", ROWS), seed=0))
    assert data.task_info is not None and data.task_info.labels == ["O", "B-PER", "I-PER"]
    assert "1 type of entities in IOB2" in data.describe()


def test_numbers_take_the_names_that_labels_give(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "train.jsonl", [{**row, "tags": [1, 2.0, 0]} for row in ROWS])
    loaded = TaggedTable(train=file, labels=["O", "B-z", "I-z"]).load()
    assert isinstance(loaded.train, TaggedRows) and loaded.train.sentences.tags[0] == ["B-z", "I-z", "O"]
    with refused("data.labels", "line 1"):
        TaggedTable(train=file).load()
    with refused("data", "line 1", "2"):
        TaggedTable(train=file, labels=["O", "B-z"]).load()


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_of_datasets_names_the_tags_and_pandas_reads_the_same(tmp_path: Path, nested: bool) -> None:
    import datasets
    import pandas as pd

    names = ["O", "B-PER", "I-PER", "B-LOC"]
    inner = datasets.ClassLabel(names=names)
    feature = datasets.Sequence(inner) if nested else datasets.List(inner)
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": feature})
    held = {"tokens": [r["tokens"] for r in ROWS], "ner_tags": [[1, 2, 0]] * len(ROWS)}
    (tmp_path / "set").mkdir()
    file = tmp_path / "set" / "train-00000-of-00001.parquet"
    datasets.Dataset.from_dict(held, features).to_parquet(file)
    frame = pd.read_parquet(file)
    for data in (
        TaggedTable(train=str(file), tag_column="ner_tags"),
        TaggedTable(path=str(tmp_path / "set"), tag_column="ner_tags"),
    ):
        loaded = data.load()
        assert loaded.labels == names, "not the order of the file"
        assert isinstance(loaded.train, TaggedRows)
        assert loaded.train.sentences.words == [list(words) for words in frame["tokens"]]
        assert loaded.train.sentences.tags == [[names[n] for n in tags] for tags in frame["ner_tags"]]


BAD_ROWS: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "fewer tags than words": ({"tokens": ["a", "b"], "tags": ["O"]}, "data", ("1", "2")),
    "null tokens": ({"tokens": None, "tags": ["O"]}, "data", ("tokens",)),
    "a null token": ({"tokens": ["a", None], "tags": ["O", "O"]}, "data", ("word 1",)),
    "an empty token": ({"tokens": ["a", ""], "tags": ["O", "O"]}, "data", ("word 1",)),
    "an empty sentence": ({"tokens": [], "tags": []}, "data", ("tokens",)),
    "a text for words": ({"tokens": "a b", "tags": ["O", "O"]}, "data", ("'a b'",)),
    "a text for tags": ({"tokens": ["a"], "tags": "O"}, "data", ("'O'",)),
    "a null tag": ({"tokens": ["a"], "tags": [None]}, "data", ("tag 0",)),
    "no tags": ({"tokens": ["a"]}, "data", ("tags",)),
    "a number without a name": ({"tokens": ["a"], "tags": [4]}, "data.labels", ("4",)),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_bad_row_is_refused_with_its_line_or_left_out_and_counted(tmp_path: Path, what: str) -> None:
    bad, key, values = BAD_ROWS[what]
    file = write_jsonl(tmp_path / "train.jsonl", [*ROWS, bad])
    with refused(key, "line 31", *values):
        TaggedTable(train=file).load()
    data = ready(TaggedTable(train=file, on_bad_sample="skip", seed=0))
    assert data.skipped_report(gather=False)["train"]["count"] == 1
    assert 30 not in {*data.splits["train"].rows.tolist(), *data.splits["val"].rows.tolist()}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_bad_line_leaves_its_sentence_out_and_an_unknown_tag_too(tmp_path: Path, split: str) -> None:
    bad = {"train": "good\tO\nbad\nworse\tO", "test": "new\tB-z"}[split]
    files = {
        name: write(tmp_path, MANY + "\n\n" + (bad if name == split else "fine\tO"), f"{name}.conll")
        for name in ("train", "test")
    }
    with refused("data" if split == "train" else "data.test", "line"):
        CoNLL(**files).load()
    data = ready(CoNLL(**files, on_bad_sample="skip", seed=0))
    report = data.skipped_report(gather=False)
    assert {name: entry["count"] for name, entry in report.items()} == {split: 1}, report


@pytest.mark.parametrize("kind", [CoNLL, CoNLLU])
def test_a_line_that_is_not_utf8_leaves_its_sentence_out(tmp_path: Path, kind: type[SFTDataModule]) -> None:
    sentences = {CoNLL: [MANY, "good\tO\n?\tO"], CoNLLU: [*map(sentence, range(9)), conllu("?", "NOUN")]}[kind]
    path = tmp_path / "train.txt"
    path.write_bytes("\n\n".join(sentences).encode().replace(b"?", b"\xff"))
    with refused("data", "not UTF-8", "0xff"):
        kind(train=str(path)).load()
    data = ready(kind(train=str(path), on_bad_sample="skip", seed=0))
    assert data.skipped_report(gather=False)["train"]["count"] == 1


def test_white_space_around_a_tag_is_left_out_and_counted(tmp_path: Path) -> None:
    loaded = TaggedTable(
        train=write_jsonl(tmp_path / "a.jsonl", [{"tokens": ["a", "b"], "tags": ["B-X", " B-X"]}])
    ).load()
    assert loaded.labels == ["B-X"]
    assert any("white space around a tag" in note for note in loaded.notes), loaded.notes


# ---- labelled subsets ----


def mixed(tmp_path: Path) -> str:
    """20 sentences with x, 6 with y, 3 with both, 10 with neither."""
    kinds = [("x",)] * 20 + [("y",)] * 6 + [("x", "y")] * 3 + [()] * 10
    return write(
        tmp_path, "\n\n".join("\n".join([f"w{i}\tO", *(f"{k}{i}\tB-{k}" for k in of)]) for i, of in enumerate(kinds))
    )


def types_kept(data: SFTDataModule) -> dict[str, int]:
    split = data.splits["train"]
    assert isinstance(split.samples, TaggedRows)
    types = split.samples.types_in()
    return {kind: sum(kind in types[row] for row in split.rows) for kind in ("x", "y")}


def test_shots_are_sentences_with_each_type_drawn_greedily_by_their_seed(tmp_path: Path) -> None:
    file = mixed(tmp_path)
    one, again, other = (ready(CoNLL(train=file, shots_per_class=3, subset_seed=s, seed=0)) for s in (0, 0, 1))
    for data in (one, other):
        found = types_kept(data)
        assert found["y"] == 3 and found["x"] >= 3 and len(data.splits["train"]) <= 6
    assert one.splits["train"].rows.tolist() == again.splits["train"].rows.tolist()
    assert one.splits["train"].rows.tolist() != other.splits["train"].rows.tolist()
    assert "at least 3 sentences of each type" in one.describe()
    with refused("data.shots_per_class", "'y'", "30"):
        ready(CoNLL(train=file, shots_per_class=30, seed=0))


def test_fractions_and_folds_are_of_sentences_and_duplicates_are_found(tmp_path: Path) -> None:
    file = write(tmp_path, MANY + "\n\n" + MANY)
    folds = [ready(CoNLL(train=file, train_fraction=0.5, folds=3, fold=f, seed=0)) for f in range(3)]
    held = [set(data.splits["val"].rows.tolist()) for data in folds]
    assert sum(map(len, held)) == len(set.union(*held)) == 27
    assert any("repeat" in line or "in training too" in line for line in ready(CoNLL(train=file, seed=0)).remarks())


# ---- gold in, gold out ----

HARD = [
    "ﬁnance",
    "cafe\u0301",
    "re\u0301sume\u0301",
    "\u200b",
    "a\u200bb",
    "ＦＵＬＬ",
    "İstanbul",
    "…",
    "😀👩\u200d🚀",
    "don't",
    "北京",
    "㎏",
    "ß",
    "x" * 40,
]


def sentences_of(words: list[str], rows: int = 3) -> tuple[Sentences, list[str]]:
    """Sentences of the hard words in turn, with entities of one to three words."""
    draw, labels = np.random.default_rng(0), ["O", "B-a", "I-a", "B-b", "I-b"]
    held = Sentences.of([list(draw.permutation(words)) * (1 + row) for row in range(rows)], "memory")
    for row, said in enumerate(held.words):
        tags: list[str] = []
        while len(tags) < len(said):
            kind, length = draw.choice(["a", "b"]), int(draw.integers(0, 4))
            tags += ["O"] if not length else [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        held.tags[row] = tags[: len(said)]
    return held, labels


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("limit", [None, 24])
def test_gold_tags_that_go_in_come_out_with_a_score_of_one(family: str, limit: int | None) -> None:
    """A network that says the gold tag at each marked piece scores 1, and its predictions are the gold tags, also where a
    word is truncated, has no piece, or normalises to another length."""
    held, labels = sentences_of(HARD)
    rows = TaggedRows(held, labels, "IOB2")
    rows.use(by_word(FAMILIES[family]()), limit)
    batch = {**rows.fetch([2, 0, 1], [], False)}
    y, select = batch["y"], batch["select"]
    task = make_task(info_of(labels))
    logits = 9.0 * torch.nn.functional.one_hot(y, len(labels)).double()
    meter = task.make_metrics(final=True)["entities"]
    full = {"y": y, "select": select, "count": len(y)}
    task.update(meter, Output(logits, logits), full)
    assert {float(v) for n, v in meter.compute().items() if not n.startswith("entity_n")} == {1.0}
    said = [row["tags"] for row in task.decode(Output(logits, logits), full)]
    assert said == [held.tags[row][: len(tags)] for row, tags in zip([2, 0, 1], said, strict=True)]
    lost = [len(held.words[row]) - len(tags) for row, tags in zip([2, 0, 1], said, strict=True)]
    assert rows.lost[[2, 0, 1]].tolist() == lost and any(lost) == (limit is not None)


def info_of(labels: list[str]) -> TaskInfo:
    return TaskInfo("token_classification", len(labels), labels)


# ---- lists in the cells of delimited files ----

CELLS = [["it's", "rock'n'roll", ","], ['say "no"', "[x]", "ünï\\x"], ["a", "b"], ['"', "'"]]


def test_a_list_in_a_cell_is_read_as_json_python_and_numpy_write_it() -> None:
    import numpy as np

    for words in (*CELLS, ["5", "1.0"], [3, 0, 7], ["😀", "\u00a0"], ["one"]):
        for write_as in (json.dumps, repr, lambda held: str(np.array(held, dtype=object))):
            assert list_of(write_as(words)) == words, write_as(words)
        assert list_of('"' + repr(words).replace('"', '""') + '"') == words, "quoted"
    for text in (
        "a b",
        "[a b]",
        "['a''b']",
        "['a' ... 'b']",
        "['a'",
        "[x for x in y]",
        "[__import__('os')]",
        "[1, 007]",
        "",
    ):
        assert list_of(text) is None, text
    assert as_lists(["a  b\tc", "", None]) == ([["a", "b", "c"], "", None], "texts that are split at blanks")
    assert as_lists(["[1, 2]", "['a'", "[3]"]) == ([[1, 2], "['a'", [3]], "lists written as texts")


@pytest.mark.parametrize("sep", [",", "\t"])
def test_csv_and_tsv_of_pandas_and_of_datasets_hold_what_was_written(tmp_path: Path, sep: str) -> None:
    import datasets
    import pandas as pd

    rows = [{"tokens": words, "tags": ["O"] * (len(words) - 1) + ["B-x"]} for words in CELLS]
    frame, set_of = pd.DataFrame(rows), datasets.Dataset.from_list(rows)
    files = {name: tmp_path / f"{name}.{'csv' if sep == ',' else 'tsv'}" for name in ("pandas", "json", "datasets")}
    frame.to_csv(files["pandas"], sep=sep, index=False)
    frame.map(json.dumps).to_csv(files["json"], sep=sep, index=False)
    set_of.to_csv(files["datasets"], sep=sep)
    for name, file in files.items():
        loaded = TaggedTable(train=str(file)).load()
        assert isinstance(loaded.train, TaggedRows)
        assert loaded.train.sentences.words == [row["tokens"] for row in rows], name
        assert loaded.train.sentences.tags == [row["tags"] for row in rows], name
        assert any("'tokens' holds lists written as texts" in note for note in loaded.notes), loaded.notes
    second = pd.read_csv(files["pandas"], sep=sep)["tokens"].map(ast.literal_eval)
    assert list(second) == [row["tokens"] for row in rows], "pandas reads something else"


def test_cells_may_hold_words_and_tags_with_blanks_between(tmp_path: Path) -> None:
    text = "id,tokens,tags\n" + "".join(f'{i},"Ann{i} , runs",B-PER O O\n' for i in range(30))
    loaded = TaggedTable(train=write_text(tmp_path / "a.csv", text)).load()
    assert isinstance(loaded.train, TaggedRows) and loaded.train.sentences.words[2] == ["Ann2", ",", "runs"]
    assert loaded.labels == ["O", "B-PER"] and any("split at blanks" in note for note in loaded.notes)
    file = write_text(tmp_path / "b.csv", text + "30,a b,O\n")
    with refused("data", "line 32", "1 tag for 2 words"):
        TaggedTable(train=file).load()
    data = ready(TaggedTable(train=file, on_bad_sample="skip", seed=0))
    assert data.skipped_report(gather=False)["train"]["count"] == 1
    cut = "tokens,tags\n" + "\"['a', 'b']\",\"['O', 'O']\"\n" * 3 + "\"['a' ... 'b']\",\"['O', 'O']\"\n"
    with refused("data", "line 5", "not a list of words"):
        TaggedTable(train=write_text(tmp_path / "c.csv", cut)).load()
