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

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.export.folder_files import limit_length
from sft_lightning.export.formats import SOURCE, Format
from sft_lightning.export.pixel_graph import PixelGraph
from sft_lightning.export.snippets import NONE
from sft_lightning.export.tuned import Tuned
from sft_lightning.networks.base import Network
from sft_lightning.tasks.answer_scores import may_be_none

OPSET = 20
KINDS = ("image", "text", "words", "choices", "questions")
FILE = "model.onnx"


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
        if kind != "image" and not hasattr(network.input_spec.tokenizer, "save_pretrained"):
            return f"{network.name} has a tokenizer of its own, which other libraries cannot load"
        return ""

    def write(self, tuned: Tuned, folder: Path, heads: tuple[str, ...], adapters: bool) -> None:
        network = tuned.network
        x = example(network)
        outputs = ["logits", *(["source_logits"] if SOURCE in heads else [])]
        graph: nn.Module = Graph(network, list(x), SOURCE in heads).eval()
        if self.pixels:
            x = {"image": x["image"].to(torch.uint8)}
            graph = PixelGraph(graph, network.input_view, x["image"].shape[1]).eval()
        dynamic = {0: torch.export.Dim.DYNAMIC}
        if network.input_spec.kind != "image":
            dynamic[1] = torch.export.Dim.DYNAMIC
        with silence():
            try:
                torch.onnx.export(
                    graph,
                    tuple(x.values()),
                    str(folder / FILE),
                    input_names=list(x),
                    output_names=outputs,
                    dynamic_shapes=(tuple(dict(dynamic) for _ in x),),
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
        if network.input_spec.kind != "image":
            network.tokenizer.save_pretrained(folder)  # type: ignore[operator,union-attr]
            limit_length(folder, network.input_view.max_length)

    def usage(self, tuned: Tuned, heads: tuple[str, ...]) -> str:
        kind = tuned.network.input_spec.kind
        snippet = SNIPPETS[kind].replace(*IN_GRAPH) if self.pixels else SNIPPETS[kind]
        if kind != "image":
            names = ", ".join(f'"{n}"' for n in example(tuned.network))
            snippet = snippet.format(names=names, none=NONE if may_be_none(tuned.network.task) else "")
        said = f"```python\n{snippet}```\n\nThe graph has opset {OPSET}, and any batch size"
        said += ".\n" if kind == "image" else " and length.\n"
        if SOURCE in heads:
            said += (
                "Its output `source_logits` is the kept source head's; the metadata `source_labels` name its columns.\n"
            )
        return said


def example(network: Network) -> dict[str, Tensor]:
    """Inputs for tracing, of two rows."""
    spec, view = network.input_spec, network.input_view
    if spec.kind == "image":
        shape = view.shape or (spec.channels or 3, *(view.size or spec.size or (224, 224)))
        return {"image": torch.zeros(2, *shape)}
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
    if network.input_spec.kind == "image":
        channels = view.shape[0] if view.shape is not None else network.input_spec.channels or 3
        crop = list(view.shape[1:] if view.shape is not None else view.size or ())
        seen = view.view if view.view is not None and "resize" in view.view else None
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
    for name, value in values.items():
        held = model.metadata_props.add()
        held.key, held.value = name, json.dumps(value, ensure_ascii=False)
    onnx.save(model, str(path))


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


IMAGE = """import json
import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
about = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
mean, std = (np.array(about[name], dtype=np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))


def predict(image):
    image, size = image.convert(about["mode"]), about["resize"]
    height, width = about["crop"]
    if size is not None and image.size != (width, height):
        if size == "cover":  # the least size that covers the crop
            scale = max(height / image.height, width / image.width)
            size = max(height, round(image.height * scale)), max(width, round(image.width * scale))
        elif isinstance(size, int):  # the shorter side
            long = int(size * max(image.size) / min(image.size))
            size = (size, long) if image.height <= image.width else (long, size)
        image = image.resize((size[1], size[0]), getattr(Image.Resampling, about["resample"].upper()))
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    pixels = np.asarray(image, dtype=np.float32)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    pixels = pixels[::-1] if about["channels"] == "BGR" else pixels
    inputs = {"image": ((pixels / 255 - mean) / std)[None].astype(np.float32)}
    return session.run(["logits"], inputs)[0][0].tolist()
"""
IN_GRAPH = (
    """    pixels = pixels[::-1] if about["channels"] == "BGR" else pixels
    inputs = {"image": ((pixels / 255 - mean) / std)[None].astype(np.float32)}
""",
    """    inputs = {"image": pixels[None].astype(np.uint8)}  # the graph scales them, and turns channels round if it has to
""",
)
"""What of IMAGE is otherwise if the graph takes pixels"""
LOAD = """import onnxruntime
from transformers import AutoTokenizer

session, tokenizer = onnxruntime.InferenceSession("model.onnx"), AutoTokenizer.from_pretrained(".")


"""
RUN = """    inputs = {{name: made[name] for name in ({names},)}}
    logits = session.run(["logits"], inputs)[0]
"""
SNIPPETS = {
    "image": IMAGE,
    "text": LOAD
    + """def predict(text, pair=None):
    made = tokenizer([text], *([[pair]] if pair else []), truncation=True, return_tensors="np")
"""
    + RUN
    + """    return logits[0].tolist()
""",
    "words": LOAD
    + """def predict(words):
    made = tokenizer(words, is_split_into_words=True, truncation=True, return_tensors="np")
"""
    + RUN
    + """    of = made.word_ids()
    first = [at for at, word in enumerate(of) if word is not None and word not in of[:at]]
    return logits[0][first].tolist()  # the first piece of each word has the word's tag
""",
    "choices": LOAD
    + """def predict(question, choices):  # one score each; softmax over a question's choices
    made = tokenizer([question] * len(choices), choices, truncation=True, padding=True, return_tensors="np")
"""
    + RUN
    + """    return logits[:, 0].tolist()
""",
    "questions": LOAD
    + """def predict(question, context):  # of the first window; longer contexts need several
    made = tokenizer(question, context, truncation="only_second", return_offsets_mapping=True, return_tensors="np")
"""
    + RUN
    + """    scores, places = logits[0], made["offset_mapping"][0].tolist()
    may = [at for at, part in enumerate(made.sequence_ids(0)) if part == 1]
    spans = [(a, b) for a in may for b in may if a <= b < a + 30]
    a, b = max(spans, key=lambda s: float(scores[s[0], 0] + scores[s[1], 1]))
{none}    return context[places[a][0] : places[b][1]].strip()
""",
}
"""How to load the folder and predict, by kind of input"""
