"""Decides which parameters and which normalisation statistics are frozen."""

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
    """Full names of what `all-but-head` freezes: all encoder parameters that `pretrained` filled, or all if from scratch."""
    added = network.added_parameters()
    return [n for n in network.encoder_parameters() if n not in added]


def frozen_names(network: Network, freeze: Freeze) -> list[str]:
    """Full names of the parameters that `freeze` freezes. Regular expressions may match anywhere in a name.

    `all-but-head` and `bottom_layers` do not freeze new layers inside a pretrained encoder, because these are random.
    """
    if freeze is None:
        return []
    if isinstance(freeze, Mapping):
        if set(freeze) != {"bottom_layers"}:
            raise UserError(
                "model.freeze",
                f"must have the one key bottom_layers, got {', '.join(map(str, freeze)) or 'no key'}",
                "give {bottom_layers: n}",
            )
        freeze = freeze["bottom_layers"]
        if isinstance(freeze, int) and not isinstance(freeze, bool):
            layers = network.layers()
            if not 0 <= freeze <= len(layers):
                raise UserError(
                    "model.freeze", f"bottom_layers must be from 0 to {len(layers)}, the network's layers, got {freeze}"
                )
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
            raise UserError("model.freeze", f"'{pattern}' is not a regular expression: {error}", "correct it") from None
        if not found:
            raise UserError(
                "model.freeze",
                f"'{pattern}' matches no parameter (the first is {names[0]}, the last {names[-1]})",
                "use other expressions",
            )
        chosen += found
    return list(dict.fromkeys(chosen))


def apply_freeze(trainable: TrainableSet, freeze: Freeze) -> list[str]:
    """Forbids training the parameters that `freeze` freezes; returns their names."""
    network, names = trainable.network, frozen_names(trainable.network, freeze)
    if network.adapters and names and not trainable.allowed & set(names):
        raise UserError(
            "model.freeze",
            f"{freeze} has no effect, because network.init_args.transforms freezes the pretrained weights",
            "leave freeze out",
        )
    trainable.forbid(names)
    if not trainable.allowed:
        raise UserError("model.freeze", f"{freeze} leaves nothing to train", "freeze less")
    if network.adapters and not any(adapter.trained for adapter in network.adapters):
        raise UserError(
            "model.freeze",
            f"{freeze} freezes all adapters, so network.init_args.transforms would have no effect",
            "leave one of the two out",
        )
    return sorted(names)


def evaluate_frozen(network: Network) -> None:
    """Sets frozen modules to evaluation mode if all pretrained layers of the encoder are frozen: features come without dropout,
    while new layers above them train.
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
    """BatchNorm layers whose running statistics are frozen: all, or those whose own weights are frozen.

    A layer without weights is frozen with the pretrained encoder, unless `pretrained` did not fill its statistics.
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
    """Number of BatchNorm layers whose running statistics change with every batch, in a module in train mode."""
    norms = (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return sum(m.training and m.track_running_stats for m in norms)
