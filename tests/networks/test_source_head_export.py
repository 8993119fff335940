"""The kept source head leaves with the exported model, and a second tuning can be held to it."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sft_lightning.cli.main import main
from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks import (
    MLP,
    Network,
    Timm,
    Torchvision,
    TransformersImage,
    TransformersText,
    build_network,
    spec,
)
from sft_lightning.runs import load
from tests.networks.tiny import SENTENCES, tiny_folder
from tests.refused import refused
from tests.support import pretrained_mlp

TWO, FOUR = TaskInfo("classification", 2, ["no", "yes"]), TaskInfo("classification", 4)


def images(network: Network) -> dict[str, torch.Tensor]:
    size = network.input_spec.size or (8, 8)
    return {"image": torch.rand(3, network.input_spec.channels or 1, *size, generator=torch.Generator().manual_seed(0))}


def texts(network: Any) -> dict[str, torch.Tensor]:
    batch = network.tokenizer(SENTENCES[:3], padding=True, return_tensors="pt")
    return {n: batch[n] for n in ("input_ids", "attention_mask")}


def started(kind: str, folder: Path, pretrained: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The spec of a pretrained network with a source head, and the arguments that an export of it needs."""
    if kind == "MLP":
        return pretrained_mlp(pretrained), {
            k: v for k, v in pretrained_mlp(None)["init_args"].items() if k != "pretrained"
        }
    if kind in ("Timm", "Torchvision"):
        cls = {"Timm": Timm, "Torchvision": Torchvision}[kind]
        name: dict[str, Any] = {"name": "resnet10t" if kind == "Timm" else "mnasnet0_5", "image_size": 32}
        build_network(spec(cls, **name), TaskInfo("classification", 3, ["a", "b", "c"])).save_pretrained(str(folder))
        return spec(cls, **name, pretrained=str(folder)), name
    if kind == "TransformersImage":
        config = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config |= {"intermediate_size": 16, "image_size": 8, "patch_size": 4}
        made = build_network(spec(TransformersImage, config=config), TaskInfo("classification", 3, ["a", "b", "c"]))
        made.save_pretrained(str(folder))
        return spec(TransformersImage, pretrained=str(folder)), {}
    return spec(TransformersText, pretrained=tiny_folder(folder, "bert", "sequence")), {}


@pytest.mark.parametrize("kind", ["MLP", "Timm", "Torchvision", "TransformersImage", "TransformersText"])
@torch.no_grad()
def test_the_source_head_comes_back_with_its_labels_and_task(kind: str, tmp_path: Path, pretrained: str) -> None:
    network_spec, arguments = started(kind, tmp_path / "old", pretrained)
    first = build_network(network_spec, TWO).eval()
    assert first.source_head is not None and first.source_labels
    torch.nn.init.normal_(next(first.source_head.parameters()))  # as if it had been trained since
    first.save_pretrained(str(tmp_path / "new"))
    inputs = texts if kind == "TransformersText" else images
    expected = first(inputs(first))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kept, default = (
            build_network(spec(type(first), **arguments, pretrained=str(tmp_path / "new"), keep_source_head=keep), FOUR)
            for keep in ("source", True)
        )
    kept, default = kept.eval(), default.eval()
    torch.testing.assert_close(kept(inputs(kept)).source_logits, expected.source_logits, rtol=0, atol=0)
    assert kept.source_labels == first.source_labels and kept.source_task == first.source_task
    assert not any(p.requires_grad for p in kept.source_head.parameters())  # type: ignore[union-attr]
    torch.testing.assert_close(default(inputs(default)).source_logits, expected.logits, rtol=1e-6, atol=1e-6)
    assert default.source_labels == ["no", "yes"]
    assert kept.report.missing == kept.report.unexpected == [], "the export does not load clean"


@torch.no_grad()
def test_transformers_and_timm_load_the_folder_as_if_the_source_head_were_not_there(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    network = TransformersText(TWO, pretrained=tiny_folder(tmp_path / "old", "bert", "sequence")).eval()
    network.save_pretrained(str(tmp_path / "new"))
    model, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "new", output_loading_info=True)
    assert not any(info.values()), f"transformers reports {info}"
    assert model.config.id2label == {0: "no", 1: "yes"}
    torch.testing.assert_close(model.eval()(**texts(network)).logits, network(texts(network)).logits)
    assert "source_head.weight" not in load_file(tmp_path / "new" / "model.safetensors")
    assert (tmp_path / "new" / "source_head.safetensors").is_file()
    assert json.loads((tmp_path / "new" / "source_head.json").read_text())["labels"] == ["old0", "old1", "old2"]


def test_a_second_tuning_starts_with_what_the_first_kept_to_the_digit(tmp_path: Path) -> None:
    """fit, export, fit with `keep_source_head: source`: retention before is the first run's at best.ckpt."""
    root = ["--runs_dir", str(tmp_path), "--trainer.max_epochs", "4", "--trainer.check_val_every_n_epoch", "2"]
    start = [
        "fit",
        "--config",
        "experiments/digits/distill.yaml",
        "--test_after_fit",
        "false",
        "--wandb",
        "disabled",
        *root,
    ]
    lwf = ["--model.init_args.distance", "kl", "--model.init_args.train_source_head", "true"]
    assert main([*start, "--run_id", "first", *lwf]) == 0
    first = tmp_path / "digits-distill" / "first"
    again = ["--network.init_args.pretrained", str(first), "--network.init_args.keep_source_head"]
    assert main([*start, "--run_id", "second", *again, "source"]) == 0
    one, two = load(first), load(tmp_path / "digits-distill" / "second")
    assert two.metric("retention/accuracy", "before") == one.metric("retention/accuracy", "selected")
    loss = one.metric("retention/loss", "selected")  # which Lightning logs in single precision
    assert two.metric("retention/loss", "before") == pytest.approx(loss, rel=1e-6)
    assert one.metric("retention/loss", "selected") != one.metric("retention/loss", "before"), "nothing was trained"


@pytest.mark.parametrize("spoil", ["no export", "null", "no weights", "damaged", "another shape", "unknown word"])
def test_a_source_head_that_cannot_be_kept_is_refused_in_one_line(spoil: str, tmp_path: Path, pretrained: str) -> None:
    build_network(pretrained_mlp(pretrained), TWO).save_pretrained(str(tmp_path))
    folder: str | None = str(tmp_path)
    keep, values = "source", [str(tmp_path)]
    if spoil == "no export":
        folder, values = pretrained, [pretrained, "source_head.safetensors", "use true"]
    elif spoil == "null":
        folder, values = None, ["null", "source_head.safetensors", "use true"]
    elif spoil == "no weights":
        (tmp_path / "source_head.safetensors").unlink()
        values += ["source_head.safetensors", "use true"]
    elif spoil == "damaged":
        (tmp_path / "source_head.json").write_text('{"labels": ["a"], "task": "poetry", "num_outputs": 5}')
        values += ["source_head.json", "'poetry'"]
    elif spoil == "another shape":
        (tmp_path / "source_head.json").write_text('{"labels": [], "task": "classification", "num_outputs": 6}')
        values += ["source_head.safetensors", "[5, 16]", "[6, 16]"]
    else:
        keep, values = "both", ["'both'", "true", "false", "source"]
    with refused("network.keep_source_head", *values) as error:
        build_network(pretrained_mlp(folder, keep_source_head=keep), FOUR)
    assert "\n" not in str(error.value)


def test_an_export_without_a_source_head_has_no_files_of_one(tmp_path: Path, pretrained: str) -> None:
    MLP(TWO, in_features=64, hidden=[24, 16], pretrained=pretrained, keep_source_head=False).save_pretrained(
        str(tmp_path)
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
