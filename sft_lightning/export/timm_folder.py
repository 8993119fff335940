"""Exports folders of timm, which `timm.create_model("local-dir:…")` loads."""

import json
from pathlib import Path
from typing import Any

from sft_lightning.export.folder_files import add_adapter, add_source_head
from sft_lightning.export.formats import SOURCE, Format
from sft_lightning.export.snippets import READ, source_head_in
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.base import Network
from sft_lightning.networks.image_view import ImageView
from sft_lightning.networks.weights import OURS


class TimmFolder(Format):
    """config.json with timm's own entries, and model.safetensors with timm's own names, classifier included."""

    name = "timm"

    def why_not(self, network: Network) -> str:
        if network.library != "timm":
            return f"{network.name} is not a network of timm"
        model: Any = network
        from sft_lightning.networks.timm_models import classifier_name

        if classifier_name(model.build()) is None:
            return f"the classifier of {model.model_name} is not one linear layer"
        return ""

    def write(self, tuned: Tuned, folder: Path, heads: tuple[str, ...], adapters: bool) -> None:
        from timm.models import save_for_hf

        from sft_lightning.networks.timm_models import classifier_name

        network: Any = tuned.network
        model = network.build()
        model.reset_classifier(network.task.num_outputs)
        if network.image_size is not None and network.cfg.get("fixed_input_size"):
            model.set_input_size((network.image_size, network.image_size))
        layer = classifier_name(model)
        assert layer is not None
        state = dict(network.encoder.state_dict())
        state |= {f"{layer}.{name}": value for name, value in network.head.state_dict().items()}
        model.load_state_dict(state)
        labels = network.task.labels
        save_for_hf(
            model.eval(),
            str(folder),
            model_config={"label_names": list(labels)} if labels else {},
            safe_serialization=True,
            data_config=data_config(network),
        )
        add_ours(network, folder)
        if SOURCE in heads:
            add_source_head(tuned, folder, layer)
        if adapters:
            add_adapter(tuned, folder)

    def usage(self, tuned: Tuned, heads: tuple[str, ...]) -> str:
        return f"```python\n{SNIPPET}```\n" + (source_head_in() if SOURCE in heads else "")


def add_ours(network: Network, folder: Path) -> None:
    """Adds our own entry to config.json, as other formats have it: timm reads past it."""
    path = folder / "config.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    content[OURS] = network.about()
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def data_config(network: Network) -> dict[str, Any]:
    """Timm's entries for the view and normalisation with which the network was measured."""
    view, spec = network.input_view, network.input_spec
    size = view.shape[1:] if view.shape is not None else view.size
    config: dict[str, Any] = {"mean": view.mean, "std": view.std, "crop_pct": 1.0, "crop_mode": "center"}
    config["interpolation"] = "bilinear"
    if size is not None:
        config["input_size"] = (3, *size)
    if view.view is not None and isinstance(spec.view, ImageView):
        resize, config["interpolation"] = spec.view.resize, spec.view.resample
        squash = not isinstance(resize, int)
        grown = resize if isinstance(resize, int) else resize[0]
        config |= {"crop_pct": spec.view.crop[0] / grown, "crop_mode": "squash" if squash else "center"}
    return config


SNIPPET = """import numpy as np
import timm
import torch
from PIL import Image, ImageOps

model = timm.create_model("local-dir:.", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


"""
SNIPPET += READ
SNIPPET += """def predict(image):
    with torch.no_grad():
        logits = model(transform(read(image, "RGB"))[None])[0]
    return logits.tolist()
"""
