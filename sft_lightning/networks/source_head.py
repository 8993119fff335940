"""The kept source head beside an exported model: what is kept leaves with it, and a second tuning can be held to it.

`source_head.safetensors` holds the layer (`weight`, `bias`), `source_head.json` its labels and its task. Both are files of
their own, so that transformers and timm load the folder as if they were not there.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import nn

from sft_lightning.core.errors import UserError
from sft_lightning.networks.weights import read_state_dict, resolve
from sft_lightning.tasks import TASKS

if TYPE_CHECKING:
    from sft_lightning.networks.base import Network

WEIGHTS, ABOUT = "source_head.safetensors", "source_head.json"


def save_source_head(network: "Network", folder: str) -> None:
    """Writes the kept source head into an export folder, as it is now; nothing where there is none."""
    head, info = network.source_head, network.source_task
    if not isinstance(head, nn.Linear) or info is None:
        return
    state = {n: v.detach().cpu().contiguous() for n, v in head.state_dict().items()}
    save_file(state, Path(folder) / WEIGHTS, metadata={"format": "pt"})
    about = {"task": info.name, "num_outputs": info.num_outputs, "labels": network.source_labels}
    (Path(folder) / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def take_source_head(network: "Network", pretrained: str | None, keep: bool | str) -> None:
    """With `keep_source_head: source`, replaces the source head by the one that came with an export; else does nothing.

    Raises UserError where `pretrained` has none, or where it does not fit the network's features.
    """
    if keep != "source":
        if isinstance(keep, str):
            raise UserError(f"keep_source_head: '{keep}' is none of true, false, source")
        return
    folder = resolve(pretrained).folder if pretrained is not None else None
    if folder is None or not (folder / WEIGHTS).is_file():
        raise UserError(
            f"keep_source_head: source needs an export that holds a kept source head ({WEIGHTS}), and pretrained "
            f"{'is null' if pretrained is None else f'{pretrained} has none'}: use true"
        )
    about = read_about(folder / ABOUT)
    state = read_state_dict(folder / WEIGHTS)
    weight = state.get("weight")
    assert isinstance(network.head, nn.Linear)
    features, outputs = network.head.in_features, int(about["num_outputs"])
    if weight is None or tuple(weight.shape) != (outputs, features):
        shape = "no weight" if weight is None else f"weights {list(weight.shape)}"
        raise UserError(
            f"keep_source_head: {folder / WEIGHTS} has {shape} where [{outputs}, {features}] is needed: its features are "
            "another network's"
        )
    if network.fresh:
        raise UserError(
            f"keep_source_head: source: {pretrained} does not fill the whole encoder, and a source head on random features "
            "says nothing: use false"
        )
    head = nn.Linear(features, outputs, bias="bias" in state)
    head.load_state_dict(state)
    network.keep_source_head(head, list(about["labels"]), about["task"])


def read_about(path: Path) -> dict[str, Any]:
    """`task`, `num_outputs` and `labels` of a kept source head."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        labels, task, outputs = about["labels"], about["task"], about["num_outputs"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"keep_source_head: {path} cannot be read: {error}") from None
    fine = isinstance(labels, list) and all(isinstance(n, str) for n in labels) and len(labels) in (0, outputs)
    if not (fine and isinstance(outputs, int) and task in TASKS):
        raise UserError(
            f"keep_source_head: {path} is damaged: task {task!r}, num_outputs {outputs!r}, labels {labels!r:.80}"
        )
    return {"labels": labels, "task": task, "num_outputs": outputs}
