"""Answers samples with a network: what each head says, as `predict` writes it."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sft_lightning.core.errors import UserError
from sft_lightning.export.onnx_network import OnnxNetwork
from sft_lightning.networks.base import Network
from sft_lightning.serve.items import Item, Prepared, Reader
from sft_lightning.serve.loading import load_served
from sft_lightning.serve.readers import reader_of
from sft_lightning.tasks import Task, make_task

Answer = dict[str, Any]
"""`new` and perhaps `source`: what the heads say of one sample; `truncated` if its end was cut off"""


class Model:
    """A network that answers samples. One thread at a time may use it.

    Args:
        network: The network with its heads.
        arguments: Arguments of the data that it was tuned on.
        half: Compute in bfloat16 where torch's autocast does; answers then differ in the third digit.
    """

    def __init__(self, network: Network, arguments: dict[str, Any], half: bool = False) -> None:
        graph = isinstance(network, OnnxNetwork)
        if half and graph:
            raise UserError("--precision", "bf16 has no effect on a graph, whose numbers are fixed", "leave it out")
        self.half = half
        self.device = torch.device("cuda" if torch.cuda.is_available() and not graph else "cpu")
        self.network = network.to(self.device)
        self.reader: Reader = reader_of(network.input_spec)(network, arguments, self.device)
        if isinstance(network, OnnxNetwork) and network.alone:
            self.reader.share = 0.0  # batches of one sample
        self.tasks: dict[str, Task] = {"new": make_task(network.task)}
        if network.source_head is not None and network.source_task is not None:
            self.tasks["source"] = make_task(network.source_task)

    @classmethod
    def load(cls, place: str | Path, half: bool = False) -> "Model":
        """Loads a run or an export. Raises UserError if it cannot be served."""
        return cls(*load_served(place), half)

    def warm(self) -> None:
        """Answers one sample. Raises UserError if that fails, or if outputs are not numbers."""
        try:
            answer = self.answer([self.reader.example()])[0]
            if isinstance(answer, UserError):
                raise answer
        except (RuntimeError, UserError) as error:
            if self.reader.unsized:
                return  # only images of one size fit, and the folder does not say which
            raise UserError("model", f"cannot answer one sample: {error}") from None
        if not finite(answer):
            raise UserError("model", "answers are not finite numbers", "serve another run")

    @torch.inference_mode()
    def answer(self, items: Sequence[Item], source: bool = True) -> list[Answer | UserError]:
        """One answer for each item, in their order; an error for those that cannot be read. `source`: whether to ask the source
        head too. Batches become smaller where the device's memory is short.
        """
        found: dict[int, Answer | UserError] = {}
        while left := [number for number in range(len(items)) if number not in found]:
            try:
                for part in self.reader.batches([items[number] for number in left]):
                    if isinstance(part, tuple):
                        found[left[part[0]]] = part[1]
                        continue
                    try:
                        said: Mapping[int, Answer | UserError] = self.ask(part, source)
                    except UserError as error:  # of the network, about the form of inputs that all of these have
                        said = dict.fromkeys(part.at, error)
                    found |= {left[number]: one for number, one in said.items()}
            except torch.OutOfMemoryError:
                if not self.reader.shrink():
                    raise
                torch.cuda.empty_cache()
        return [found[number] for number in range(len(items))]

    def ask(self, part: Prepared, source: bool) -> dict[int, Answer]:
        """The answers to one batch, by the number of the item."""
        batch = part.batch
        select = self.tasks["new"].select(batch)
        x = {name: value.to(self.device) for name, value in batch["x"].items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            output = self.network(x, None if select is None else select.to(self.device))
            if "prompt" in batch:
                prompt = {name: value.to(self.device) for name, value in batch["prompt"].items()}
                output = self.network.answered(output, {**batch, "prompt": prompt}, times=True)
        answers: list[Answer] = [{} for _ in part.at]
        for head, task in self.tasks.items():
            if head == "source" and not source:
                continue
            logits = (output.logits if head == "new" else output.source_logits).cpu()
            logits = logits.float() if self.half else logits
            said = task.decode(output._replace(logits=logits, features=output.features.cpu()), batch)
            for number, row in enumerate(said):
                answers[number][head] = part.finish(number, row, task.info)
        for number, cut in enumerate(part.truncated):
            if cut:
                answers[number]["truncated"] = True
        return dict(zip(part.at, answers, strict=True))

    def about(self) -> dict[str, Any]:
        """What the service answers, for clients and for the page."""
        reader = self.reader
        return {
            "takes": reader.takes,
            "heads": {name: {"task": task.info.name, "labels": task.info.labels} for name, task in self.tasks.items()},
            "max_length": getattr(reader, "max_length", None),
            "input": reader.kind,
            "fields": list(reader.fields),
            "pairs": getattr(reader, "pairs", False) if reader.kind == "text" else False,
            "words": reader.kind == "words",
        }


def finite(value: Any) -> bool:
    """Whether all numbers within a value are finite."""
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    if isinstance(value, list):
        return all(map(finite, value))
    return not isinstance(value, float) or math.isfinite(value)
