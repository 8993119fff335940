"""Loads the source head that an export kept, so that a second tuning can be anchored to the same source task.

`source_head.safetensors` holds the layer (`weight`, `bias`; of a detector its last layers), `source_head.json` its labels
and its task. They are separate
files, so that transformers and timm load the folder without noticing them.
"""

from pathlib import Path

from torch import nn

from sft_lightning.core.errors import UserError
from sft_lightning.networks.base import Network
from sft_lightning.networks.detector import Detector
from sft_lightning.networks.source_head_file import ABOUT, WEIGHTS, read_about
from sft_lightning.networks.weights import read_state_dict, resolve


def take_source_head(network: Network, pretrained: str | None, keep: bool | str) -> None:
    """With `keep_source_head: source`, replaces the source head by the one in an export; otherwise does nothing.

    Raises UserError if `pretrained` has no source head, or if that does not fit the network's features.
    """
    if keep != "source":
        if isinstance(keep, str):
            raise UserError("network.keep_source_head", f"must be true, false or source, got '{keep}'")
        return
    folder = resolve(pretrained).folder if pretrained is not None else None
    if folder is None or not (folder / WEIGHTS).is_file():
        raise UserError(
            "network.keep_source_head",
            f"source needs an export with a kept source head ({WEIGHTS}), and "
            + ("pretrained is null" if pretrained is None else f"{pretrained} has none"),
            "use true",
        )
    if network.fresh:
        raise UserError(
            "network.keep_source_head",
            f"{pretrained} does not fill the whole encoder, and the outputs of a source head on random features are "
            "meaningless",
            "use false",
        )
    about = read_about(folder / ABOUT)
    head, labels = source_head_of(network, folder, int(about["num_outputs"])), list(about["labels"])
    if isinstance(network, Detector):
        network.exchange_source_head(head, labels)
    else:
        network.keep_source_head(head, labels, about["task"])


def source_head_of(network: Network, folder: Path, outputs: int) -> nn.Module:
    """The layers in an export's file, if they fit the network's features."""
    state = read_state_dict(folder / WEIGHTS)
    if isinstance(network, Detector):
        head: nn.Module = network.head_of(outputs)
    else:
        assert isinstance(network.head, nn.Linear)
        head = nn.Linear(network.head.in_features, outputs, bias="bias" in state)
    wanted = head.state_dict()
    if state.keys() != wanted.keys() or any(state[n].shape != wanted[n].shape for n in wanted):
        differ = (n for n in wanted if n not in state or state[n].shape != wanted[n].shape)
        name = next(differ, next(iter(state.keys() - wanted.keys()), ""))
        there, expected = (f"{list(of[name].shape)}" if name in of else "nothing" for of in (state, wanted))
        raise UserError(
            "network.keep_source_head",
            f"{folder / WEIGHTS} has {name} {there} instead of {expected}, so it belongs to another network's features",
            "use true, or export again",
        )
    head.load_state_dict(state)
    return head
