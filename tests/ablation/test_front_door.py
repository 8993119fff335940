"""From a network and some data to a default study: what is inferred, what is asked for, and that it trains."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sft_lightning.__main__ import main
from sft_lightning.ablation.budget import parse_budget, seeds_for
from sft_lightning.ablation.front_door import front_door
from sft_lightning.ablation.overlay import merged, nested
from sft_lightning.ablation.recipe import RECIPES, arms, length
from sft_lightning.ablation.study import make_study
from sft_lightning.data import ImageFolder, TextTable
from sft_lightning.errors import UserError
from sft_lightning.runs import load
from tests.data.text_files import texts, write_jsonl, write_parquet, write_text
from tests.data.vision_files import pixels, table, write_folder
from tests.networks.tiny import tiny_folder, unigram

ANIMALS = ("ant", "bee", "cat")


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny networks by what they are."""
    import timm
    import transformers as hf
    from torchvision import models

    from sft_lightning.networks import LeNet
    from sft_lightning.tasks import TaskInfo

    root = tmp_path_factory.mktemp("nets")
    torch.manual_seed(0)
    vit = hf.ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    hf.ViTForImageClassification(vit).save_pretrained(root / "vit")
    torch.save(timm.create_model("test_resnet").state_dict(), root / "resnet.pth")
    torch.save(models.get_model("mobilenet_v3_small").state_dict(), root / "mobile.pth")
    lenet = LeNet(TaskInfo("classification", 3, list(ANIMALS), []), image_size=16)
    lenet.save_pretrained(str(root / "lenet"))
    patient = unigram()
    patient.model_max_length = 512
    return {
        "bert": tiny_folder(root / "bert", "bert", "sequence"),
        "encoder": tiny_folder(root / "encoder", "distilbert", "none"),
        "llama": tiny_folder(root / "llama", "llama", "lm", tokenizer=patient, max_position_embeddings=512),
        "vit": str(root / "vit"),
        "resnet": f"test_resnet={root}/resnet.pth",
        "mobile": f"torchvision:mobilenet_v3_small={root}/mobile.pth",
        "lenet": str(root / "lenet"),
    }


# ---- data on disk ----


def csv_rows(
    path: Path, rows: int = 60, header: str = "review,sentiment", kinds: tuple[str, ...] = ("sad", "glad")
) -> str:
    lines = [f'"{t}",{kinds[i % len(kinds)]}' for i, t in enumerate(texts(rows))]
    return write_text(path, "\n".join([header, *lines]))


def image_list(root: Path, rows: int = 24) -> str:
    """A CSV that names images beside it."""
    images, targets = pixels(rows, 12, 3, 3, 0)
    (root / "pictures").mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(root / "pictures" / f"{i}.png")
    lines = [f"pictures/{i}.png,{ANIMALS[t]},photo number {i} of mine" for i, t in enumerate(targets)]
    return write_text(root / "list.csv", "\n".join(["file_name,species,caption", *lines]))


def instructions(path: Path, rows: int = 30) -> str:
    return write_jsonl(
        path, [{"instruction": t, "input": "", "output": f"{i} words"} for i, t in enumerate(texts(rows))]
    )


def pairs(path: Path, rows: int = 60) -> str:
    a = texts(rows)
    rows_ = [{"idx": i, "premise": t, "hypothesis": a[-i], "gold_label": i % 3} for i, t in enumerate(a)]
    return write_jsonl(path, rows_)


def scores(path: Path, rows: int = 60) -> str:
    return write_jsonl(path, [{"text": t, "score": i * 0.37 % 5} for i, t in enumerate(texts(rows))])


# ---- it trains ----


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`fit(base)` trains two steps of a config through the command line, and returns the run."""
    monkeypatch.setenv("SFT_RUNS_DIR", str(tmp_path / "runs"))

    def run(config: dict[str, Any], steps: int = 2) -> Any:
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(config))
        capfd.readouterr()
        code = main(
            [
                "fit",
                "--config",
                str(file),
                "--trainer.max_steps",
                str(steps),
                "--wandb",
                "disabled",
                "--trainer.accelerator",
                "cpu",
            ]
        )
        said = capfd.readouterr()
        assert code == 0, f"fit refuses what was inferred: {said.err}"
        return load(next(line for line in said.out.splitlines() if line.startswith("run  ")).split(maxsplit=1)[1])

    return run


def steps_and_splits(base: dict[str, Any]) -> dict[str, Any]:
    """The same with a test split that is touched at the end: it must be there."""
    trainer = {k: v for k, v in base["trainer"].items() if k not in ("check_val_every_n_epoch", "val_check_interval")}
    return {**base, "trainer": {**trainer, "val_check_interval": 1}, "test_after_fit": True}


IMAGES: dict[str, Callable[[Path], str]] = {
    "vit": lambda tmp: folder(tmp / "new"),
    "resnet": lambda tmp: folder(tmp / "split", split=True),
    "mobile": lambda tmp: folder(tmp / "new"),
    "lenet": lambda tmp: folder(tmp / "new"),
}


def folder(root: Path, split: bool = False) -> str:
    for name, count in {"train": 12, "val": 4, "test": 4}.items() if split else (("", 14),):
        write_folder(root / name, dict.fromkeys(("dog", "elk", "fox"), count), side=20)
    return str(root)


@pytest.mark.parametrize("network", IMAGES)
def test_a_folder_of_images_trains_on_every_kind_of_image_network(
    network: str, nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    study, _ = front_door(nets[network], IMAGES[network](tmp_path))
    run = fit(steps_and_splits(study["base"]), steps=1)
    assert run.status == "finished" and "test/accuracy" in run.record["test"]
    for metric in (study["select"]["target"], study["select"]["kept"]):
        assert metric in run.metrics, f"the rule chooses by {metric}, which is not measured"
    missing = [
        m for m in study["report"] if m not in run.record["test"] and m.removeprefix("test/") not in run.record["test"]
    ]
    assert not missing, f"reported, and not measured: {missing}"


TEXTS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "labelled CSV": ("bert", lambda tmp: csv_rows(tmp / "reviews.csv")),
    "pairs in JSONL": ("encoder", lambda tmp: pairs(tmp / "nli.jsonl")),
    "regression": ("bert", lambda tmp: scores(tmp / "scores.jsonl")),
    "labels for a language model": ("llama", lambda tmp: csv_rows(tmp / "reviews.csv")),
}


@pytest.mark.parametrize("what", TEXTS)
def test_a_table_of_texts_trains(what: str, nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]) -> None:
    network, make = TEXTS[what]
    study, _ = front_door(nets[network], make(tmp_path))
    run = fit(steps_and_splits(study["base"]), steps=1)
    assert {study["select"]["target"], study["select"]["kept"]} <= run.metrics.keys()
    missing = [
        m for m in study["report"] if m not in run.record["test"] and m.removeprefix("test/") not in run.record["test"]
    ]
    assert not missing, f"reported, and not measured: {missing}"


def test_every_arm_of_the_default_study_trains_with_its_first_and_last_setting(
    nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    content, _ = front_door(nets["bert"], csv_rows(tmp_path / "reviews.csv"))
    study = make_study(content, tmp_path, "x")
    assert [a.name for a in study.arms] == ["linear_probe", "plain", "l2sp", "distill"]
    for arm in study.arms:
        for setting in arm.settings[:: len(arm.settings) - 1]:
            fit(merged(merged(study.base, arm.overlay), nested(setting, arm.name)), steps=1)


def test_instructions_train_a_language_model_and_each_arm_of_it(
    nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    data = tmp_path / "chat"
    instructions(data / "train.jsonl")
    instructions(data / "test.jsonl", 9)
    content, lines = front_door(nets["llama"], str(data), retention=str(data))
    assert content["base"]["network"]["class_path"] == "TransformersLM"
    study = make_study(content, tmp_path, "x")
    for arm in study.arms:
        run = fit(steps_and_splits(merged(study.base, arm.overlay)), steps=1)
        assert {study.select.target, study.select.kept} <= run.metrics.keys()
    assert "last_block" in "\n".join(lines)
    moved = merged(study.base, study.arm("last_block").overlay)
    run = fit(moved, steps=1)
    from safetensors.torch import load_file

    whole = load_file(f"{nets['llama']}/model.safetensors").values()
    assert run.record["parameters"]["trainable"] < sum(p.numel() for p in whole) / 2, run.record["parameters"]


# ---- what is inferred ----


def test_a_csv_is_told_apart_into_texts_and_labels_and_both_are_shown(nets: dict[str, str], tmp_path: Path) -> None:
    study, lines = front_door(nets["bert"], csv_rows(tmp_path / "reviews.csv", 400))
    init = study["base"]["data"]["init_args"]
    assert (init["text_column"], init["label_column"]) == ("review", "sentiment")
    assert study["study"] == "reviews-bert"
    shown = "\n".join(lines)
    for said in (
        "glad 200, sad 200",
        "'review'",
        "--label_column",
        "--text_column",
        "TransformersText",
        "alpha" if 0 else "lr",
    ):
        assert said in shown, f"{said} is not shown:\n{shown}"
    assert "folds" not in study


def test_few_labels_are_cross_validated_with_no_more_folds_than_the_rarest_class_has(
    nets: dict[str, str], tmp_path: Path
) -> None:
    plenty, _ = front_door(nets["bert"], csv_rows(tmp_path / "a.csv", 60))
    assert plenty["folds"] == 5
    for every in (6, 9, 15):
        rows = [{"text": t, "label": "rare" if i % every == 0 else "often"} for i, t in enumerate(texts(75))]
        few, _ = front_door(nets["bert"], write_jsonl(tmp_path / "b.jsonl", rows))
        init = {k: v for k, v in few["base"]["data"]["init_args"].items() if k != "max_length"}
        data = TextTable(**init, folds=few["folds"], fold=0)  # refused where a fold would lack a class
        data.setup()
        assert 2 <= few["folds"] <= 5


def test_small_images_are_not_blown_up_for_a_convolutional_network_on_a_cpu(
    nets: dict[str, str], tmp_path: Path
) -> None:
    study, _ = front_door(nets["resnet"], folder(tmp_path / "new"), accelerator="cpu")
    assert study["base"]["data"]["init_args"]["image_size"] == 96


def test_pairs_are_found_by_their_columns_names(nets: dict[str, str], tmp_path: Path) -> None:
    study, _ = front_door(nets["bert"], pairs(tmp_path / "nli.jsonl"))
    init = study["base"]["data"]["init_args"]
    assert (init["text_column"], init["pair_column"], init["label_column"]) == ("premise", "hypothesis", "gold_label")


def test_pairs_may_be_named_with_a_comma(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [{"left": t, "right": t[::-1], "label": i % 2} for i, t in enumerate(texts(40))]
    study, _ = front_door(nets["bert"], write_jsonl(tmp_path / "p.jsonl", rows), text_column="left,right")
    init = study["base"]["data"]["init_args"]
    assert (init["text_column"], init["pair_column"]) == ("left", "right")


def test_many_fractions_are_a_regression_and_within_is_a_hundredth_of_their_variance(
    nets: dict[str, str], tmp_path: Path
) -> None:
    study, _ = front_door(nets["bert"], scores(tmp_path / "s.jsonl", 100))
    assert study["base"]["data"]["init_args"]["task"] == "regression"
    variance = np.var([i * 0.37 % 5 for i in range(100)])
    assert study["select"]["within"] == pytest.approx(0.01 * variance, rel=0.05)
    assert study["select"]["target"] == "val/mse"


def test_the_task_may_be_said(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [{"text": t, "stars": i % 5 + 1} for i, t in enumerate(texts(50))]
    file = write_jsonl(tmp_path / "stars.jsonl", rows)
    assert front_door(nets["bert"], file)[0]["select"]["target"] == "val/accuracy"
    assert front_door(nets["bert"], file, task="regression")[0]["select"]["target"] == "val/mse"


def test_class_names_in_parquet_are_counted_by_name(nets: dict[str, str], tmp_path: Path) -> None:
    columns = {"text": texts(40), "label": [i % 2 for i in range(40)]}
    _, lines = front_door(nets["bert"], write_parquet(tmp_path / "t.parquet", columns, {"label": ["no", "yes"]}))
    assert "no 20, yes 20" in lines[0]


def test_a_label_that_is_there_as_number_and_as_word_is_no_ambiguity(nets: dict[str, str], tmp_path: Path) -> None:
    rows = [{"text": t, "topic": i % 2, "category": ("art", "sport")[i % 2]} for i, t in enumerate(texts(40))]
    study, _ = front_door(nets["bert"], write_jsonl(tmp_path / "t.jsonl", rows))
    assert study["base"]["data"]["init_args"]["label_column"] == "category"


def test_splits_of_the_datas_own_are_taken(nets: dict[str, str], tmp_path: Path) -> None:
    for split, rows in {"train": 60, "validation": 20, "test": 30}.items():
        csv_rows(tmp_path / f"{split}.csv", rows)
    study, lines = front_door(nets["bert"], str(tmp_path))
    init = study["base"]["data"]["init_args"]
    assert {"train", "val", "test"} <= init.keys() and not {"test_fraction", "val_fraction"} & init.keys()
    assert "30 test samples of its own" in "\n".join(lines)


def test_a_list_of_images_beside_it_is_read_with_its_images(nets: dict[str, str], tmp_path: Path) -> None:
    image_list(tmp_path)
    study, _ = front_door(nets["vit"], str(tmp_path))
    init = study["base"]["data"]["init_args"]
    assert (init["image_column"], init["label_column"]) == ("file_name", "species")
    from sft_lightning.data import HubImages

    init = {k: v for k, v in init.items() if k != "test_fraction"}
    data = HubImages(**init)
    data.setup()
    assert data.task_info is not None and data.task_info.labels == list(ANIMALS)
    image = data.splits["train"].samples.read(0)  # type: ignore[attr-defined]
    assert image.shape == (3, 12, 12)


def test_lists_of_images_for_training_and_testing_train(
    nets: dict[str, str], tmp_path: Path, fit: Callable[..., Any]
) -> None:
    file = Path(image_list(tmp_path))
    lines = file.read_text().splitlines()
    write_text(tmp_path / "train.csv", "\n".join(lines))
    write_text(tmp_path / "test.csv", "\n".join(lines[:10]))
    file.unlink()
    run = fit(steps_and_splits(front_door(nets["vit"], str(tmp_path))[0]["base"]), steps=1)
    assert "test/accuracy" in run.record["test"]


def test_images_held_in_parquet_are_found_without_reading_them(nets: dict[str, str], tmp_path: Path) -> None:
    table(30, 0).to_parquet(str(tmp_path / "train.parquet"))
    study, lines = front_door(nets["vit"], str(tmp_path / "train.parquet"))
    assert study["base"]["data"]["init_args"]["image_column"] == "image"
    assert "ant 10, bee 10, cat 10" in lines[0]


def test_rows_without_a_label_are_left_out_where_they_are_few_and_refused_where_they_are_not(
    nets: dict[str, str], tmp_path: Path
) -> None:
    rows = [{"text": t, "label": None if i == 3 else i % 2} for i, t in enumerate(texts(40))]
    study, lines = front_door(nets["bert"], write_jsonl(tmp_path / "one.jsonl", rows))
    assert study["base"]["data"]["init_args"]["on_bad_sample"] == "skip"
    assert any("1 rows without" in line for line in lines)
    rows = [{"text": t, "label": None if i % 3 == 0 else i % 2} for i, t in enumerate(texts(40))]
    with pytest.raises(UserError, match="line 1: column 'label' is empty, and 14 of 40"):
        front_door(nets["bert"], write_jsonl(tmp_path / "many.jsonl", rows))


def test_a_small_nets_source_data_brings_its_classes_in_the_heads_order(nets: dict[str, str], tmp_path: Path) -> None:
    new, old = folder(tmp_path / "new"), tmp_path / "old"
    write_folder(old, {"cat": 9, "bee": 9, "ant": 9})
    study, lines = front_door(nets["lenet"], new, retention=str(old))
    assert study["select"]["kept"] == "retention/accuracy"
    assert "test/retention/forgetting" in study["report"]
    assert study["base"]["retention"]["class_path"] == "ImageFolder"
    assert any(line.startswith("retention") for line in lines)
    write_folder(tmp_path / "other", {"gnu": 9, "bee": 9, "ant": 9})
    with pytest.raises(UserError, match="has a class 'gnu', which the network's own head does not know"):
        front_door(nets["lenet"], new, retention=str(tmp_path / "other"))
    write_folder(tmp_path / "two", {"ant": 9, "bee": 9})
    with pytest.raises(UserError, match="2 classes, the network's own head has 3"):
        front_door(nets["lenet"], new, retention=str(tmp_path / "two"))


def test_an_encoder_without_a_head_is_anchored_by_its_features_and_one_with_a_head_by_that(
    nets: dict[str, str], tmp_path: Path
) -> None:
    file = csv_rows(tmp_path / "r.csv")
    bare, _ = front_door(nets["encoder"], file)
    assert bare["arms"]["distill"]["set"]["model"]["init_args"]["on"] == "features"
    assert bare["select"]["kept"] == "drift/features_cka"
    assert bare["base"]["network"]["init_args"]["pooling"] == "mean"
    headed, _ = front_door(nets["bert"], file)
    assert headed["arms"]["distill"]["set"]["model"]["init_args"]["on"] == "source_logits"
    assert headed["select"]["kept"] == "retention/agreement"


def test_texts_are_cut_where_nineteen_of_twenty_end_by_the_networks_own_tokenizer(
    nets: dict[str, str], tmp_path: Path
) -> None:
    rows = [{"text": f"one two {i}", "label": i % 2} for i in range(100)]
    rows[7]["text"] = "one two three " * 50
    study, lines = front_door(nets["bert"], write_jsonl(tmp_path / "t.jsonl", rows))
    assert study["base"]["data"]["init_args"]["max_length"] == 16
    assert "16 tokens at most" in "\n".join(lines)


def test_batchnorm_statistics_stay_where_there_are_some(nets: dict[str, str], tmp_path: Path) -> None:
    data = folder(tmp_path / "new")
    for network, has in (("resnet", True), ("vit", False)):
        model = front_door(nets[network], data)[0]["base"]["model"]["init_args"]
        assert model.get("freeze_batchnorm_stats", False) is has


def test_every_study_is_one_that_a_study_file_could_say(nets: dict[str, str], tmp_path: Path) -> None:
    content, _ = front_door(nets["lenet"], folder(tmp_path / "new"))
    again = yaml.safe_load(yaml.safe_dump(content))
    study = make_study(again, tmp_path, "x")
    assert again == content and len(study.seeds) == 10 and study.baseline == "plain"


# ---- the test split that is cut ----


def test_a_table_without_test_file_has_one_cut_off_that_neither_seed_nor_training_touches(tmp_path: Path) -> None:
    file = csv_rows(tmp_path / "r.csv", 100)
    rows = []
    for seed in (0, 1):
        data = TextTable(
            train=file, text_column="review", label_column="sentiment", test_fraction=0.2, subset_seed=seed
        )
        data.setup()
        parts = {name: set(split.rows.tolist()) for name, split in data.splits.items()}
        assert not (parts["train"] | parts["val"]) & parts["test"], "the test split is trained or validated on"
        assert len(parts["test"]) == 20 and sum(map(len, parts.values())) == 100
        assert np.bincount(data.splits["test"].targets).tolist() == [10, 10]  # type: ignore[arg-type]
        rows.append(parts["test"])
    assert rows[0] == rows[1]


def test_images_to_train_on_without_test_folder_have_one_cut_off_if_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"ant": 10, "bee": 10})
    without, cut = ImageFolder(str(tmp_path)), ImageFolder(str(tmp_path), test_fraction=0.2)
    without.setup()
    cut.setup()
    assert "test" not in without.splits
    assert {n: len(s) for n, s in cut.splits.items()} == {"train": 14, "val": 2, "test": 4}


# ---- what cannot be told ----


def several(tmp: Path) -> str:
    rows = [{"text": t, "topic": "ab"[i % 2], "intent": "cde"[i % 3]} for i, t in enumerate(texts(30))]
    return write_jsonl(tmp / "t.jsonl", rows)


def two_texts(tmp: Path) -> str:
    rows = [{"left": t, "right": t[::-1], "label": i % 2} for i, t in enumerate(texts(30))]
    return write_jsonl(tmp / "t.jsonl", rows)


def two_files(tmp: Path) -> str:
    csv_rows(tmp / "a.csv")
    csv_rows(tmp / "b.csv")
    return str(tmp)


def damaged_image(tmp: Path) -> str:
    folder(tmp / "f")
    (tmp / "f" / "dog" / "0.png").write_bytes(b"no image")
    return str(tmp / "f")


def one_folder(tmp: Path) -> str:
    write_folder(tmp / "f", {"dog": 5})
    return str(tmp / "f")


def loose_images(tmp: Path) -> str:
    write_folder(tmp, {"dog": 5})
    return str(tmp / "dog")


def image_missing(tmp: Path) -> str:
    file = image_list(tmp)
    (tmp / "pictures" / "3.png").unlink()
    return file


def no_train(tmp: Path) -> str:
    write_folder(tmp / "f" / "test", {"ant": 3, "bee": 3})
    return str(tmp / "f")


def nothing_in(tmp: Path) -> str:
    (tmp / "empty").mkdir()
    return str(tmp / "empty")


BAD_DATA: dict[str, tuple[str, Callable[[Path], str], str]] = {
    "two labels": ("bert", several, "'topic' and 'intent' could each be the labels: set --label_column"),
    "two texts": ("bert", two_texts, "'left' and 'right' could each be the texts: set --text_column"),
    "no label": (
        *("bert", lambda tmp: write_jsonl(tmp / "t.jsonl", [{"text": t, "id": i} for i, t in enumerate(texts(30))])),
        r"no column that looks like labels \(columns: text, id\): set --label_column",
    ),
    "one class": ("bert", lambda tmp: csv_rows(tmp / "t.csv", kinds=("sad",)), r"'sentiment' has 1 class \('sad'\)"),
    "no text": (
        *("bert", lambda tmp: write_text(tmp / "t.csv", "a,label\n" + "\n".join(f"{i},{i % 2}" for i in range(30)))),
        "no column of texts",
    ),
    "empty file": ("bert", lambda tmp: write_text(tmp / "t.csv", ""), "has no rows"),
    "header alone": ("bert", lambda tmp: write_text(tmp / "t.csv", "text,label\n"), "has no rows"),
    "not UTF-8": ("bert", lambda tmp: not_utf8(tmp), "is not UTF-8"),
    "damaged parquet": ("bert", lambda tmp: write_text(tmp / "t.parquet", "no"), "damaged or no parquet"),
    "another format": ("bert", lambda tmp: write_text(tmp / "t.docx", "no"), "is none of .csv"),
    "nothing there": ("bert", lambda tmp: str(tmp / "nothing.csv"), "no such file or folder"),
    "two files": ("bert", two_files, r"has 2 tables \(a.csv, b.csv\), none called train"),
    "empty folder": ("bert", nothing_in, "has neither a table"),
    "images for text": ("bert", lambda tmp: folder(tmp / "f"), "is a folder of images, and the network .* takes texts"),
    "texts for images": ("vit", lambda tmp: csv_rows(tmp / "t.csv"), "has no column of images"),
    "instructions for an encoder": ("bert", lambda tmp: instructions(tmp / "t.jsonl"), "holds instructions"),
    "one folder": ("vit", one_folder, r"its folders has 1 class \('dog'\)"),
    "loose images": ("vit", loose_images, "no folder for each class"),
    "damaged image": ("vit", damaged_image, "0.png is no image, or a damaged one"),
    "missing image": ("vit", image_missing, r"line 5: image 'pictures/3.png' is not in"),
    "no train": ("vit", no_train, "has test, and no train"),
    "names, not classes": (
        *(
            "bert",
            lambda tmp: write_jsonl(tmp / "t.jsonl", [{"text": t, "label": f"n{i}"} for i, t in enumerate(texts(30))]),
        ),
        "set --label_column",
    ),
}


def not_utf8(tmp: Path) -> str:
    (tmp / "t.csv").write_bytes("text,label\nschön,1\n".encode("latin-1"))
    return str(tmp / "t.csv")


@pytest.mark.parametrize("what", BAD_DATA)
def test_data_that_cannot_be_told_is_asked_about_in_one_line(what: str, nets: dict[str, str], tmp_path: Path) -> None:
    network, make, said = BAD_DATA[what]
    with pytest.raises(UserError) as error:
        front_door(nets[network], make(tmp_path))
    assert re.search(said, str(error.value)), str(error.value)
    assert str(error.value).startswith("--") and "\n" not in str(error.value)


@pytest.mark.parametrize("flag", ["label_column", "text_column", "image_column"])
def test_a_column_that_is_not_there_is_named_with_the_nearest(flag: str, nets: dict[str, str], tmp_path: Path) -> None:
    network, file = ("vit", image_list(tmp_path)) if flag == "image_column" else ("bert", csv_rows(tmp_path / "r.csv"))
    near = {"label_column": "sentiments", "text_column": "reviews", "image_column": "filename"}[flag]
    with pytest.raises(UserError, match=f"--{flag}: .* has no column '{near}'; did you mean"):
        front_door(nets[network], file, **{flag: near})  # type: ignore[arg-type]


def test_an_unknown_task_is_refused(nets: dict[str, str]) -> None:
    with pytest.raises(UserError, match="--task: 'tagging' is none of"):
        front_door(nets["bert"], "x.csv", task="tagging")


def test_too_few_samples_are_said_to_be_too_few(nets: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="8 samples are too few"):
        front_door(nets["bert"], csv_rows(tmp_path / "r.csv", 8))


BAD_NETWORKS = {
    "./nothing": "--network: ./nothing does not exist",
    "builtin:digit": "did you mean 'builtin:digits-0-4'",
    "timm:resnet81": "timm has no model 'resnet81'; did you mean",
    "torchvision:resnet81": "torchvision has no classification model 'resnet81'; did you mean",
    "some-one/no-such-model": "no such folder here, and the hub cannot be reached",
    "resnet18": "no such folder here, and the hub cannot be reached",
    "torchvision:resnet18": "its weights cannot be fetched",
}


@pytest.mark.parametrize("name", BAD_NETWORKS)
def test_a_network_that_cannot_be_had_is_said_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(UserError) as error:
        front_door(name, "anything.csv")
    assert BAD_NETWORKS[name] in str(error.value), str(error.value)


def test_a_folder_and_a_file_that_say_too_little_are_said_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="no weights"):
        front_door(str(tmp_path), "x.csv")
    torch.save({"w": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="does not say its architecture: give ARCHITECTURE="):
        front_door(str(tmp_path / "w.pth"), "x.csv")


# ---- length of a run ----


@pytest.mark.parametrize("family", RECIPES)
@pytest.mark.parametrize("samples", [10, 40, 100, 333, 1000, 5000, 20_000, 300_000])
def test_a_run_is_neither_short_nor_endless_and_validates_about_ten_times(family: str, samples: int) -> None:
    recipe = RECIPES[family]
    run = length(recipe, samples, gpu=False)
    assert run.steps <= recipe.most_steps
    assert run.steps >= min(recipe.steps, -(-samples // run.batch_size) * recipe.epochs[1]) * 0.6
    assert run.validations <= 14
    if run.steps >= 100:
        assert run.validations >= 5


def test_all_arms_that_move_the_network_choose_among_the_same_learning_rates() -> None:
    for recipe in RECIPES.values():
        made = arms(recipe, 5, None)
        assert {tuple(made[a]["tune"]["model.lr"]) for a in ("plain", "l2sp", "distill")} == {recipe.lr}


# ---- the budget ----


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("90m", 5400), ("2h30m", 9000), ("3600s", 3600), ("1.5h", 5400), ("1h 5m", 3900), ("1d", 86400)],
)
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "1x", "-1h", "0s", "1h2h", "1h-30m", "soon"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--budget"):
        parse_budget(text)


def test_as_many_seeds_as_the_budget_allows_but_never_fewer_than_three() -> None:
    assert seeds_for(3600, 600, 1)[0] == 6
    assert seeds_for(3600, 600, 2)[0] == 12
    assert seeds_for(3600, 600, 1, fixed_s=1800)[0] == 3
    assert seeds_for(3600, 10, 2)[0] == 20
    few, why = seeds_for(600, 600, 1)
    assert few == 3 and "fewer than 3 show no spread" in why and "30 min" in why
