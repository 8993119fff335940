"""Exports ONNX graphs for onnxruntime: dynamic batch and length, and preprocessing in the graph's metadata."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.export.folder_files import limit_length
from sft_lightning.export.formats import SOURCE, Format
from sft_lightning.export.onnx_snippets import IN_GRAPH, PROCESSED_IN_GRAPH, PROCESSOR, SNIPPETS, SOUND
from sft_lightning.export.pixel_graph import PixelGraph
from sft_lightning.export.snippets import NONE
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.audio_extractor import MASK
from sft_lightning.networks.base import Network
from sft_lightning.networks.processor_view import ProcessorView
from sft_lightning.tasks.answer_scores import may_be_none

OPSET = 20
KINDS = ("image", "masks", "text", "words", "choices", "questions", "audio")
IMAGES = ("image", "masks")
FILE = "model.onnx"
OWN = "sft_lightning"
"""The entry of the graph's metadata by which this package serves the graph"""


class Graph(nn.Module):
    """A network as a function of tensors alone. Choices and windows are rows: `[R, T]`, not `[B, K, T]`.

    Args:
        network: The network.
        names: Names of its inputs, in order.
        source: Whether the source head's outputs are given too.
    """

    def __init__(self, network: Network, names: list[str], source: bool) -> None:
        super().__init__()
        # The tracer makes a sub-class of each module's class, which must not be registered as another network.
        self._network, self.names, self.source = [network], names, source
        self.encoder, self.head, self.source_head = network.encoder, network.head, network.source_head

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """`logits`, and `source_logits` if asked for."""
        features = self.features(dict(zip(self.names, tensors, strict=True)))
        logits: Tensor = self.head(features)
        if not self.source:
            return (logits,)
        assert self.source_head is not None
        return logits, self.source_head(features)

    def features(self, x: dict[str, Tensor]) -> Tensor:
        """The input of the heads."""
        network: Any = self._network[0]
        found: Tensor
        if one_length(network):
            found = network._run(x)
            return found
        if network.input_spec.kind == "choices":
            found = network.encoder(**{name: value[:, None] for name, value in x.items()}).logits
            return found.reshape(x["input_ids"].shape[0], -1)
        if network.input_spec.kind == "questions":
            network.encoder(**x)
            found, network.through.kept = network.through.kept, None
            return found
        found = network.encode(x)
        return found


class OnnxFolder(Format):
    """`model.onnx`, and the tokenizer if there is one."""

    name = "onnx"
    pixels = False
    """Whether a graph of images takes pixels, uint8, and normalises them itself"""

    def why_not(self, network: Network) -> str:
        if (
            missing := next((n for n in ("onnx", "onnxscript", "onnxruntime") if find_spec(n) is None), None)
        ) is not None:
            return f"the package {missing} is not installed (pip install 'sft-lightning[onnx]')"
        if hasattr(network, "generation"):
            return f"{network.name} generates texts token by token, which one graph cannot do"
        kind = network.input_spec.kind
        if kind not in KINDS:
            return f"inputs of kind {kind} are not supported yet"
        if network.input_view.window is not None:
            return "the run sees larger images in windows, which one graph does not do"
        if kind not in (*IMAGES, "audio") and not hasattr(network.input_spec.tokenizer, "save_pretrained"):
            return f"{network.name} has a tokenizer of its own, which other libraries cannot load"
        return ""

    def write(self, tuned: Tuned, folder: Path, heads: tuple[str, ...], adapters: bool) -> None:
        network: Any = tuned.network
        x = example(network)
        outputs = ["logits", *(["source_logits"] if SOURCE in heads else [])]
        graph: nn.Module = Graph(network, list(x), SOURCE in heads).eval()
        if self.pixels:
            x = {"image": x["image"].to(torch.uint8)}
            graph = PixelGraph(graph, network.input_view, x["image"].shape[1]).eval()
        dynamic = tuple(dict.fromkeys(free(value, network), torch.export.Dim.DYNAMIC) for value in x.values())
        with silence():
            try:
                torch.onnx.export(
                    graph,
                    tuple(x.values()),
                    str(folder / FILE),
                    input_names=list(x),
                    output_names=outputs,
                    dynamic_shapes=(dynamic,),
                    opset_version=OPSET,
                    dynamo=True,
                    external_data=False,
                )
            except Exception as error:  # whatever the tracer raises: the network has an operation that it lacks
                behind = error.__cause__ or error
                said = (str(behind).strip().splitlines() or [type(behind).__name__])[0]
                raise UserError(
                    "--format", f"onnx: torch cannot trace {network.name}: {said:.160}", "choose another format"
                ) from None
        describe(folder / FILE, tuned, heads, self.pixels)
        if network.input_spec.kind == "audio" and hasattr(network, "extractor"):
            network.extractor.own.save_pretrained(folder)
        elif network.input_spec.kind not in (*IMAGES, "audio"):
            network.tokenizer.save_pretrained(folder)
            limit_length(folder, network.input_view.max_length)
        if (processor := processor_of(network)) is not None:
            (folder / "preprocessor_config.json").write_text(processor.to_json_string())

    def usage(self, tuned: Tuned, heads: tuple[str, ...]) -> str:
        kind = tuned.network.input_spec.kind
        processor, own = processor_of(tuned.network) is not None, tuned.network.input_spec.extract is None
        snippet, inside = (PROCESSOR, PROCESSED_IN_GRAPH) if processor else (SNIPPETS[kind], IN_GRAPH)
        snippet = snippet.replace(*inside) if self.pixels else snippet
        snippet = SOUND if kind == "audio" and own else snippet
        if kind not in (*IMAGES, "audio"):
            names = ", ".join(f'"{n}"' for n in example(tuned.network))
            snippet = snippet.format(names=names, none=NONE if may_be_none(tuned.network.task) else "")
        dimensions = "batch size and length" if kind not in IMAGES else "batch size"
        dimensions = "batch size, height and width" if any_size(tuned.network) else dimensions
        said = f"```python\n{snippet}```\n\nThe graph has opset {OPSET}, and any {dimensions}.\n"
        if SOURCE in heads:
            said += (
                "Its output `source_logits` is the kept source head's; the metadata `source_labels` name its columns.\n"
            )
        return said


def example(network: Network) -> dict[str, Tensor]:
    """Inputs for tracing, of two rows."""
    spec, view = network.input_spec, network.input_view
    if spec.kind in IMAGES:
        shape = view.shape or (spec.channels or 3, *(view.size or spec.size or (224, 224)))
        return {"image": torch.zeros(2, *shape)}
    if spec.kind == "audio":
        rate = spec.sample_rate or 16_000
        sounds = [np.random.default_rng(n).normal(0, 0.1, rate // (n + 2)).astype(np.float32) for n in range(2)]
        if spec.extract is None:
            rows = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(sound) for sound in sounds], batch_first=True)
            return {"sound": rows, "sound_lengths": torch.tensor([len(sound) for sound in sounds])}
        model: Any = network
        made = spec.extract(sounds)
        mask = [MASK] if model.takes_mask and not model.one_length and MASK in made else []
        return {name: made[name] for name in (model.extractor.name, *mask)}
    made = spec.tokenizer(["one two three", "four five six seven"], ["eight nine", "ten"], padding=True)
    names = ["input_ids", "attention_mask"]
    if "token_type_ids" in made and getattr(network, "_takes_types", False):
        names.append("token_type_ids")
    return {name: torch.tensor(made[name]) for name in names}


def describe(path: Path, tuned: Tuned, heads: tuple[str, ...], pixels: bool) -> None:
    """Adds labels and preprocessing to the graph's metadata, as JSON."""
    import onnx

    network, view = tuned.network, tuned.network.input_view
    model = onnx.load(str(path))
    about: dict[str, Any] = {"tokenizer": "the tokenizer in this folder", "max_length": view.max_length}
    if network.input_spec.kind == "audio":
        about = {"sample_rate": network.input_spec.sample_rate, "channels": 1, "one_length": one_length(network)}
        made = "the graph, which takes float32 samples in [-1, 1] and their number"
        about["features"] = made if network.input_spec.extract is None else "the feature extractor in this folder"
    if network.input_spec.kind in IMAGES:
        channels = view.shape[0] if view.shape is not None else network.input_spec.channels or 3
        crop = None if any_size(network) else list(view.shape[1:] if view.shape is not None else view.size or ())
        seen = view.view if view.view is not None and "resize" in view.view else None
        if processor_of(network) is not None:
            seen = {"processor": "the image processor in this folder"}
        covered = {"resize": "cover", "crop": crop, "resample": "bilinear"} if view.size is not None else None
        about = {
            "mode": "RGB" if channels == 3 else "L",
            **(seen or covered or {"resize": None, "crop": crop, "resample": None}),
            "channels": "BGR" if view.reverse_channels else "RGB",
            "mean": list(view.mean or [0.0] * channels),
            "std": list(view.std or [1.0] * channels),
            "scale": "in the graph, which takes uint8 pixels, red first" if pixels else "(pixel / 255 - mean) / std",
            "in_graph": pixels,
        }
    values = {"preprocessing": about, "labels": network.task.labels, "task": network.task.name}
    if SOURCE in heads and network.source_task is not None:
        values |= {"source_labels": network.source_labels, "source_task": network.source_task.name}
    values[OWN] = ours(network, heads)
    for name, value in values.items():
        held = model.metadata_props.add()
        held.key, held.value = name, json.dumps(value, ensure_ascii=False)
    onnx.save(model, str(path))


def one_length(network: Network) -> bool:
    """Whether the sounds of a batch must be of one length, since padding would change answers."""
    return bool(getattr(network, "one_length", False))


def free(value: Tensor, network: Network) -> tuple[int, ...]:
    """The dimensions of an input that may have any size: the batch, the length of texts and sounds, sides of images."""
    if value.ndim == 4:
        return (0, 2, 3) if any_size(network) else (0,)
    return (0, 1) if value.ndim == 2 else (0,)


def any_size(network: Network) -> bool:
    """Whether images keep a size of their own, which the graph takes as it comes."""
    return network.input_spec.kind == "masks" and network.input_view.size is None


def processor_of(network: Network) -> Any:
    """The image processor of transformers that resizes and crops images; None for networks without one."""
    view = network.input_spec.view
    return view.processor if isinstance(view, ProcessorView) and network.input_view.view is not None else None


def ours(network: Network, heads: tuple[str, ...]) -> dict[str, Any]:
    """What this package needs to serve the graph: task and inputs in full, as an export's config.json has them."""
    spec, view, about = network.input_spec, network.input_view, network.about()
    kept = network.source_task if SOURCE in heads else None
    return {
        **{name: about[name] for name in ("network", "task", "input")},
        "kind": spec.kind,
        "channels": spec.channels or (None if view.mean is None else len(view.mean)),
        "max_length": view.max_length,
        "max_seconds": spec.max_seconds,
        "least": getattr(spec.extract, "least", None),
        "source_task": None if kept is None else {**kept.to_dict(), "labels": list(network.source_labels)},
    }


@contextmanager
def silence() -> Iterator[None]:
    """Silences the tracer's progress and warnings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
