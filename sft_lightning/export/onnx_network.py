"""Loads the graph of an ONNX export as a network, so that it is served as the others are."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError, one_line
from sft_lightning.core.structures import InputSpec, InputView, Output, TaskInfo, View
from sft_lightning.export.onnx_folder import IMAGES, OWN
from sft_lightning.export.pixel_graph import pixels_of
from sft_lightning.networks.audio_extractor import Extractor, by_length
from sft_lightning.networks.base import Network
from sft_lightning.networks.image_view import view_of
from sft_lightning.networks.processor_view import NotFollowed, ask, load_processor
from sft_lightning.networks.transformers_text import load_tokenizer


class OnnxNetwork(Network, base=True):
    """A graph that onnxruntime runs on the CPU, with what its metadata say of inputs and outputs.

    Args:
        file: The graph. The tokenizer lies beside it, if it takes texts.

    Raises:
        UserError: onnxruntime is missing, or the file is damaged, or no export of this package.
    """

    tasks = (
        *Network.tasks,
        "token_classification",
        "multiple_choice",
        "extractive_qa",
        "semantic_segmentation",
    )

    def __init__(self, file: Path) -> None:
        graph = opened(file)
        held: dict[str, str] = graph.get_modelmeta().custom_metadata_map
        try:
            about = json.loads(held[OWN])
            task, self.kind = TaskInfo.of(about["task"]), str(about["kind"])
            self.max_length, self.channels = about["max_length"], about["channels"]
            self.in_graph = bool(json.loads(held["preprocessing"]).get("in_graph"))
            source = about.get("source_task")
            source_task = None if source is None else TaskInfo.of(source)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"its metadata do not say what it was exported from: {type(error).__name__} {one_line(str(error))}"
            raise UserError(file, why, "export the run again, or serve the run") from None
        super().__init__(task)
        self.outputs = ["logits", *(["source_logits"] if source_task is not None else [])]
        shapes = {node.name: node.shape for node in graph.get_outputs()}
        there = set(shapes)
        if not there >= set(self.outputs):
            raise UserError(file, f"has the outputs {', '.join(sorted(there))}, not {', '.join(self.outputs)}")
        self.graph = graph
        self.alone = "int8" in held
        """Whether answers depend on the other samples of a batch, so that each is asked alone"""
        if source_task is not None:
            self.source_head, self.source_task = nn.Identity(), source_task
            self.source_labels, self.source_outputs = list(source_task.labels), int(shapes["source_logits"][-1])
        self.input_view = InputView.of(about["input"])
        self.view = self.read_view(file.parent)
        self.tokenizer = load_tokenizer(str(file.parent), self) if self.kind not in (*IMAGES, "audio") else None
        self.max_seconds: float | None = about.get("max_seconds")
        self.one_length = bool(json.loads(held["preprocessing"]).get("one_length"))
        self.extract = self.read_extractor(file.parent, about.get("least"))

    def read_extractor(self, folder: Path, least: int | None) -> Extractor | None:
        """The feature extractor of sounds beside the graph; None if the graph takes samples or no sounds."""
        if self.kind != "audio" or "sound" in {node.name for node in self.graph.get_inputs()}:
            return None
        from transformers import AutoFeatureExtractor

        try:
            return Extractor(AutoFeatureExtractor.from_pretrained(folder), least)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"the feature extractor cannot be loaded: {one_line(str(error))[:200]}"
            raise UserError(folder, problem, "export the run again") from None

    def read_view(self, folder: Path) -> View | None:
        """The view of the metadata, or of the image processor beside the graph."""
        if "processor" not in (self.input_view.view or {}):
            return view_of(self.input_view.view)
        try:
            return ask(load_processor(str(folder)), self.channels).view
        except NotFollowed as error:
            raise UserError(folder / "preprocessor_config.json", str(error), "export the run again") from None

    @property
    def input_spec(self) -> InputSpec:
        seen = self.input_view
        return InputSpec(
            self.kind,
            size=seen.size,
            channels=self.channels,
            mean=seen.mean,
            std=seen.std,
            view=self.view,
            reverse_channels=seen.reverse_channels,
            tokenizer=self.tokenizer,
            max_length=self.max_length,
            sample_rate=seen.sample_rate,
            max_seconds=self.max_seconds,
            extract=self.extract,
        )

    def one_pass(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """The graph's outputs. They stand for features too, which a graph does not give."""
        x = {name: value.cpu() for name, value in x.items()}
        if self.in_graph:
            x = {"image": pixels_of(x["image"], self.input_view)}
        if self.one_length:
            return self.output(by_length(x, self.graph.get_inputs()[0].name, lambda part: self.asked(part, None)))
        return self.output(self.asked(x, None if select is None else select.cpu()))

    def asked(self, x: dict[str, Tensor], select: Tensor | None) -> Tensor:
        """Both heads' outputs for a batch's items, side by side: `[N, …, C + S]`. Choices and windows are rows of the input."""
        x = {node.name: x[node.name] for node in self.graph.get_inputs()}
        if self.kind in ("choices", "questions"):
            assert select is not None
            there = select if self.kind == "choices" else select.any(-1)
            x, select = {n: value[there] for n, value in x.items()}, None if self.kind == "choices" else select[there]
        try:
            found = self.graph.run(self.outputs, {name: value.numpy() for name, value in x.items()})
        except Exception as error:  # onnxruntime has several of its own
            raise UserError("data", f"onnxruntime cannot take it: {one_line(str(error))[:200]}") from None
        made = torch.cat([torch.from_numpy(one) for one in found], -1)
        return made if select is None else made[select]

    def output(self, both: Tensor) -> Output:
        """The two heads' outputs apart."""
        new = both.shape[-1] if self.source_task is None else both.shape[-1] - self.source_outputs
        return Output(both[..., :new], both[..., :new], None if self.source_task is None else both[..., new:])


def opened(file: Path) -> Any:
    """The graph's session. It reads this one file alone: weights in other files, which it may name, are refused."""
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        raise UserError(file, "needs onnxruntime", "pip install 'sft-lightning[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise UserError(file, f"cannot be read: {error.strerror}") from None
    except Exception as error:  # onnxruntime has several of its own
        raise UserError(file, f"is not a graph that onnxruntime runs: {one_line(str(error))[:200]}") from None
