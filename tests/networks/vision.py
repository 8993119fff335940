"""What the tests of image networks share: a task, some images, and the claims that hold for each network."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sft_lightning.core.structures import InputView, TaskInfo
from sft_lightning.networks import Network

TASK = TaskInfo("classification", 3, ["ant", "bee", "cat"])
NEXT = TaskInfo("classification", 2, ["yes", "no"])


def images(side: int = 64, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def out(network: Network, x: Tensor) -> Any:
    return network.eval()({"image": x})


@torch.no_grad()
def logits(model: Any, x: Tensor) -> Tensor:
    answer = model.eval()(x)
    found: Tensor = getattr(answer, "logits", answer)
    return found


def shaken(model: Any, seed: int = 0) -> Any:
    """Norms' statistics and parameters away from 0 and 1, so that a tensor left out would show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.rand(tensor.shape, generator=generator) * 0.1
                tensor.add_(noise if "var" in name else noise - 0.05)
    return model


def check_layers(network: Network) -> None:
    """Each encoder parameter is in one layer."""
    names = [n for _, layer in network.layers() for n in layer]
    assert sorted(names) == sorted(network.encoder_parameters())
    titles = [title for title, _ in network.layers()]
    assert all(title.startswith("encoder") for title in titles)


def check_round_trip(network: Network, again: Any, folder: Path, x: Tensor) -> Network:
    """What `again(task, folder)` loads from an export says with its source head what the network said with its head."""
    size = (int(x.shape[-2]), int(x.shape[-1]))
    network.settle(InputView(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), size=size))
    network.save_pretrained(str(folder))
    loaded: Network = again(NEXT, str(folder))
    assert loaded.source_labels == network.task.labels
    assert not loaded.report.missing and not loaded.report.unexpected and not loaded.fresh
    spec = loaded.input_spec
    assert (spec.mean, spec.std, spec.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), size)
    said = out(loaded, x)
    assert torch.equal(said.source_logits, out(network, x).logits)
    assert said.logits.shape == (len(x), 2)
    return loaded


def pickled_code() -> Any:
    """An object whose unpickling would run code."""
    return _Code()


class _Code:
    def __reduce__(self) -> Any:
        return print, ("this must never be run",)


def tiny_detr(**values: Any) -> dict[str, Any]:
    """A random DETR of one layer with five queries, on a ResNet of two stages."""
    stages = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    parts = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in SIZES.items()}
    return {
        "model_type": "detr",
        "backbone_config": {"model_type": "resnet", **stages, "out_features": ["stage2"]},
        "d_model": 16,
        "num_queries": 5,
        "dropout": 0.0,
        **parts,
        **values,
    }


SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 24}


def tiny_yolos(**values: Any) -> dict[str, Any]:
    """A random YOLOS of one layer with five queries, for images of 64×64 pixels."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    image = {"image_size": [64, 64], "patch_size": 16, "num_detection_tokens": 5, "use_mid_position_embeddings": False}
    return {"model_type": "yolos", **sizes, **image, **values}
