"""What networks share in building: a new head, and dropout."""

from torch import nn

from sft_lightning.core.errors import UserError


def set_dropout(module: nn.Module, probability: float | None) -> None:
    """Sets every dropout layer's probability; None leaves them as they are."""
    if probability is None:
        return
    if not 0.0 <= probability < 1.0:
        raise UserError("network.dropout", f"must be in [0, 1), got {probability}")
    for m in module.modules():
        if isinstance(m, nn.modules.dropout._DropoutNd):
            m.p = probability
        for name in ("dropout", "activation_dropout", "attention_dropout", "dropout_prob", "dropout_rate"):
            if isinstance(getattr(m, name, None), float):
                setattr(m, name, probability)


def fresh_linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A new head: weights N(0, 0.02²), bias 0, as is usual for transformers; small logits at the start."""
    linear = nn.Linear(in_features, out_features, bias=bias)
    nn.init.normal_(linear.weight, std=0.02)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear
