"""The front door takes tagged words in each format, says what it took them for, and trains on them; heads that tag are kept."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.autoconfig.data_plan import Overrides
from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.autoconfig.infer_tagged import in_cells
from sft_lightning.cli.main import main
from tests.data.test_tagged import ROWS, sentence
from tests.data.text_files import texts, write_jsonl, write_parquet, write_text
from tests.networks.tiny import tiny_folder, wordpiece
from tests.refused import refused

OLD = ("O", "B-z", "I-z")


def columns(count: int = 40, kind: str = "PER", sep: str = "\t") -> str:
    return "\n\n".join(f"word{i}{sep}O\nPeter{sep}B-{kind}\nPan{sep}I-{kind}\nflies{sep}O" for i in range(count)) + "\n"


def conll_folder(root: Path) -> str:
    for name, count in (("train", 40), ("dev", 9), ("test", 9)):
        write_text(root / f"en-{name}.conll", columns(count))
    return str(root)


def hub_folder(root: Path) -> str:
    lists = {name: [row[name] for row in ROWS] for name in ("tokens", "tags")}
    write_parquet(root / "train-00000-of-00001.parquet", lists)
    write_parquet(root / "validation-00000-of-00001.parquet", {name: held[:9] for name, held in lists.items()})
    return str(root)


def csv_of_lists(root: Path) -> str:
    """As a much used table has it: sentences, and two columns of Python's lists."""
    rows = [["Sentence: 1", " ".join(row["tokens"]), repr(["NNP", "NNP", "VB"]), repr(row["tags"])] for row in ROWS]
    with (root / "ner.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Sentence #", "Sentence", "POS", "Tag"], *rows])
    return str(root / "ner.csv")


def tsv_of_blanks(root: Path) -> str:
    lines = ["\t".join(" ".join(row[name]) for name in ("tokens", "tags")) for row in ROWS]
    return write_text(root / "a.tsv", "\n".join(["tokens\tner_tags", *lines]))


FORMATS: dict[str, tuple[str, Callable[[Path], str], tuple[str, ...]]] = {
    "a CoNLL file": ("CoNLL", lambda tmp: write_text(tmp / "a.conll", columns()), ("columns", "IOB2", "PER")),
    "columns in a .txt": ("CoNLL", lambda tmp: write_text(tmp / "a.txt", columns(sep=" ")), ("IOB2",)),
    "a folder": ("CoNLL", conll_folder, ("en-train.conll", "9 test samples of its own")),
    "CoNLL-U": ("CoNLLU", lambda tmp: write_text(tmp / "a.conllu", "\n".join(map(sentence, range(40)))), ("upos", "VERB")),
    "JSONL": ("TaggedTable", lambda tmp: write_jsonl(tmp / "a.jsonl", ROWS), ("'tokens'", "'tags'")),
    "parquet as the hub has it": ("TaggedTable", hub_folder, ("'tags'", "9 to validate")),
    "JSON": ("TaggedTable", lambda tmp: write_text(tmp / "a.json", json.dumps(ROWS)), ("'tokens'",)),
    "lists in a CSV": ("TaggedTable", csv_of_lists, ("'Sentence'", "'Tag'", "split at blanks", "written as texts", "PER")),
    "blanks in a TSV": ("TaggedTable", tsv_of_blanks, ("'tokens'", "'ner_tags'", "split at blanks", "PER")),
}  # fmt: skip


@pytest.mark.parametrize("what", FORMATS)
def test_each_format_is_recognised_and_said(nets: dict[str, str], tmp_path: Path, what: str) -> None:
    kind, make, values = FORMATS[what]
    (tmp_path / "data").mkdir()
    study, lines = front_door(nets["encoder"], make(tmp_path / "data"))
    said = "\n".join(lines)
    assert (study["base"]["data"]["class_path"], study["base"]["network"]["class_path"]) == (kind, "TransformersTokens")
    assert not [value for value in (*values, "--label_column") if value not in said], said
    entities = kind != "CoNLLU"
    assert study["select"]["target"] == ("val/entity_f1" if entities else "val/token_accuracy")
    assert study["select"]["kept"] == "drift/features_cka"


def test_the_user_may_say_otherwise(nets: dict[str, str], tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.conllu", "\n".join(map(sentence, range(40))))
    study, _ = front_door(nets["encoder"], file, label_column="xpos")
    assert study["base"]["data"]["init_args"]["tags"] == "xpos"
    rows = [{**row, "forms": row["tokens"], "ner": row["tags"]} for row in ROWS]
    study, _ = front_door(
        nets["encoder"], write_jsonl(tmp_path / "a.jsonl", rows), text_column="forms", label_column="ner"
    )
    init = study["base"]["data"]["init_args"]
    assert (init["token_column"], init["tag_column"]) == ("forms", "ner")
    for flag in ("text_column", "label_column"):
        with refused(f"--{flag}", "a.jsonl has no column 'toks'", "'tokens'" if flag == "text_column" else ""):
            front_door(nets["encoder"], write_jsonl(tmp_path / "a.jsonl", rows), **{flag: "toks"})
    with refused("--text_column", "no effect", "CoNLL-U"):
        front_door(nets["encoder"], file, text_column="lemma")
    with refused("--label_column", "'ner'"):
        front_door(nets["encoder"], write_text(tmp_path / "a.conll", columns()), label_column="ner")


def test_a_split_with_two_files_is_refused_unless_one_is_named_after_it(nets: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("en-train", "de-train"):
        write_text(tmp_path / "data" / f"{name}.conll", columns())
    with refused("--data", "en-train.conll", "de-train.conll"):
        front_door(nets["encoder"], str(tmp_path / "data"))
    train = write_text(tmp_path / "data" / "train.conll", columns())
    study, _ = front_door(nets["encoder"], str(tmp_path / "data"))
    assert study["base"]["data"]["init_args"]["train"] == train


def test_the_files_of_conll_2003_are_its_splits(nets: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    files = [write_text(tmp_path / "data" / f"eng.{split}", columns()) for split in ("train", "testa", "testb")]
    data = front_door(nets["encoder"], str(tmp_path / "data"))[0]["base"]["data"]
    assert data["class_path"] == "CoNLL" and [data["init_args"][s] for s in ("train", "val", "test")] == files
    assert front_door(nets["encoder"], files[0])[0]["base"]["data"]["init_args"]["train"] == files[0]


def test_what_has_no_tags_or_no_tagger_is_refused(nets: dict[str, str], tmp_path: Path) -> None:
    file = write_text(tmp_path / "a.conll", columns())
    with refused("--data", "a.conll", "test_resnet"):
        front_door(nets["resnet"], file)
    with refused("--task", "a.csv"):
        table = write_text(tmp_path / "a.csv", "text,label\n" + "".join(f'"{t}",x\n' for t in texts(30)))
        front_door(nets["encoder"], table, task="token_classification")
    with refused("--data", "a.conll", "1 tag (O)"):
        front_door(nets["encoder"], write_text(tmp_path / "a.conll", "\n\n".join(f"w{i}\tO" for i in range(30))))
    with refused("--data", "a.conll line 2"):
        front_door(nets["encoder"], write_text(tmp_path / "a.conll", "a\tO\nb\n"))


def test_lines_of_equally_many_words_are_tags_only_if_these_are_few_or_of_a_scheme(
    nets: dict[str, str], tmp_path: Path
) -> None:
    poem = write_text(tmp_path / "poem.txt", "\n\n".join(f"a rose blooms here{i}" for i in range(40)))
    study, _ = front_door(nets["llama"], poem, poem)
    assert [study["base"][name]["class_path"] for name in ("data", "retention")] == ["PlainText"] * 2
    with refused("--data", "poem.txt is plain text", "--task token_classification"):
        front_door(nets["encoder"], poem)
    front_door(nets["encoder"], poem, task="token_classification")
    parts = write_text(tmp_path / "pos.txt", "\n\n".join(f"a{i} DET\nrose{i} NOUN" for i in range(40)))
    assert front_door(nets["encoder"], parts)[0]["base"]["data"]["class_path"] == "CoNLL"
    with refused("--data", "labels.txt, read as tagged words", "blank lines", "1 sample", "--task"):
        front_door(nets["encoder"], write_text(tmp_path / "labels.txt", "".join(f"a {i}\tb\n" for i in range(40))))


def test_a_few_bad_sentences_are_left_out_and_settings_count_before_reading(
    nets: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, lines = front_door(nets["encoder"], write_text(tmp_path / "a.conll", columns() + "\nbad\n"))
    assert study["base"]["data"]["init_args"]["on_bad_sample"] == "skip"
    assert any("1 row that cannot be used" in line for line in lines), "\n".join(lines)
    half = write_jsonl(tmp_path / "half.jsonl", [row | {"tags": row["tags"][i % 2 :]} for i, row in enumerate(ROWS)])
    with refused("--data", "half.jsonl line 2", "2 tags"):
        front_door(nets["encoder"], half)
    command = ["ablate", "--network", nets["encoder"], "--data", half, "--dry-run"]
    assert main([*command, "--set", "data.on_bad_sample=skip"]) == 0
    assert "15 rows that cannot be used are left out" in capsys.readouterr().out
    numbers = write_jsonl(tmp_path / "ints.jsonl", [{"tokens": ["a", "b"], "tags": [i % 2, 0]} for i in range(40)])
    with refused("--data", "set data.labels"):
        front_door(nets["encoder"], numbers)
    study, _ = front_door(nets["encoder"], numbers, settings={"labels": ["O", "B-X"]})
    assert study["base"]["data"]["init_args"]["labels"] == ["O", "B-X"]


def test_a_head_that_tags_is_kept_and_asked_about_its_own_tags(
    nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    """A tagger tuned to new types: retention is the entity F1 of the old ones, by the head it came with."""
    old = tiny_folder(tmp_path / "ner", "bert", "tokens", tokenizer=wordpiece(), id2label=dict(enumerate(OLD)))
    data, source = write_text(tmp_path / "new.conll", columns()), write_text(tmp_path / "old.conll", columns(kind="z"))
    study, lines = front_door(old, data, source)
    assert any("kept as the source head" in line for line in lines)
    assert study["select"]["kept"] == "retention/entity_f1"
    base = {**study["base"], "test_after_fit": True}
    base["trainer"] = {**base["trainer"], "val_check_interval": 1}
    base["trainer"].pop("check_val_every_n_epoch", None)
    run = fit(base, steps=1)
    found = run.record["test"].keys()
    missing = [m for m in study["report"] if not {m, m.removeprefix("test/")} & found]
    assert not missing, f"reported, and not measured: {missing}"
    assert {"retention/entity_f1", "retention/forgetting"} <= run.metrics.keys()
    assert {"test/entity_f1_strict", "test/entity_f1/PER"} <= found
    assert run.record["test"]["test/entity_n/PER"] > 0
    facts = run.record["metric_info"]
    assert facts["test/entity_f1/PER"] == {"better": "max", "unit": "share"}
    assert facts["test/entity_n/PER"] == {"better": None, "unit": "entities"}
    again, _ = front_door(str(run.path), data)
    assert (
        again["base"]["network"]["class_path"] == "TransformersTokens"
        and again["select"]["kept"] == "retention/agreement"
    )
    new = write_text(tmp_path / "new.txt", "Peter Pan flies, cafe\u0301!\n\nhe (Peter) is here\n")
    assert main(["predict", "--run", str(run.path), "--data.predict", new]) == 0
    rows = [json.loads(line) for line in (Path(run.path) / "predictions.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [1, 3]
    for row in rows:
        assert [row["text"][a:b] for a, b in row["spans"]] == row["words"] and len(row["tags"]) == len(row["words"])
        assert all(row["text"][e["start"] : e["end"]] == e["text"] for e in row["entities"])
    assert run.record["primary"] == {"target": "val/entity_f1", "source": "retention/entity_f1"}


def test_a_head_for_whole_texts_is_no_source_of_tags(nets: dict[str, str], tmp_path: Path) -> None:
    from sft_lightning.core.structures import TaskInfo
    from sft_lightning.networks import TransformersTokens

    study, lines = front_door(nets["bert"], write_text(tmp_path / "a.conll", columns()))
    assert study["select"]["kept"] == "drift/features_cka" and any("no output layer to keep" in line for line in lines)
    assert (
        TransformersTokens(TaskInfo("token_classification", 3, list(OLD)), pretrained=nets["bert"]).source_head is None
    )


def test_texts_with_sets_of_labels_and_one_word_each_are_not_taken_for_tagged_words(tmp_path: Path) -> None:
    sets = "text,labels\n" + "".join(f"\"nice pen {i}\",\"['a', 'b', 'c']\"\n" for i in range(12))
    for name, text in (("sets.csv", sets), ("words.csv", "words,labels\n" + "yes,good\nno,bad\n" * 12)):
        file = Path(write_text(tmp_path / name, text))
        assert in_cells(file, Overrides()) is None, name
    assert in_cells(Path(write_text(tmp_path / "a.csv", sets)), Overrides(None, "text", "labels")) == ("text", "labels")
