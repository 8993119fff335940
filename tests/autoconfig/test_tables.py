"""The front door takes a table for what fit takes it for: the same rows, the same classes, the same refusals."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.autoconfig.infer_network import infer_network
from sft_lightning.autoconfig.infer_pooling import modes_of
from sft_lightning.data import TextTable
from tests.data.text_files import texts, write_jsonl, write_parquet, write_text
from tests.refused import check_printed, refused

NAN = float("nan")
COLUMNS: dict[str, list[Any]] = {
    "floats with a gap": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0, NAN],
    "null beside None": ["None", "favor", "against", "None", "favor", "against", None],
    "codes": [f"{i}_{i}" for i in range(6)],
    "zeros": ["007", "042", "100"],
    "words for nothing": ["NA", "no", "nan", "None"],
    "unlabelled": [0, 1, 2, 0, 1, 2, -1],
    "true": [True, False],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_counts_and_classes_are_those_that_fit_finds(nets: dict[str, str], tmp_path: Path, name: str) -> None:
    values = COLUMNS[name]
    labels = [values[i % len(values)] for i in range(6 * 20)] if len(values) < 7 else [*values[:6] * 20, values[6]]
    rows = [{"text": t, "label": v} for t, v in zip(texts(len(labels)), labels, strict=True)]
    random.Random(0).shuffle(rows)
    study, lines = front_door(nets["bert"], write_jsonl(tmp_path / "a.jsonl", rows))
    init = {k: v for k, v in study["base"]["data"]["init_args"].items() if k != "max_length"}
    loaded = TextTable(**init).load()
    assert loaded.train.targets is not None
    used = np.bincount(loaded.train.targets[loaded.train.targets >= 0])
    said = next(line for line in lines if "texts in column" in line)
    assert f"{used.sum()} texts" in said
    assert (
        f"{len(loaded.labels)} classes: " + ", ".join(f"{n} {c}" for n, c in zip(loaded.labels, used, strict=True))
        in said
    )


@pytest.mark.parametrize("content", ["id,text\n", "id,text,target\n"], ids=["no column", "empty column"])
def test_a_test_file_without_labels_is_left_out_and_said(nets: dict[str, str], tmp_path: Path, content: str) -> None:
    rows = "".join(f'{i},"{t}",{i % 2}\n' for i, t in enumerate(texts(60)))
    write_text(tmp_path / "train.csv", f"id,text,target\n{rows}")
    empty = "," * (content.count(",") - 1)
    write_text(tmp_path / "test.csv", content + "".join(f'{i},"{t}"{empty}\n' for i, t in enumerate(texts(9))))
    study, lines = front_door(nets["bert"], str(tmp_path))
    init = study["base"]["data"]["init_args"]
    assert "test" not in init and init["test_fraction"] > 0
    assert any("test.csv has no" in line and "test on a share of train" in line for line in lines), "\n".join(lines)


REFUSED: dict[str, tuple[str, str, list[str]]] = {
    "two columns of one name": ("a.csv", "text,label,label\n" + "a b,x,y\n" * 30, ["a.csv", "2", "'label'"]),
    "several labels": (
        "a.jsonl",
        "".join(
            json.dumps({"text": t, "label": "xy"[i % 2] if i else ["a", "b"]}) + "\n" for i, t in enumerate(texts(30))
        ),
        ["a.jsonl line 1: ", "'label'", "['a', 'b']"],
    ),
    "a label of the test file alone": ("test.csv", "text,label\na b,z\n", ["test.csv", "'z'", "x, y"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_fit_refuses_is_refused_before_anything_is_trained(
    nets: dict[str, str], tmp_path: Path, name: str
) -> None:
    file, content, values = REFUSED[name]
    if file == "test.csv":
        rows = "".join(f'"{t}",{"xy"[i % 2]}\n' for i, t in enumerate(texts(40)))
        write_text(tmp_path / "train.csv", f"text,label\n{rows}")
    write_text(tmp_path / file, content)
    with refused("--data", *values):
        front_door(nets["bert"], str(tmp_path if file == "test.csv" else tmp_path / file))


def test_parquet_with_two_columns_of_one_name_is_refused(nets: dict[str, str], tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = [pa.array(texts(30)), pa.array(["a", "b"] * 15), pa.array(["c", "d"] * 15)]
    parquet.write_table(pa.Table.from_arrays(columns, ["text", "label", "label"]), tmp_path / "a.parquet")
    with refused("--data", "a.parquet", "2", "'label'"):
        front_door(nets["bert"], str(tmp_path / "a.parquet"))
    fine = write_parquet(tmp_path / "b.parquet", {"text": texts(30), "label": ["a", "b"] * 15})
    assert front_door(nets["bert"], fine)[0]["base"]["data"]["init_args"]["label_column"] == "label"


SPELLINGS: list[tuple[str, str, str]] = [
    ('{"pooling_mode_cls_token": true}', "cls", "its own pooling, cls"),
    ('{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}', "cls", "its own pooling, cls"),
    ('{"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": true}', "cls", "its own pooling, cls"),
    ('{"embedding_dimension": 16, "pooling_mode": ["lasttoken"]}', "last", "its own pooling, last"),
    ('{"word_embedding_dimension": 16}', "mean", "its own pooling, mean"),
    ('{"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": false}', "", "by max ("),
    ('{"pooling_mode": "weightedmean"}', "", "by weightedmean ("),
    ('{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true}', "", "by cls and mean ("),
]


@pytest.mark.parametrize(("config", "pooling", "said"), SPELLINGS)
def test_pooling_is_read_from_the_models_own_files_in_all_spellings(
    nets: dict[str, str], tmp_path: Path, config: str, pooling: str, said: str
) -> None:
    shutil.copytree(nets["encoder"], tmp_path / "net")
    (tmp_path / "net/1_Pooling").mkdir()
    (tmp_path / "net/1_Pooling/config.json").write_text(config)
    if not pooling:
        with refused("--network", tmp_path / "net", said, "mean, cls or last"):
            infer_network(str(tmp_path / "net"))
        return
    plan = infer_network(str(tmp_path / "net"))
    assert plan.blocks["text"]["init_args"]["pooling"] == pooling
    assert said in plan.why


def test_modules_say_where_the_pooling_is_and_what_follows_it(nets: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(nets["encoder"], tmp_path / "net")
    (tmp_path / "net/2_Pooling").mkdir()
    (tmp_path / "net/2_Pooling/config.json").write_text('{"pooling_mode": "cls"}')
    kinds = ("", "Transformer"), ("2_Pooling", "Pooling"), ("3_Dense", "Dense")
    modules = [{"idx": i, "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in enumerate(kinds)]
    (tmp_path / "net/modules.json").write_text(json.dumps(modules))
    plan = infer_network(str(tmp_path / "net"))
    assert plan.blocks["text"]["init_args"]["pooling"] == "cls"
    assert "the dense layer that follows its pooling is left out" in plan.why
    assert modes_of({"pooling_mode": "mean+max"}) == ["mean", "max"]


def test_a_study_reads_its_tables_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from sft_lightning.cli.main import main

    monkeypatch.setenv("SFT_RUNS_DIR", str(tmp_path / "runs"))
    train = write_jsonl(tmp_path / "train.jsonl", [{"text": t, "label": i % 2} for i, t in enumerate(texts(30))])
    test = write_jsonl(tmp_path / "test.jsonl", [{"text": t} for t in texts(9)])
    study = {
        "base": {
            "model": {"class_path": "PlainSFT"},
            "network": {"class_path": "LSTM"},
            "data": {"class_path": "TextTable", "init_args": {"train": train, "test": test}},
            "trainer": {"max_epochs": 1, "accelerator": "cpu"},
            "wandb": "disabled",
        },
        "arms": {"plain": {"set": {"model.lr": 0.01}}, "slow": {"set": {"model.lr": 0.001}}},
        "baseline": "plain",
        "seeds": 1,
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    code = main(["ablate", "--config", str(tmp_path / "study.yaml")])
    said = capfd.readouterr().err.strip().splitlines()
    assert code == 2 and len(said) == 1, "\n".join(said)
    check_printed(said[0], "data.test", "test.jsonl", "'label'")
    assert not (tmp_path / "runs").exists(), "points were begun"
