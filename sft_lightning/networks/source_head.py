"""Loads the source head that an export kept, so that a second tuning can be anchored to the same source task.

`source_head.safetensors` holds the layer (`weight`, `bias`), `source_head.json` its labels and its task. They are separate
files, so that transformers and timm load the folder without noticing them.
"""

from torch import nn

from sft_lightning.core.errors import UserError
from sft_lightning.networks.base import Network
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
    about = read_about(folder / ABOUT)
    state = read_state_dict(folder / WEIGHTS)
    weight = state.get("weight")
    assert isinstance(network.head, nn.Linear)
    features, outputs = network.head.in_features, int(about["num_outputs"])
    if weight is None or tuple(weight.shape) != (outputs, features):
        shape = "no weight" if weight is None else f"weights {list(weight.shape)}"
        raise UserError(
            "network.keep_source_head",
            f"{folder / WEIGHTS} has {shape} instead of [{outputs}, {features}], so it belongs to another network's "
            "features",
            "use true, or export again",
        )
    if network.fresh:
        raise UserError(
            "network.keep_source_head",
            f"{pretrained} does not fill the whole encoder, and the outputs of a source head on random features are "
            "meaningless",
            "use false",
        )
    head = nn.Linear(features, outputs, bias="bias" in state)
    head.load_state_dict(state)
    network.keep_source_head(head, list(about["labels"]), about["task"])
