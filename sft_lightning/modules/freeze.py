"""Which parameters do not move, and which normalisation statistics stand still."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from sft_lightning.core.errors import UserError
from sft_lightning.modules.trainable import TrainableSet
from sft_lightning.networks.base import Network

Freeze = str | list[str] | dict[str, Any] | None
"""'all-but-head', a list of regular expressions on parameter names, or {'bottom_layers': n}."""


def kept_names(network: Network) -> list[str]:
    """Full names of what `all-but-head` freezes: all that `pretrained` filled but a head, or an encoder from scratch."""
    added = network.added_parameters()
    return [n for n in network.encoder_parameters() if n not in added]


def frozen_names(network: Network, freeze: Freeze) -> list[str]:
    """Full names of the parameters that `freeze` stops. Regular expressions are searched, not anchored.

    `all-but-head` and `bottom_layers` spare new layers inside a pretrained encoder: nothing is kept by freezing random weights.
    """
    if freeze is None:
        return []
    if isinstance(freeze, Mapping):
        if set(freeze) != {"bottom_layers"}:
            raise UserError(
                "model.freeze", f"the only key is bottom_layers, got {', '.join(map(str, freeze)) or 'none'}"
            )
        freeze = freeze["bottom_layers"]
        if isinstance(freeze, int) and not isinstance(freeze, bool):
            layers = network.layers()
            if not 0 <= freeze <= len(layers):
                raise UserError("model.freeze", f"bottom_layers {freeze}, but the network has {len(layers)} layers")
            kept = set(kept_names(network))
            return [n for _, names in layers[:freeze] for n in names if n in kept]
    if freeze == "all-but-head":
        return kept_names(network)
    if isinstance(freeze, str):
        raise UserError(
            "model.freeze",
            f"'{freeze}' is not known",
            "use all-but-head, bottom_layers, or a list of regular expressions",
        )
    if not isinstance(freeze, (list, tuple)):
        raise UserError(
            "model.freeze",
            f"{freeze!r} is not known",
            "use all-but-head, bottom_layers, or a list of regular expressions",
        )
    names = [n for n, _ in network.named_parameters() if not n.startswith("source_head.")]
    chosen: list[str] = []
    for pattern in freeze:
        try:
            found = [n for n in names if re.search(str(pattern), n)]
        except re.error as error:
            raise UserError("model.freeze", f"'{pattern}' is not a regular expression: {error}") from None
        if not found:
            raise UserError(
                "model.freeze", f"'{pattern}' matches no parameter (the first is {names[0]}, the last {names[-1]})"
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def apply_freeze(trainable: TrainableSet, freeze: Freeze) -> list[str]:
    """Takes what `freeze` names out of what may be trained; returns the names."""
    network, names = trainable.network, frozen_names(trainable.network, freeze)
    if network.adapters and names and not trainable.allowed & set(names):
        raise UserError(
            "model.freeze",
            f"{freeze} names nothing that moves, because network.init_args.transforms freezes what is pretrained",
            "leave freeze out",
        )
    trainable.forbid(names)
    if not trainable.allowed:
        raise UserError("model.freeze", "nothing is left to train")
    if network.adapters and not any(adapter.trained for adapter in network.adapters):
        raise UserError(
            "model.freeze",
            f"{freeze} freezes all adapters, so network.init_args.transforms would have no effect",
            "leave one of the two out",
        )
    return sorted(names)


def evaluate_frozen(network: Network) -> None:
    """Evaluation mode for what does not move, where no pretrained layer of the encoder does: its features are as they are,
    without dropout, while new layers above them train.
    """
    kept, named = set(kept_names(network)), network.encoder_parameters()
    moving = {id(p) for p in named.values() if p.requires_grad}
    if any(id(named[n]) in moving for n in kept):
        return
    if not moving:
        network.encoder.eval()
        return
    new = {n.rpartition(".")[0] for n in network.fresh}
    for name, module in network.encoder.named_modules():
        parameters = list(module.parameters())
        bare_norm = not parameters and isinstance(module, nn.modules.batchnorm._BatchNorm) and name not in new
        if bare_norm or (parameters and not any(id(p) in moving for p in parameters)):
            module.eval()


def still_batchnorms(network: Network, all_of_them: bool) -> list[nn.Module]:
    """BatchNorm layers whose running statistics must not move: all, or those whose own weights are frozen.

    A layer without weights stands still with the pretrained encoder, unless `pretrained` did not fill its statistics.
    """
    norms = {n: m for n, m in network.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    if all_of_them:
        return list(norms.values())
    named = network.encoder_parameters()
    adapters = network.adapter_parameters()
    encoder_stands = not any(named[n].requires_grad for n in kept_names(network) if n not in adapters)
    new = {f"encoder.{n}".rpartition(".")[0] for n in network.fresh}
    still: list[nn.Module] = []
    for name, norm in norms.items():
        own = list(norm.parameters(recurse=False))
        if not any(p.requires_grad for p in own) if own else encoder_stands and name not in new:
            still.append(norm)
    return still


def moving_batchnorms(module: nn.Module) -> int:
    """BatchNorm layers whose running statistics move with every batch, of a module in train mode."""
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return sum(m.training and m.track_running_stats for m in norms)
