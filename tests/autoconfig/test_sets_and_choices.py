"""The front door recognises sets of labels and questions with choices, and fit reads them as it said."""

from pathlib import Path
from typing import Any

import pytest

from sft_lightning.autoconfig.default_study import front_door
from tests.data.text_files import texts, write_jsonl, write_text
from tests.networks.tiny import tiny_folder
from tests.refused import refused

SETS = [["a", "b"], [], ["b"], ["c", "a"], ["a"]]


def sets(root: Path, how: str) -> str:
    rows = [(text, SETS[i % 5]) for i, text in enumerate(texts(60))]
    if how == "lists":
        return write_jsonl(root / "a.jsonl", [{"text": text, "tags": labels} for text, labels in rows])
    if how == "separated":
        return write_text(root / "a.csv", "text,labels\n" + "".join(f'"{t}",{"; ".join(s)}\n' for t, s in rows))
    lines = [f'"{t}",{",".join(str(int(name in s)) for name in "abc")}' for t, s in rows]
    return write_text(root / "a.csv", "text,a,b,c\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("lists", {"label_column": "tags"}),
        ("separated", {"label_column": "labels", "label_separator": ";"}),
        ("columns", {"label_columns": ["a", "b", "c"]}),
    ],
)
def test_sets_of_labels_are_recognised_and_train(
    nets: dict[str, str], tmp_path: Path, fit: Any, how: str, expected: dict[str, Any]
) -> None:
    study, lines = front_door(nets["bert"], sets(tmp_path, how))
    data = study["base"]["data"]
    assert data["class_path"] == "MultiLabelTable"
    assert {k: v for k, v in data["init_args"].items() if k.startswith("label")} == expected
    said = next(line for line in lines if "sets of labels" in line)
    assert "60 texts" in said and "3 labels: a 36, b 24, c 12" in said and "12 texts without any" in said
    assert any("--label_column" in line and "otherwise" in line for line in lines)
    assert study["select"]["target"] == "val/f1_micro" and "test/map" in study["report"]
    if how == "columns":
        assert "val/f1_micro" in fit(study["base"]).record["metrics"]


def test_sets_with_as_many_labels_as_different_cells_are_recognised(nets: dict[str, str], tmp_path: Path) -> None:
    rows = "".join(f"{t}\t{('a;b', 'a', '', 'b; c')[i % 4]}\n" for i, t in enumerate(texts(60)))
    study, _ = front_door(nets["bert"], write_text(tmp_path / "a.tsv", "text\tlabels\n" + rows))
    assert study["base"]["data"]["init_args"]["label_separator"] == ";"


def test_one_label_a_row_is_still_one_class(nets: dict[str, str], tmp_path: Path) -> None:
    rows = "".join(f'"{t}",{("x|y", "v|w", "u")[i % 3]},{i % 2}\n' for i, t in enumerate(texts(60)))
    study, _ = front_door(nets["bert"], write_text(tmp_path / "a.csv", "text,label,seen\n" + rows))
    assert study["base"]["data"]["class_path"] == "TextTable"
    asked, _ = front_door(nets["bert"], sets(tmp_path, "columns"), label_column="a")
    assert asked["base"]["data"]["init_args"]["label_column"] == "a"
    two, _ = front_door(nets["bert"], sets(tmp_path, "columns"), label_column="a,c")
    assert two["base"]["data"]["init_args"]["label_columns"] == ["a", "c"]


def test_a_task_that_the_table_does_not_have_is_refused(nets: dict[str, str], tmp_path: Path) -> None:
    rows = "".join(f'"{t}",{"xy"[i % 2]}\n' for i, t in enumerate(texts(60)))
    file = write_text(tmp_path / "a.csv", "text,kind\n" + rows)
    with refused("--task", file, "text, kind", "--label_column"):
        front_door(nets["bert"], file, task="multi_label")
    with refused("--task", file, "choices"):
        front_door(nets["bert"], file, task="multiple_choice")


def test_columns_of_0_and_1_of_which_one_lacks_a_value_could_be_sets_of_labels(
    nets: dict[str, str], tmp_path: Path
) -> None:
    file = Path(sets(tmp_path, "columns"))
    file.write_text(file.read_text().replace(",1,", ",,", 1))
    with refused("--data", "'a'", "--label_column", "a,b,c for sets of labels"):
        front_door(nets["bert"], str(file))


def questions(root: Path, how: str) -> str:
    rows = [(f"what is {i}", [f"a {i}", f"b {i}", f"c {i}"], i % 3) for i in range(60)]
    if how == "lists":
        held = [{"question": q, "options": c, "answer": c[r], "article": "words"} for q, c, r in rows]
        return write_jsonl(root / "a.jsonl", held)
    lines = [f"{q},{','.join(c)},{'ABC'[r]}" for q, c, r in rows]
    return write_text(root / "a.csv", "question,choice1,choice2,choice3,label\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("lists", {"choices_column": "options", "label_column": "answer", "context_column": "article"}),
        ("columns", {"choice_columns": ["choice1", "choice2", "choice3"], "label_column": "label"}),
    ],
)
def test_questions_with_choices_are_recognised_and_train(
    nets: dict[str, str], tmp_path: Path, fit: Any, how: str, expected: dict[str, Any]
) -> None:
    study, lines = front_door(nets["encoder"], questions(tmp_path, how))
    base = study["base"]
    assert (base["network"]["class_path"], base["data"]["class_path"]) == ("TransformersChoice", "MultipleChoice")
    assert {**base["data"]["init_args"], **expected, "question_column": "question"} == base["data"]["init_args"]
    assert any("60 questions" in line and "3 choices" in line for line in lines)
    assert any("data.label_is" in line for line in lines), "how labels are read is not said"
    if how == "lists":
        assert "val/accuracy" in fit(base).record["metrics"]


def test_a_multiple_choice_model_keeps_its_head_and_takes_nothing_else(nets: dict[str, str], tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "net", "bert", "choices")
    study, _ = front_door(folder, questions(tmp_path, "columns"))
    assert study["arms"]["distill"]["set"]["model"]["init_args"]["on"] == "source_logits"
    with refused("--data", "TransformersChoice", "questions with choices"):
        front_door(folder, sets(tmp_path, "lists"))
    labelled = write_jsonl(tmp_path / "b.jsonl", [{"text": t, "label": i % 2} for i, t in enumerate(texts(40))])
    with refused("--data", labelled, "TransformersChoice", "questions with choices"):
        front_door(folder, labelled)
    swag = "".join(f"A man {i},runs {i},sits {i},{i % 2}\n" for i in range(30))
    with refused("--data", "looks like questions", "sent1, ending0, ending1, label"):
        front_door(folder, write_text(tmp_path / "swag.csv", f"sent1,ending0,ending1,label\n{swag}"))
    with refused("--data", "questions with choices"):
        front_door(nets["bert"], questions(tmp_path, "lists"), task="multiple_choice")


@pytest.mark.parametrize("network", ["bert", "llama", "t5"])
def test_choices_are_not_taken_for_classes_of_their_question(
    nets: dict[str, str], tmp_path: Path, network: str
) -> None:
    rows = "".join(f"what is {i},a {i},b {i},{'AB'[i % 2]}\n" for i in range(60))
    file = write_text(tmp_path / "a.csv", "question,A,B,answer\n" + rows)
    with refused("--data", file, "questions with choices", "--label_column"):
        front_door(nets[network], file)
    if network == "bert":
        study, _ = front_door(nets[network], file, label_column="answer", text_column="question")
        assert study["base"]["data"]["class_path"] == "TextTable"


def test_a_few_unusable_rows_are_left_out_and_said_and_many_are_an_error(nets: dict[str, str], tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": text, "labels": SETS[i % 5]} for i, text in enumerate(texts(60))]
    rows[3]["labels"] = None
    study, lines = front_door(nets["bert"], write_jsonl(tmp_path / "a.jsonl", rows))
    assert study["base"]["data"]["init_args"]["on_bad_sample"] == "skip"
    unquoted = "".join(f'"{t}","{("[a, b]", "[b, c]")[i % 2]}"\n' for i, t in enumerate(texts(60)))
    with refused("--data", "line 2", "'[a, b]'", "JSON"):
        front_door(nets["bert"], write_text(tmp_path / "a.csv", "text,labels\n" + unquoted))
    assert any("line 4" in line and "1 row" in line for line in lines)
    for row in rows[10:20]:
        row["labels"] = None
    with refused("--data", "line 4", "null"):
        front_door(nets["bert"], write_jsonl(tmp_path / "a.jsonl", rows))
