"""The kept source head beside an exported model: what is kept leaves with it, and a second tuning can be held to it.

`source_head.safetensors` holds the layer (`weight`, `bias`), `source_head.json` its labels and its task. Both are files of
their own, so that transformers and timm load the folder as if they were not there.
"""

from torch import nn

from sft_lightning.core.errors import UserError
from sft_lightning.networks.base import Network
from sft_lightning.networks.source_head_file import ABOUT, WEIGHTS, read_about
from sft_lightning.networks.weights import read_state_dict, resolve


def take_source_head(network: Network, pretrained: str | None, keep: bool | str) -> None:
    """With `keep_source_head: source`, replaces the source head by the one that came with an export; else does nothing.

    Raises UserError where `pretrained` has none, or where it does not fit the network's features.
    """
    if keep != "source":
        if isinstance(keep, str):
            raise UserError("network.keep_source_head", f"'{keep}' is none of true, false, source")
        return
    folder = resolve(pretrained).folder if pretrained is not None else None
    if folder is None or not (folder / WEIGHTS).is_file():
        raise UserError(
            "network.keep_source_head",
            f"source needs an export that holds a kept source head ({WEIGHTS}), and pretrained "
            f"{'is null' if pretrained is None else f'{pretrained} has none'}",
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
            f"{folder / WEIGHTS} has {shape} where [{outputs}, {features}] is needed: its features are another "
            "network's",
        )
    if network.fresh:
        raise UserError(
            "network.keep_source_head",
            f"source: {pretrained} does not fill the whole encoder, and a source head on random features says nothing",
            "use false",
        )
    head = nn.Linear(features, outputs, bias="bias" in state)
    head.load_state_dict(state)
    network.keep_source_head(head, list(about["labels"]), about["task"])
