"""Exports plain safetensors with our own config, for any network."""

import shutil
from pathlib import Path

from sft_lightning.export.folder_files import ADAPTER, add_adapter
from sft_lightning.export.formats import SOURCE, Format
from sft_lightning.export.own_folder import own_module
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.base import Network
from sft_lightning.networks.source_head_file import ABOUT, WEIGHTS


class SafetensorsFolder(Format):
    """model.safetensors and config.json as in a run's `model/`; `sft_lightning.export.load_export` loads both heads."""

    name = "safetensors"

    def why_not(self, network: Network) -> str:
        return ""

    def write(self, tuned: Tuned, folder: Path, heads: tuple[str, ...], adapters: bool) -> None:
        tuned.network.save_pretrained(str(folder))
        if SOURCE not in heads:
            for name in (ABOUT, WEIGHTS):
                (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
        if adapters:
            add_adapter(tuned, folder)

    def usage(self, tuned: Tuned, heads: tuple[str, ...]) -> str:
        source = "`output.source_logits` are those of the source head, whose labels are `network.source_labels`.\n"
        kind = tuned.network.input_spec.kind
        snippet = SNIPPET + (IMAGES if kind == "image" else TEXTS if kind == "text" else "")
        module = own_module(tuned.network)
        needs = f"The network's class is in the module `{module[0]}`, which must be importable.\n\n" if module else ""
        more = (
            needs
            + "`network(inputs)` takes what `network.input_spec` describes, and its `logits` are the new head's.\n"
        )
        return f"```python\n{snippet}```\n\n{more}" + (source if SOURCE in heads else "")


SNIPPET = """import torch
from sft_lightning.export import load_export

network = load_export(".")
"""
TEXTS = """

def predict(text, pair=None):
    made = network.tokenizer([text], *([[pair]] if pair else []), truncation=True, max_length=network.max_length)
    ids = torch.tensor(made["input_ids"])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "token_type_ids" in made:
        inputs["token_type_ids"] = torch.tensor(made["token_type_ids"])
    output = network(inputs)
    return output.logits[0].tolist()
"""
IMAGES = """

def predict(pixels):  # uint8 [C, H, W] of the network's size
    seen = network.input_view
    mean, std = (torch.tensor(values)[:, None, None] for values in (seen.mean or [0.0], seen.std or [1.0]))
    image = (pixels.flip(0) if seen.reverse_channels else pixels) / 255
    output = network({"image": ((image - mean) / std)[None]})
    return output.logits[0].tolist()
"""
