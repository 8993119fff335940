"""The front door recognises questions with contexts, and keeps a question answering head as the source head."""

import json
from pathlib import Path

from sft_lightning.autoconfig.default_study import front_door
from tests.autoconfig.files import questions
from tests.data.text_files import texts, write_jsonl, write_text
from tests.networks.tiny import tiny_folder
from tests.refused import refused


def test_squads_json_is_recognised_and_said(nets: dict[str, str], tmp_path: Path) -> None:
    path = questions(tmp_path / "squad.json")
    study, lines = front_door(nets["bert"], path)
    assert study["base"]["network"]["class_path"] == "TransformersQA"
    assert study["base"]["data"]["class_path"] == "SQuAD"
    assert study["select"]["target"] == "val/f1"
    assert any("40 questions about 40 texts" in line and "splits are by text" in line for line in lines)
    assert study["arms"]["distill"]["set"]["model"]["init_args"]["on"] == "features", (
        "the head of another task is asked"
    )


def test_questions_of_which_some_have_no_answer_are_also_measured_on_those(
    nets: dict[str, str], tmp_path: Path
) -> None:
    held = [
        {"text": [t[:3]], "answer_start": [0]} if i % 3 else {"text": [], "answer_start": []}
        for i, t in enumerate(texts(40))
    ]
    rows = [{"question": "What?", "context": t, "answers": a} for t, a in zip(texts(40), held, strict=True)]
    study, _ = front_door(nets["bert"], write_jsonl(tmp_path / "asked.jsonl", rows))
    assert {"test/no_answer_accuracy", "test/has_answer_f1"} <= set(study["report"])
    assert study["select"]["target"] == "val/f1"


def test_a_question_answering_head_is_the_source_head(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [{"question": "What?", "context": t, "answers": {"text": [t[:3]], "answer_start": [0]}} for t in texts(40)]
    path = write_text(
        tmp_path / "asked.json", json.dumps({"version": "1", "data": rows})
    )  # as transformers' script wants it
    net = tiny_folder(tmp_path / "net", "bert", "qa")
    study, lines = front_door(net, path, path)
    assert study["select"]["kept"] == "retention/f1"
    assert any("its output layer is kept as the source head" in line for line in lines)
    assert study["arms"]["distill"]["set"]["model"]["init_args"]["distance"] == "kl"


def test_files_with_the_names_that_squad_gives_them_are_its_splits(nets: dict[str, str], tmp_path: Path) -> None:
    for name in ("train-v2.0", "dev-v2.0"):
        questions(tmp_path / f"{name}.json")
    data = front_door(nets["bert"], str(tmp_path))[0]["base"]["data"]["init_args"]
    assert [Path(data[split]).name for split in ("train", "val")] == ["train-v2.0.json", "dev-v2.0.json"]
    questions(tmp_path / "train-v1.1.json")
    with refused("--data", "3 tables", "no train"):
        front_door(nets["bert"], str(tmp_path))


def test_questions_for_images_or_about_one_text_are_refused(nets: dict[str, str], tmp_path: Path) -> None:
    one = [
        {"question": f"What {i}?", "context": "a fox", "answers": {"text": ["fox"], "answer_start": [2]}}
        for i in range(30)
    ]
    with refused("--data", "about 1 text", "too few"):
        front_door(nets["bert"], write_jsonl(tmp_path / "one.jsonl", one))


def test_a_few_bad_questions_are_left_out_and_said(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [
        {"question": "What?", "context": f"{t} fox", "answers": {"text": ["fox"], "answer_start": [len(t) + 1]}}
        for t in texts(40)
    ]
    rows[3]["answers"] = {"text": ["cat"], "answer_start": [0]}
    study, lines = front_door(nets["bert"], write_jsonl(tmp_path / "asked.jsonl", rows))
    assert study["base"]["data"]["init_args"]["on_bad_sample"] == "skip"
    assert any("39 questions" in line for line in lines) and any("'cat' is not at its offset" in line for line in lines)
