"""What is gathered together, and what cannot be in parts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn

from sft_lightning.core.structures import TaskInfo
from sft_lightning.modules import L2SPSFT, DistillSFT, PlainSFT
from sft_lightning.networks import MLP, FasterRCNN, Timm, Torchvision, TransformersLM, TransformersText, spec
from sft_lightning.sharding.split import blocks, shard
from sft_lightning.sharding.strategy import FSDP2, check_strategy
from sft_lightning.sharding.tensors import gathered, is_sharded, local, over_ranks, part_of, whole
from tests.networks.tiny import tiny_folder
from tests.refused import refused
from tests.support import HIDDEN, Scaled, digits, fit, moved, pretrained_mlp, quiet_trainer, weights

TASK = TaskInfo("classification", 3, ["a", "b", "c"])


def names_of_blocks(network: nn.Module) -> list[str]:
    chosen = {id(b) for b in blocks(network)}
    return [name for name, module in network.named_modules() if id(module) in chosen]


@pytest.mark.parametrize("kind", ["bert", "llama", "gpt2"])
def test_the_blocks_of_a_transformer_are_its_layers(kind: str, tmp_path: Path) -> None:
    head = "sequence" if kind == "bert" else "lm"
    folder = tiny_folder(tmp_path, kind, head)
    task = TASK if kind == "bert" else TaskInfo("causal_lm", 0, [])
    network = (TransformersText if kind == "bert" else TransformersLM)(task, pretrained=folder)
    found = names_of_blocks(network)
    assert [n.rpartition(".")[2] for n in found] == ["0", "1"], found
    assert all(n.startswith("encoder.") for n in found), found


def test_the_blocks_of_image_networks_are_the_outermost_that_are_composed() -> None:
    found = names_of_blocks(Torchvision(TASK, "resnet18"))
    assert found == [f"encoder.layer{n}.{m}" for n in (1, 2, 3, 4) for m in (0, 1)]
    found = names_of_blocks(Timm(TASK, "test_vit"))
    assert found and all(n.startswith("encoder.blocks.") for n in found), found


def test_single_layers_are_gathered_with_the_whole_network() -> None:
    assert names_of_blocks(MLP(TASK, 64, [8, 8])) == []


def test_a_single_number_among_the_parameters_is_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2))
    network.scale = nn.Parameter(torch.tensor(1.0))
    with refused("trainer.strategy", "fsdp2", "scale", "ddp"):
        shard(network, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_strategies_whose_parameters_anchors_do_not_know_are_refused(strategy: Any) -> None:
    made = strategy.__new__(strategy)  # two of them need a GPU, or a package, to be made
    with refused("trainer.strategy", strategy.__name__, "fsdp2", "ddp"):
        check_strategy(made)
    check_strategy(FSDP2())
    check_strategy(None)


@pytest.fixture
def alone() -> Iterator[None]:
    """What a group of one process leaves behind is taken away: the group, Lightning's variables, its number of threads."""
    before, threads = dict(os.environ), torch.get_num_threads()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("settings", "plugins", "told"),
    [
        ({"compile": True}, [], ("model.compile", "trainer.strategy", "fsdp2")),
        ({}, [Scaled()], ("trainer.precision", "16-mixed", "fsdp2", "bf16-mixed")),
        ({"optimizer": "Adafactor"}, [], ("model.optimizer", "Adafactor", "fsdp2", "AdamW")),
    ],
)
def test_what_cannot_be_in_parts_is_refused(
    settings: Any, plugins: Any, told: tuple[str, ...], pretrained: str
) -> None:
    module = DistillSFT(pretrained_mlp(pretrained), **settings)
    with refused(*told):
        quiet_trainer(strategy="fsdp2", devices=1, plugins=plugins).fit(module, digits())


class BetweenPasses(MLP):
    """A network whose layers are also called outside of its passes, as those of Faster R-CNN are."""

    works_in_parts = False


@pytest.mark.usefixtures("alone")
def test_a_network_that_looks_at_its_layers_between_passes_is_refused() -> None:
    module = PlainSFT(spec(BetweenPasses, in_features=64, hidden=HIDDEN))
    with refused("trainer.strategy", "fsdp2", "BetweenPasses", "ddp"):
        quiet_trainer(strategy="fsdp2", devices=1).fit(module, digits())
    assert not FasterRCNN.works_in_parts


@pytest.mark.usefixtures("alone")
def test_one_process_holds_all_parts_and_trains_as_ever(pretrained: str) -> None:
    """A network that was built before the trainer came, too."""
    trained = []
    for strategy, early in (("auto", False), ("fsdp2", False), ("fsdp2", True)):
        module = L2SPSFT(pretrained_mlp(pretrained), alpha=0.1)
        data = digits(shots_per_class=8)
        if early:
            data.setup()
            module = L2SPSFT(pretrained_mlp(pretrained), alpha=0.1, task=data.task_info.to_dict())
            torch.manual_seed(0)
            module.configure_model()
            module.penalty_value()  # which parameters it is of is not to be remembered
        fit(module, data, strategy=strategy, devices=1, max_epochs=2, precision="64-true")
        assert all(is_sharded(p) == (strategy == "fsdp2") for p in module.network.parameters())
        trained.append(weights(module))
    for found in trained[1:]:
        assert moved(found, trained[0]) < 1e-9


def test_ordinary_tensors_are_all_that_a_rank_holds() -> None:
    tensor = torch.arange(3.0, requires_grad=True)
    assert not is_sharded(tensor)
    assert local(tensor) is tensor and whole(tensor) is tensor and part_of(tensor, tensor) is tensor
    assert over_ranks(tensor, [tensor]) is tensor
    copy = gathered(tensor)
    assert torch.equal(copy, tensor) and copy is not tensor and not copy.requires_grad
