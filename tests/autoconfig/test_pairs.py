"""The front door on pairs of texts: which data it takes for them, in which direction, and that its study trains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft_lightning.autoconfig.default_study import front_door
from tests.autoconfig.files import csv_rows
from tests.data.text_files import texts, write_jsonl, write_text
from tests.refused import refused


@pytest.fixture
def parallel(tmp_path: Path) -> str:
    (tmp_path / "m").mkdir()
    for split, count in (("train", 40), ("validation", 10), ("test", 10)):
        for side in ("de", "en"):
            write_text(tmp_path / f"m/{split}.{side}", "".join(f"{side} {text}\n" for text in texts(count)))
    return str(tmp_path / "m")


def test_a_folder_of_parallel_files_becomes_a_study_that_trains(
    nets: dict[str, str], parallel: str, fit: Callable[..., Any]
) -> None:
    content, lines = front_door(nets["marian"], parallel, retention=parallel)
    base = content["base"]
    assert base["network"]["class_path"] == "TransformersSeq2Seq" and base["data"]["class_path"] == "TextPairs"
    assert base["data"]["init_args"]["train"] == [f"{parallel}/train.en", f"{parallel}/train.de"]
    assert {"train", "val", "test"} <= base["data"]["init_args"].keys()
    assert list(content["arms"]) == ["last_block", "plain", "l2sp", "distill"]
    assert any("train.en" in line and "train.de" in line and "40 pairs" in line for line in lines), lines
    assert "--text_column" in "\n".join(lines) and "test/bleu" in content["report"]
    run = fit(base, steps=1)
    assert {content["select"]["target"], content["select"]["kept"]} <= run.metrics.keys()
    other, _ = front_door(nets["marian"], parallel, text_column="de,en")
    assert other["base"]["data"]["init_args"]["train"] == [f"{parallel}/train.de", f"{parallel}/train.en"]
    with refused("--text_column", "de,en"):
        front_door(nets["marian"], parallel, text_column="fr,en")
    with refused("--data"):
        front_door(nets["bert"], parallel)


def test_a_table_is_taken_for_pairs_where_its_columns_say_so(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [{"article": text, "highlights": text[:9], "id": i} for i, text in enumerate(texts(40))]
    data = front_door(nets["t5"], write_jsonl(tmp_path / "news.jsonl", rows))[0]["base"]["data"]["init_args"]
    assert (data["source_column"], data["target_column"]) == ("article", "highlights")
    both = [{"translation": {"de": text, "en": text[:9]}} for text in texts(40)]
    data = front_door(nets["t5"], write_jsonl(tmp_path / "wmt.jsonl", both))[0]["base"]["data"]["init_args"]
    assert (data["source_column"], data["target_column"]) == ("en", "de")
    rare = [{"translation": {"cs": text[:9], "en": text}} for text in texts(40)]
    data = front_door(nets["t5"], write_jsonl(tmp_path / "wmt19.jsonl", rare))[0]["base"]["data"]["init_args"]
    assert (data["source_column"], data["target_column"]) == ("en", "cs"), "any two languages are a pair"
    odd = "this\tthat\n" + "".join(f"{text}\t{text}!\n" for text in texts(40))
    file = write_text(tmp_path / "odd.tsv", odd)
    content, lines = front_door(nets["marian"], file)
    assert content["base"]["data"]["init_args"]["source_column"] == "this"
    assert any("data.header=false" in line for line in lines), lines
    data = front_door(nets["t5"], file, task="seq2seq", text_column="that,this")[0]["base"]["data"]["init_args"]
    assert (data["source_column"], data["target_column"]) == ("that", "this")


def test_labelled_texts_stay_labelled_texts_for_a_network_that_takes_both(nets: dict[str, str], tmp_path: Path) -> None:
    content, _ = front_door(nets["t5"], csv_rows(tmp_path / "reviews.csv"))
    assert content["base"]["network"]["class_path"] == "TransformersText"
    with refused("--data", "--text_column"):
        front_door(nets["marian"], csv_rows(tmp_path / "more.csv"))
    rows = [{"sentence1": text, "sentence2": text[:9], "label": i % 2} for i, text in enumerate(texts(40))]
    mrpc = write_jsonl(tmp_path / "mrpc.jsonl", rows)
    with refused("--data", "label", "--text_column"):
        front_door(nets["marian"], mrpc)
    content, lines = front_door(nets["marian"], mrpc, text_column="sentence2,sentence1")
    assert content["base"]["data"]["init_args"]["source_column"] == "sentence2"
    assert any("columns not used: label" in line for line in lines), lines
    content, _ = front_door(nets["t5"], mrpc, text_column="sentence1,sentence2")
    assert content["base"]["data"]["class_path"] == "TextTable"


def test_the_columns_that_the_user_names_give_the_direction(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [{"en": text, "de": f"{text}!", "fr": f"{text}?"} for text in texts(40)]
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    for given in ("de,en", "en,fr", "fr, de"):
        data = front_door(nets["t5"], file, text_column=given)[0]["base"]["data"]["init_args"]
        assert f"{data['source_column']},{data['target_column']}" == given.replace(" ", "")
    for wrong in ("nosuch,de", "nosuch"):
        with refused("--text_column", "'nosuch'", "en, de, fr"):
            front_door(nets["t5"], file, text_column=wrong)
    with refused("--text_column", "SOURCE,TARGET"):
        front_door(nets["t5"], file, text_column="en")


@pytest.mark.parametrize(("network", "fix"), [("t5", "--task seq2seq"), ("llama", "prompt and completion")])
def test_two_texts_without_labels_are_said_to_lack_what_the_network_takes(
    nets: dict[str, str], tmp_path: Path, network: str, fix: str
) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [{"input": text, "response": f"{text}!"} for text in texts(40)])
    with refused("--data", file, fix, "--label_column"):
        front_door(nets[network], file)


def test_few_bad_pairs_are_left_out_and_many_are_refused(nets: dict[str, str], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"source": text, "target": text} for text in texts(40)]
    rows[3]["target"] = None
    content, lines = front_door(nets["t5"], write_jsonl(tmp_path / "a.jsonl", rows))
    assert content["base"]["data"]["init_args"]["on_bad_sample"] == "skip" and any("1 pair" in line for line in lines)
    for row in rows[:9]:
        row["source"] = ""
    with refused("--data", "line 1", "9 of 40"):
        front_door(nets["t5"], write_jsonl(tmp_path / "b.jsonl", rows))


LONG = "It rained all day long in the valley, and nobody who lived there went out to look at the river or at the road. "


@pytest.mark.parametrize(
    ("source", "target", "names", "rouge"),
    [
        (LONG, "Rain in the valley", ("source", "target"), True),
        (LONG, LONG.upper(), ("source", "target"), False),
        (
            "all day long in the valley it rained and rained",
            "谷里整天都在下雨下个不停没有停过",
            ("source", "target"),
            False,
        ),
        ("घाटी में पूरे दिन बारिश होती रही", "It rained all day in the valley", ("source", "target"), False),
        (LONG, LONG.upper(), ("article", "highlights"), True),
        (LONG, "Regen", ("source", "translation"), False),
    ],
)
def test_summaries_are_scored_by_rouge_and_translations_by_bleu_and_chrf(
    nets: dict[str, str], tmp_path: Path, source: str, target: str, names: tuple[str, str], rouge: bool
) -> None:
    rows = [{names[0]: f"{source} {i}", names[1]: f"{target} {i}"} for i in range(40)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    study, lines = front_door(nets["t5"], file)
    wanted, other = {"test/rouge1", "test/rouge2", "test/rougeL"}, {"test/bleu", "test/chrf"}
    assert (wanted if rouge else other) <= set(study["report"])
    assert not (other if rouge else wanted) & set(study["report"])
    assert any(("summaries" if rouge else "translations") in line and "data.metrics" in line for line in lines), lines
    study, _ = front_door(nets["t5"], file, settings={"metrics": ["exact_match"]})
    assert "test/exact_match" in study["report"] and not (wanted | other) & set(study["report"])


def test_a_column_of_numbers_is_not_taken_for_source_texts(nets: dict[str, str], tmp_path: Path) -> None:
    rows = "".join(f"{i}\t{text}\t{text}!\n" for i, text in enumerate(texts(40)))
    file = write_text(tmp_path / "rows.tsv", f"id\tsource\ttarget\n{rows}")
    for given in ("id,target", " id , source"):
        with refused("--text_column", "'id'", "numbers", "SOURCE,TARGET"):
            front_door(nets["t5"], file, text_column=given, task="seq2seq")
    _, lines = front_door(nets["t5"], file, text_column="source,id", task="seq2seq")
    assert any("'id'" in line and "numbers" in line for line in lines), lines


def test_a_table_whose_first_line_reads_like_a_pair_has_no_header(nets: dict[str, str], tmp_path: Path) -> None:
    rows = "".join(f"{text} says he.\t{text} sagt er.\n" for text in texts(40))
    file = write_text(tmp_path / "a.tsv", rows)
    for network, task in (("marian", None), ("t5", "seq2seq"), ("t5", None)):
        content, lines = front_door(nets[network], file, task=task)
        data = content["base"]["data"]["init_args"]
        assert data["header"] is False and (data["source_column"], data["target_column"]) == ("source", "target")
        assert any("40 pairs" in line for line in lines) and any("data.header=true" in line for line in lines), lines
    data = front_door(nets["t5"], file, text_column="target,source")[0]["base"]["data"]["init_args"]
    assert (data["source_column"], data["target_column"]) == ("target", "source")
    content, lines = front_door(nets["marian"], file, settings={"header": True})
    assert content["base"]["data"]["init_args"]["header"] is True and any("39 pairs" in line for line in lines), lines
    words = "Hi\tHallo\nRun\tLauf\nHi\tGrüß Gott\n" + "".join(f"Word{i}\tWort{i}\n" for i in range(40))
    data = front_door(nets["marian"], write_text(tmp_path / "w.tsv", words))[0]["base"]["data"]["init_args"]
    assert data["header"] is False, "a name that its own column repeats is a text"
    once = write_text(tmp_path / "o.tsv", words.replace("Hi\tGrüß Gott\n", ""))
    for network in ("marian", "t5"):
        with refused("--data", "Hallo", "data.header=false"):
            front_door(nets[network], once)
    short = write_text(tmp_path / "b.tsv", rows.replace(" says he.", "").replace(" sagt er.", ""))
    content, lines = front_door(nets["t5"], short, settings={"header": False}, task="seq2seq")
    assert any("40 pairs" in line for line in lines) and not any("data.header=true" in line for line in lines), lines
