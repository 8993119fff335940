"""Pickled code in a file of weights, a checkpoint or data: refused in one line, wherever it is offered, and never run."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.security.conftest import VIT, Command, Trap, bert, check_refused, config, in_hub, network, prompts, texts

Offer = Callable[[Path, Trap], list[Any]]
MLP = {"in_features": 64, "hidden": [8]}


def plainly(path: Path, trap: Trap) -> Path:
    path.write_bytes(pickle.dumps({"weight": trap.pickled()}))
    return path


def zipped(path: Path, trap: Trap) -> Path:
    """In torch's own format, beside tensors."""
    torch.save({"state_dict": {"encoder.1.weight": torch.zeros(8, 64)}, "more": trap.pickled()}, path)
    return path


def test_the_planted_code_runs_where_it_is_unpickled_carelessly(tmp_path: Path, trap: Trap) -> None:
    pickle.loads(plainly(tmp_path / "weights.pth", trap).read_bytes())
    assert trap.sprung, "the trap does not work, so the other tests prove nothing"
    trap.path.unlink()
    torch.load(zipped(tmp_path / "weights.pth", trap), weights_only=False)
    assert trap.sprung, "the trap does not work in torch's format"


def folder_of_transformers(tmp: Path, trap: Trap) -> list[Any]:
    folder = bert(tmp / "bert")
    (folder / "model.safetensors").unlink()
    zipped(folder / "pytorch_model.bin", trap)
    return config(tmp, network("TransformersText", pretrained=str(folder)), texts(tmp))


def in_shards(tmp: Path, trap: Trap) -> list[Any]:
    folder = bert(tmp / "bert")
    (folder / "model.safetensors").unlink()
    plainly(folder / "pytorch_model-00001-of-00001.bin", trap)
    index = {"metadata": {}, "weight_map": {"classifier.weight": "pytorch_model-00001-of-00001.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return config(tmp, network("TransformersText", pretrained=str(folder), pooling="mean"), texts(tmp))


def file_for_transformers(tmp: Path, trap: Trap) -> list[Any]:
    path = str(zipped(tmp / "vit.bin", trap))
    return config(tmp, network("TransformersImage", pretrained=path, config=VIT))


def language_model(tmp: Path, trap: Trap) -> list[Any]:
    from tests.networks.tiny import tiny_folder

    folder = Path(tiny_folder(tmp / "gpt2", "gpt2", "lm"))
    (folder / "model.safetensors").unlink()
    plainly(folder / "pytorch_model.bin", trap)
    return config(tmp, network("TransformersLM", pretrained=str(folder)), prompts(tmp))


def called_gguf(tmp: Path, trap: Trap) -> list[Any]:
    path = str(plainly(tmp / "model.gguf", trap))
    return config(tmp, network("TransformersLM", pretrained=path), prompts(tmp))


def timm_folder(tmp: Path, trap: Trap) -> list[Any]:
    (tmp / "timm").mkdir()
    (tmp / "timm/config.json").write_text(json.dumps({"architecture": "test_resnet"}))
    zipped(tmp / "timm/pytorch_model.bin", trap)
    return config(tmp, network("Timm", name="test_resnet", pretrained=str(tmp / "timm")))


def a_runs_model(tmp: Path, trap: Trap) -> list[Any]:
    folder = bert(tmp / "run/model")
    (tmp / "run/run.json").write_text("{}")
    (folder / "model.safetensors").unlink()
    zipped(folder / "pytorch_model.bin", trap)
    return config(tmp, network("TransformersText", pretrained=str(tmp / "run")), texts(tmp))


def words_of_an_lstm(tmp: Path, trap: Trap) -> list[Any]:
    return config(tmp, network("LSTM", pretrained=str(plainly(tmp / "words.pt", trap))), texts(tmp))


OFFERS: dict[str, Offer] = {
    **{
        f"a {suffix} file": lambda tmp, trap, suffix=suffix: config(  # type: ignore[misc]
            tmp, network("MLP", **MLP, pretrained=str(zipped(tmp / f"net{suffix}", trap)))
        )
        for suffix in (".pt", ".bin", ".ckpt")
    },
    "a transformers folder": folder_of_transformers,
    "a transformers folder in shards": in_shards,
    "a file for a transformers network": file_for_transformers,
    "the folder of a language model": language_model,
    "a file that calls itself gguf": called_gguf,
    "a timm folder": timm_folder,
    "a file for timm": lambda tmp, trap: config(
        tmp, network("Timm", name="test_resnet", pretrained=str(plainly(tmp / "net.pth", trap)))
    ),
    "a file for torchvision": lambda tmp, trap: config(
        tmp, network("Torchvision", name="resnet18", pretrained=str(zipped(tmp / "net.pth", trap)))
    ),
    "a run's exported model": a_runs_model,
    "a file for an LSTM": words_of_an_lstm,
}


@pytest.mark.parametrize("offer", OFFERS)
def test_pickled_code_is_refused_as_pretrained_in(offer: str, command: Command, tmp_path: Path, trap: Trap) -> None:
    done = command("fit", *OFFERS[offer](tmp_path, trap), "--wandb", "disabled")
    assert not trap.sprung, f"the code in {offer} was run"
    check_refused(done, "network.init_args.pretrained", *([] if "gguf" in offer else [".safetensors"]))
    assert not list(done.runs.rglob("*.json")), "a half-written run was left"


@pytest.mark.parametrize("name", ["org/evil", "timm/test_resnet.r160_in1k"])
def test_pickled_code_is_refused_in_what_comes_from_the_hub(
    name: str, command: Command, tmp_path: Path, trap: Trap, hub: Path
) -> None:
    folder = in_hub(hub, name)
    if name.startswith("timm/"):
        from timm.models import get_pretrained_cfg

        about = {"architecture": "test_resnet", "pretrained_cfg": get_pretrained_cfg("test_resnet").to_dict()}
        (folder / "config.json").write_text(json.dumps(about))
        arguments = config(tmp_path, network("Timm", name="test_resnet", pretrained=name))
    else:
        (folder / "config.json").write_text(json.dumps(VIT))
        arguments = config(tmp_path, network("TransformersImage", pretrained=name))
    zipped(folder / "pytorch_model.bin", trap)
    done = command("fit", *arguments, "--wandb", "disabled")
    assert not trap.sprung, "the code that came from the hub was run"
    check_refused(done, "network.init_args.pretrained", name, ".safetensors")


def test_pickled_code_is_refused_in_torchs_cache(
    command: Command, tmp_path: Path, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision fetches its weights into it, and reads what lies there without a look at its checksum."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    zipped(tmp_path / "torch/hub/checkpoints/resnet18-f37072fd.pth", trap)
    arguments = config(tmp_path, network("Torchvision", name="resnet18", pretrained="DEFAULT"))
    done = command("fit", *arguments, "--wandb", "disabled")
    assert not trap.sprung, "the code in torch's cache was run"
    check_refused(done, "network.init_args.pretrained", "resnet18-f37072fd.pth")


@pytest.mark.parametrize("forced", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
def test_no_variable_of_torchs_opens_the_door(
    forced: str, command: Command, tmp_path: Path, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(forced, "1")
    done = command("fit", *timm_folder(tmp_path, trap), "--wandb", "disabled")
    assert not trap.sprung, f"{forced} let the code run"
    check_refused(done, "network.init_args.pretrained", tmp_path / "timm", ".safetensors")


@pytest.mark.parametrize("place", ["evil/net.pth", "evil.inner/net.pth"])
def test_a_package_with_weights_is_neither_imported_nor_unpickled(
    place: str, command: Command, tmp_path: Path, trap: Trap, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site/evil"
    (package / "inner").mkdir(parents=True)
    for folder in (package, package / "inner"):
        (folder / "__init__.py").write_text(trap.source)
        plainly(folder / "net.pth", trap)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    done = command(
        "fit", *config(tmp_path, network("MLP", **MLP, pretrained=f"package:{place}")), "--wandb", "disabled"
    )
    assert not trap.sprung, "the package was imported, or its file unpickled"
    check_refused(done, "network.init_args.pretrained", place)


@pytest.fixture
def run(command: Command, tmp_path: Path) -> Path:
    """A finished run."""
    done = command("fit", *config(tmp_path, network("MLP", **MLP)), "--wandb", "disabled")
    assert done.code == 0, done.err
    return done.run.path


@pytest.mark.parametrize("way", ["--resume", "--run", "--ckpt_path", "--ckpt_path and --weights_only false"])
def test_pickled_code_is_refused_in_checkpoints(
    way: str, command: Command, tmp_path: Path, trap: Trap, run: Path
) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        (run / "checkpoints" / name).unlink()
        zipped(run / "checkpoints" / name, trap)
    before = {p: p.read_bytes() for p in (run / "run.json", run / "config.yaml")}
    if way == "--resume":
        done = command("fit", "--resume", run, "--trainer.max_epochs", 2)
    elif way == "--run":
        done = command("test", "--run", run)
    else:
        more = ["--weights_only", "false"] if "weights_only" in way else []
        arguments = config(tmp_path, network("MLP", **MLP))
        done = command("fit", *arguments, "--ckpt_path", run / "checkpoints/best.ckpt", "--wandb", "disabled", *more)
    assert not trap.sprung, f"the code in the checkpoint was run by {way}"
    if "weights_only" in way:
        check_refused(done, "weights_only", "true")
    else:
        check_refused(done, "ckpt_path", run / "checkpoints", "exec")
    assert before == {p: p.read_bytes() for p in before}, "the run was written to"


def test_pickled_code_is_refused_in_cifars_files(command: Command, tmp_path: Path, trap: Trap) -> None:
    """They are pickles by their format: torchvision compares their checksums before it reads them."""
    folder = tmp_path / "data/cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"):
        plainly(folder / name, trap)
    plainly(folder / "batches.meta", trap)
    data = {"class_path": "CIFAR10", "init_args": {"root": str(tmp_path / "data"), "download": False}}
    done = command("fit", *config(tmp_path, network("LeNet"), data), "--wandb", "disabled")
    assert not trap.sprung, "the code in the data was run"
    check_refused(done, "data", tmp_path / "data", "CIFAR10")


def test_pickled_code_is_refused_in_mnists_old_files(command: Command, tmp_path: Path, trap: Trap) -> None:
    folder = tmp_path / "data/MNIST/processed"
    folder.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        zipped(folder / name, trap)
    data = {"class_path": "MNIST", "init_args": {"root": str(tmp_path / "data"), "download": False}}
    done = command("fit", *config(tmp_path, network("MLP"), data), "--wandb", "disabled")
    assert not trap.sprung, "the code in the data was run"
    check_refused(done, "data", tmp_path / "data", "MNIST")


def test_an_index_of_safetensors_cannot_lead_to_a_pickle(command: Command, tmp_path: Path, trap: Trap) -> None:
    folder = bert(tmp_path / "bert")
    zipped(tmp_path / "elsewhere.bin", trap)
    shutil.move(folder / "model.safetensors", tmp_path / "kept")
    index = {"metadata": {}, "weight_map": {"classifier.weight": "../elsewhere.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    arguments = config(tmp_path, network("TransformersText", pretrained=str(folder)), texts(tmp_path))
    done = command("fit", *arguments, "--wandb", "disabled")
    assert not trap.sprung, "the code behind the index was run"
    check_refused(done, "network.init_args.pretrained", folder)
