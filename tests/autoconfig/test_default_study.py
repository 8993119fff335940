"""From a network and some data to a default study: what is inferred, and what of it is shown."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sft_lightning.ablation.study import make_study
from sft_lightning.autoconfig.default_study import front_door
from sft_lightning.data import ImageFolder, TextTable
from tests.autoconfig.files import ANIMALS, csv_rows, folder, image_list, pairs, scores
from tests.data.text_files import texts, write_jsonl, write_parquet
from tests.data.vision_files import table, write_folder
from tests.networks.tiny import tiny_folder
from tests.refused import refused


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
        "lr",
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
    assert any("1 row without" in line for line in lines)
    rows = [{"text": t, "label": None if i % 3 == 0 else i % 2} for i, t in enumerate(texts(40))]
    with refused("--data", "many.jsonl line 1: ", "'label'", "14 of 40"):
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
    with refused("--retention", tmp_path / "other", "'gnu'"):
        front_door(nets["lenet"], new, retention=str(tmp_path / "other"))
    write_folder(tmp_path / "two", {"ant": 9, "bee": 9})
    with refused("--retention", tmp_path / "two", "2", "3"):
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


@pytest.mark.parametrize(
    ("settings", "kept", "distance"),
    [
        ({"labels": 1}, "drift/source_mse", "mse"),
        ({"labels": 3, "problem_type": "regression"}, "drift/source_mse", "mse"),
        ({"labels": 3, "problem_type": "multi_label_classification"}, "retention/agreement", "kl"),
    ],
    ids=["a reranker", "a regression of three values", "labels"],
)
def test_settings_are_not_chosen_by_a_gauge_that_the_source_head_does_not_have(
    settings: dict[str, Any], kept: str, distance: str, tmp_path: Path
) -> None:
    """Agreement and KL of values would be constants, and every setting as good as another."""
    net = tiny_folder(tmp_path / "net", "bert", "sequence", **settings)
    study, lines = front_door(net, csv_rows(tmp_path / "r.csv"))
    assert study["select"]["kept"] == kept
    assert study["arms"]["distill"]["set"]["model"]["init_args"]["distance"] == distance
    assert ("test/drift/kl" in study["report"]) == (kept == "retention/agreement")
    assert f"best {kept} within" in "\n".join(lines)


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
