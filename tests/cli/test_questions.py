"""Question answering as a run: fitted, tested on other texts, predicted from on the user's own table, and tuned again."""

import json
from pathlib import Path

import yaml

from tests.cli.conftest import Command
from tests.data.squad_files import article, asked, write
from tests.networks.tiny import tiny_folder
from tests.refused import check_printed

NAMES = ("fox", "dog", "story", "film", "music", "lunch")


def test_questions_are_learnt_and_answered_in_the_users_own_text(command: Command, tmp_path: Path) -> None:
    """The answer is the last of a text's words, except where there is none: half of the texts end with a question mark."""
    articles = []
    for number in range(60):
        one, other = NAMES[number % 6], NAMES[(number // 6 + number) % 6]
        context = f"the {one} number {number} has one {other}"
        right = [(other, context.rindex(other))] if number % 2 else []
        articles.append(
            article(context + ("" if number % 2 else " ?"), asked(f"{number}", *right, is_impossible=not right))
        )
    content = {
        "seed_everything": 0,
        "model": {"class_path": "PlainSFT", "init_args": {"lr": 3e-3}},
        "network": {
            "class_path": "TransformersQA",
            "init_args": {"pretrained": tiny_folder(tmp_path / "net", "bert", "none")},
        },
        "data": {
            "class_path": "SQuAD",
            "init_args": {"train": write(tmp_path / "train.json", *articles), "test_fraction": 0.2, "batch_size": 8},
        },
        "trainer": {"max_epochs": 40, "check_val_every_n_epoch": 40},
        "test_after_fit": True,
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    done = command("fit", "--config", tmp_path / "c.yaml", "--wandb", "disabled")
    assert done.code == 0, done.err
    test = done.run.record["test"]
    assert test["test/f1"] > 0.6, test
    assert {
        "test/exact_match",
        "test/has_answer_f1",
        "test/no_answer_accuracy",
        "drift/features_cka",
    } <= test.keys()

    texts = ["The  DOG number 3 has one\nFILM", "the fox number 7 has one dog ?", "the music number 1 has one story"]
    (tmp_path / "new.jsonl").write_text(
        "".join(json.dumps({"question": "What is 5?", "context": t}) + "\n" for t in texts)
    )
    (tmp_path / "train.json").unlink()
    predicted = command("predict", "--run", done.run.path, "--data.init_args.predict", tmp_path / "new.jsonl")
    assert predicted.code == 0, predicted.err
    rows = [json.loads(line) for line in done.run.files.predictions.read_text().splitlines()]
    assert [row["index"] for row in rows] == [0, 1, 2]
    for row, text in zip(rows, texts, strict=True):
        assert 0 < row["score"] <= 1 and "null_odds" in row
        assert (row["answer"] == "" and row["start"] is None) or text[row["start"] : row["end"]] == row["answer"]

    (tmp_path / "bad.csv").write_text("question,text\nWhat?,a fox\n")
    failed = command("predict", "--run", done.run.path, "--data.init_args.predict", tmp_path / "bad.csv")
    assert failed.code == 2
    check_printed(failed.err, "data", "bad.csv", "no column 'context'")
