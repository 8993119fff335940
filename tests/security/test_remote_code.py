"""Python code that comes with a model or with data: run where `trust_remote_code` asks for it, and never else."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.security.conftest import VIT, Command, Trap, bert, check_refused, config, in_hub, network, prompts, texts

MODELS = {
    "TransformersText": ("BertConfig", "AutoModelForSequenceClassification", "BertForSequenceClassification"),
    "TransformersLM": ("GPT2Config", "AutoModelForCausalLM", "GPT2LMHeadModel"),
    "TransformersImage": ("ViTConfig", "AutoModelForImageClassification", "ViTForImageClassification"),
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers copies such code into a folder of modules: not the user's own."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def with_code(folder: Path, kind: str, trap: Trap) -> Path:
    """A model whose class is defined in its own folder."""
    from tests.networks.tiny import tiny_folder

    settings, auto, model = MODELS[kind]
    if kind == "TransformersImage":
        from transformers import AutoConfig, ViTForImageClassification

        plain = {k: v for k, v in VIT.items() if k not in ("model_type", "architectures")}
        ViTForImageClassification(AutoConfig.for_model("vit", **plain)).save_pretrained(folder)
    else:
        tiny_folder(folder, *(("bert", "sequence") if kind == "TransformersText" else ("gpt2", "lm")))
    about = json.loads((folder / "config.json").read_text())
    about |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", auto: "own.OwnModel"}}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "own.py").write_text(
        f"from transformers import {settings}, {model}\n\n{trap.source}\n\n\n"
        f"class OwnConfig({settings}):\n    model_type = 'own'\n\n\n"
        f"class OwnModel({model}):\n    config_class = OwnConfig\n"
    )
    return folder


def data_for(kind: str, tmp_path: Path) -> dict[str, Any] | None:
    return {"TransformersText": texts, "TransformersLM": prompts}.get(kind, lambda _: None)(tmp_path)


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_with_code_of_its_own_is_refused(kind: str, command: Command, tmp_path: Path, trap: Trap) -> None:
    folder = with_code(tmp_path / "model", kind, trap)
    done = command(
        "fit", *config(tmp_path, network(kind, pretrained=str(folder)), data_for(kind, tmp_path)), "--wandb", "disabled"
    )
    assert not trap.sprung, "the model's code was run unasked"
    check_refused(done, "network.init_args.pretrained", folder, "trust_remote_code")


@pytest.mark.parametrize("kind", MODELS)
def test_it_is_run_where_that_is_asked_for_by_name(kind: str, command: Command, tmp_path: Path, trap: Trap) -> None:
    folder = with_code(tmp_path / "model", kind, trap)
    arguments = config(
        tmp_path, network(kind, pretrained=str(folder), trust_remote_code=True), data_for(kind, tmp_path)
    )
    done = command("fit", *arguments, "--wandb", "disabled")
    assert done.code == 0, done.err
    assert trap.sprung, "the model's code was not run although it was asked for"
    assert done.run.config["network"]["init_args"]["trust_remote_code"] is True, "config.yaml does not say so"


def test_a_model_from_the_hub_with_code_is_refused(command: Command, tmp_path: Path, trap: Trap, hub: Path) -> None:
    with_code(in_hub(hub, "org/own"), "TransformersImage", trap)
    done = command("fit", *config(tmp_path, network("TransformersImage", pretrained="org/own")), "--wandb", "disabled")
    assert not trap.sprung, "code from the hub was run unasked"
    check_refused(done, "network.init_args.pretrained", "org/own", "trust_remote_code")


def test_a_config_alone_cannot_bring_code(command: Command, tmp_path: Path, trap: Trap) -> None:
    folder = with_code(tmp_path / "model", "TransformersImage", trap)
    done = command("fit", *config(tmp_path, network("TransformersImage", config=str(folder))), "--wandb", "disabled")
    assert not trap.sprung, "a config's code was run unasked"
    check_refused(done, "network.init_args.config", "trust_remote_code")


def test_a_tokenizer_cannot_bring_code(command: Command, tmp_path: Path, trap: Trap) -> None:
    folder = bert(tmp_path / "bert")
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "own.py").write_text(f"{trap.source}\nfrom transformers import BertTokenizerFast as OwnTokenizer\n")
    arguments = config(tmp_path, network("TransformersText", pretrained=str(folder)), texts(tmp_path))
    done = command("fit", *arguments, "--wandb", "disabled")
    assert not trap.sprung, "a tokenizer's code was run unasked"
    if done.code:
        check_refused(done, "network.tokenizer", "trust_remote_code")


def test_code_is_left_alone_where_transformers_knows_the_model(command: Command, tmp_path: Path, trap: Trap) -> None:
    folder = with_code(tmp_path / "model", "TransformersText", trap)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"model_type": "bert"}))
    arguments = config(tmp_path, network("TransformersText", pretrained=str(folder)), texts(tmp_path))
    done = command("fit", *arguments, "--wandb", "disabled")
    assert done.code == 0, done.err
    assert not trap.sprung, "the folder's code was run although transformers has that model"


@pytest.mark.parametrize("data", ["TextTable", "Instructions", "HubImages"])
def test_code_that_comes_with_data_is_never_run(data: str, command: Command, tmp_path: Path, trap: Trap) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(
        f"import datasets\n{trap.source}\n\n\nclass Own(datasets.GeneratorBasedBuilder):\n    VERSION = '1.0.0'\n"
    )
    net = {"TextTable": "LSTM", "Instructions": "TransformersLM", "HubImages": "LeNet"}[data]
    arguments = config(tmp_path, network(net), {"class_path": data, "init_args": {"path": str(folder)}})
    done = command("fit", *arguments, "--wandb", "disabled")
    assert not trap.sprung, "a data set's script was run"
    check_refused(done, "data.init_args.path" if data == "HubImages" else "data", folder)
