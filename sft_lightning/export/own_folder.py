"""Loads a whole network, with its heads, from a folder that a run or an export wrote."""

import sys
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputView, TaskInfo
from sft_lightning.export.library_folder import described, settle_alone
from sft_lightning.networks.base import NETWORKS, Network
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.source_head_file import WEIGHTS
from sft_lightning.networks.weights import resolve


def own_module(network: Network) -> tuple[str, Path] | None:
    """The user's module that has a network's class, and the folder to import it from; None for networks of this package."""
    top = type(network).__module__.partition(".")[0]
    file = getattr(sys.modules.get(top), "__file__", None)
    if top == "sft_lightning" or file is None:
        return None
    place = Path(file).resolve().parent
    return top, place.parent if hasattr(sys.modules[top], "__path__") else place


def load_export(folder: str | Path, **more: Any) -> Network:
    """Loads a network in evaluation mode: encoder, new head, and the source head if the folder has one.

    `network.init_args.pretrained` reads the same folder for another task, and starts a new head.

    Args:
        folder: A run's `model/`, an export in our own, transformers' or timm's format, or a folder of these libraries.
        more: Arguments of the network beside those in the folder, such as max_new_tokens.

    Raises:
        UserError: The folder is damaged, or holds no network of this package.
    """
    source = resolve(str(folder))
    ours = source.ours or described(source)
    if not ours.get("network") or not ours.get("task"):
        raise UserError(folder, "has no network of sft_lightning", "choose a run's model/ or an export")
    cls, task = NETWORKS.load(str(ours["network"]), Network), TaskInfo.of(ours["task"])
    arguments: dict[str, Any] = {**(ours.get("init_args") or {}), **more, "pretrained": str(folder)}
    network = cls(task, **arguments)
    network.input_view = InputView.of(ours.get("input"))
    if not network.shares_outputs:
        kept = network.source_head
        if kept is None or type(kept) is not type(network.head):
            raise UserError(folder, f"has no output layer that {network.name} can load", "export the run again")
        network.head.load_state_dict(kept.state_dict())
        network.source_head, network.source_task, network.source_labels = None, None, []
        if source.folder is not None and (source.folder / WEIGHTS).is_file():
            take_source_head(network, str(folder), "source")
    network.pretrained = None
    if not source.ours:
        settle_alone(network)
    return network.requires_grad_(False).eval()
