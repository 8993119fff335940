"""Every variant on every task, through the real command line, on data in its real format on disk."""

import json
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Command
from tests.data.text_files import texts, write_jsonl, write_text
from tests.data.vision_files import write_folder
from tests.networks.tiny import tiny_folder
from tests.refused import check_printed

VARIANTS: dict[str, dict[str, Any]] = {
    "PlainSFT": {},
    "DistillSFT": {"anchor_weight": 0.5},
    "L2SPSFT": {"alpha": 0.1},
    "EWCSFT": {"fisher_samples": 8},
}


def image_folder(command: Command, tmp: Path) -> dict[str, Any]:
    """A LeNet, pretrained by a run on other classes, whose run directory is `pretrained`."""
    write_folder(tmp / "old", {"ant": 12, "bee": 12, "cat": 12})
    write_folder(tmp / "new", {"dog": 12, "elk": 12})
    net = {"class_path": "LeNet", "init_args": {"image_size": 16}}
    source = {
        "model": {"class_path": "PlainSFT"},
        "network": net,
        "data": {"class_path": "ImageFolder", "init_args": {"root": str(tmp / "old"), "batch_size": 8}},
        "trainer": {"max_epochs": 1},
    }
    (tmp / "source.yaml").write_text(yaml.safe_dump(source))
    done = command("fit", "--config", tmp / "source.yaml", "--wandb", "disabled")
    assert done.code == 0, done.err
    return {
        "network": {"class_path": "LeNet", "init_args": {"image_size": 16, "pretrained": str(done.run.path)}},
        "data": {"class_path": "ImageFolder", "init_args": {"root": str(tmp / "new"), "augment": ["crop", "flip"]}},
        "retention": source["data"],
    }


def text_table(command: Command, tmp: Path) -> dict[str, Any]:
    rows = [f'"{t}",{("sad", "glad", "neither")[i % 3]}' for i, t in enumerate(texts(42))]
    train = write_text(tmp / "train.csv", "\n".join(["text,label", *rows]))
    test = write_text(tmp / "test.csv", "\n".join(["text,label", *rows[:9]]))
    return {
        "network": {
            "class_path": "TransformersText",
            "init_args": {"pretrained": tiny_folder(tmp / "bert", "distilbert", "sequence")},
        },
        "data": {"class_path": "TextTable", "init_args": {"train": train, "test": test}},
    }


def regression(command: Command, tmp: Path) -> dict[str, Any]:
    rows = [{"a": t, "b": t[::-1], "score": i / 10} for i, t in enumerate(texts(42))]
    arguments = {"task": "regression", "text_column": "a", "pair_column": "b", "label_column": "score"}
    return {
        "network": {
            "class_path": "TransformersText",
            "init_args": {"pretrained": tiny_folder(tmp / "bert", "bert", "sequence"), "pooling": "model"},
        },
        "data": {
            "class_path": "TextTable",
            "init_args": {
                "train": write_jsonl(tmp / "train.jsonl", rows),
                "test": write_jsonl(tmp / "test.jsonl", rows[:9]),
                **arguments,
            },
        },
    }


def tiny_llama(tmp: Path) -> str:
    return tiny_folder(tmp / "llama", "llama", "lm", max_position_embeddings=512)


def instructions(command: Command, tmp: Path) -> dict[str, Any]:
    rows = [{"instruction": t, "input": "", "output": f"{i} words"} for i, t in enumerate(texts(30))]
    train = write_text(tmp / "train.json", json.dumps(rows))
    test = write_text(tmp / "test.json", json.dumps(rows[:9]))
    return {
        "network": {"class_path": "TransformersLM", "init_args": {"pretrained": tiny_llama(tmp), "max_length": 256}},
        "data": {"class_path": "Instructions", "init_args": {"train": train, "test": test}},
        "retention": {"class_path": "Instructions", "init_args": {"train": test, "test": test, "val_fraction": 0.5}},
    }


def sets_of_labels(command: Command, tmp: Path) -> dict[str, Any]:
    def rows(names: str, split: str, count: int) -> dict[str, str]:
        held = [
            {"text": t, "labels": [n for j, n in enumerate(names) if (i + j) % 3]} for i, t in enumerate(texts(count))
        ]
        return {split: write_jsonl(tmp / f"{names}-{split}.jsonl", held)}

    folder = tiny_folder(
        tmp / "bert", "bert", "sequence", problem_type="multi_label_classification", id2label=dict(enumerate("xyz"))
    )
    files, old = ({**rows(names, "train", 40), **rows(names, "test", 9)} for names in ("abcd", "xyz"))
    return {
        "network": {"class_path": "TransformersText", "init_args": {"pretrained": folder}},
        "data": {"class_path": "MultiLabelTable", "init_args": files},
        "retention": {"class_path": "MultiLabelTable", "init_args": {**old}},
    }


def multiple_choice(command: Command, tmp: Path) -> dict[str, Any]:
    files = {}
    for split, count in (("train", 40), ("test", 9)):
        held = [
            {"question": t, "choices": [f"{i}", "more", "less"][: 2 + i % 2], "label": i % 2}
            for i, t in enumerate(texts(count))
        ]
        files[split] = write_jsonl(tmp / f"{split}.jsonl", held)
    network = {
        "class_path": "TransformersChoice",
        "init_args": {"pretrained": tiny_folder(tmp / "bert", "bert", "choices")},
    }
    data = {"class_path": "MultipleChoice", "init_args": files}
    return {"network": network, "data": data, "retention": {**data, "init_args": dict(files)}}


TASKS = {
    "classification of images": (image_folder, "accuracy"),
    "classification of text": (text_table, "accuracy"),
    "regression": (regression, "mse"),
    "causal language modelling": (instructions, "perplexity"),
    "sets of labels": (sets_of_labels, "f1_micro"),
    "multiple choice": (multiple_choice, "accuracy"),
}


QUICK = set(zip(TASKS, cycle(VARIANTS), strict=False))
"""Every task and every variant once; each meets every other in tests/exactness too, which trains them in one process."""


@pytest.mark.parametrize(
    ("task", "variant"),
    [
        pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow)
        for pair in product(TASKS, [*VARIANTS, "LinearProbe"])
    ],
)
def test_fit_test_and_predict_of(task: str, variant: str, command: Command, tmp_path: Path) -> None:
    make, metric = TASKS[task]
    content = make(command, tmp_path)
    content["data"]["init_args"] |= {"batch_size": 8}
    content |= {
        "model": {"class_path": variant, "init_args": VARIANTS.get(variant, {})},
        "trainer": {"max_epochs": 2, "gradient_clip_val": 1.0, "accumulate_grad_batches": 2},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(content))
    fitted = command("fit", "--config", tmp_path / "experiment.yaml", "--wandb", "disabled")
    solves = variant == "LinearProbe"
    if solves and task == "causal language modelling":
        assert fitted.code == 2
        check_printed(fitted.err, "model", "LinearProbe")
        return
    if variant == "EWCSFT" and "retention" not in content:
        assert fitted.code == 2
        check_printed(fitted.err, "retention", "EWCSFT")
        return
    assert fitted.code == 0, fitted.err
    run = fitted.run
    assert run.status == "finished"
    assert {f"val/{metric}", "drift/weights_l2", "drift/features_cka"} <= run.metrics.keys()
    assert (run.metrics["drift/weights_l2"] == 0) == solves
    if task != "regression":
        assert {"drift/kl", "retention/agreement"} <= run.metrics.keys(), "the source's outputs were not compared"
        assert run.record["metrics"]["drift/kl"]["before"] == 0.0
    if "retention" in content:
        assert {f"retention/{metric}", "retention/forgetting"} <= run.metrics.keys()
    tested = command("test", "--run", run.path, "--wandb", "disabled")
    assert tested.code == 0, tested.err
    assert f"test/{metric}" in tested.run.record["test"]
    predicted = command("predict", "--run", run.path)
    assert predicted.code == 0, predicted.err
    rows = [json.loads(line) for line in run.files.predictions.read_text().splitlines()]
    assert rows
    assert [r["index"] for r in rows] == sorted(r["index"] for r in rows)
    started = command(
        "fit", "--config", tmp_path / "experiment.yaml", "--network.init_args.pretrained", run.path, "--wandb", "disabled",
        *(["--trainer.max_epochs", 1] + (["--retention", "null"] if "retention" in content else [])),
        *(["--model.init_args.anchor_weight", 0] if variant == "EWCSFT" else []),  # its source data went with retention
    )  # fmt: skip
    assert started.code == 0, f"the exported model cannot be tuned again: {started.err}"
