"""The networks as the peers have them: plain torch, timm and transformers. Each is called as `model(**batch)`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.bench.workload import Prepared, Workload


class ImageModel(nn.Module):
    """Classifies images. Returns loss and logits, as transformers.Trainer asks for them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class TextModel(nn.Module):
    """Classifies texts by the mean of their tokens' vectors."""

    def __init__(self, encoder: nn.Module, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.config.hidden_size, classes)  # type: ignore[union-attr, arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[:, :, None].to(hidden.dtype)
        logits = self.head((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def lite0() -> nn.Module:
    import timm

    return timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=10)


def build(workload: Workload, prepared: Prepared) -> nn.Module:
    """The network with the initial weights, in training mode."""
    if workload.kind == "images":
        model: nn.Module = ImageModel({"mlp": mlp, "lenet": lenet, "fixed": lenet, "lite0": lite0}[workload.name]())
    elif workload.kind == "text":
        from transformers import AutoModel

        off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "add_pooling_layer": False}
        model = TextModel(AutoModel.from_pretrained(prepared.folder, dtype=torch.float32, **off), prepared.classes)
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(prepared.folder, dtype=torch.float32)
    if prepared.weights is not None:
        fill(tensors_of(model), prepared.weights)
    return model.train()


def tensors_of(*modules: nn.Module) -> list[Tensor]:
    """Parameters, then buffers of floating-point numbers, which are the statistics of batch norms."""
    parameters: list[Tensor] = [p for m in modules for p in m.parameters()]
    return parameters + [b for m in modules for b in m.buffers() if b.is_floating_point() and b.numel() > 1]


def fill(tensors: list[Tensor], values: list[Tensor]) -> None:
    """Copies values in; shapes must agree one by one."""
    if [t.shape for t in tensors] != [v.shape for v in values]:
        raise RuntimeError("the arm's network has other tensors than the reference")
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def probe_of(model: nn.Module, batch: dict[str, Any]) -> Any:
    """A function that returns the loss on the batch."""

    def probe() -> float:
        device = next(model.parameters()).device
        return float(model(**{k: v.to(device) for k, v in batch.items()})["loss"])

    return probe
