"""The common base of detectors: one pass to the outputs at all places of whole images, and the kept source head."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sft_lightning.core.box_reader import Reader
from sft_lightning.core.structures import InputSpec, Output, TaskInfo
from sft_lightning.core.wording import plural
from sft_lightning.networks.base import Network
from sft_lightning.networks.dense_detection import DenseHead, DenseReader, taken_apart
from sft_lightning.networks.joint_boxes import JointConv, old_boxes, plain_boxes
from sft_lightning.networks.source_head_file import write_source_head
from sft_lightning.networks.tensors import layers_of

NAME = "object_detection"
NOTE = "the source head has"


class Detector(Network, base=True):
    """A network whose outputs are candidates for boxes of objects. Its head reads all places of an image together.

    A sub-class says how a head's outputs are read (`reader`), and makes a head for any number of classes (`head_of`).
    """

    tasks = (NAME,)
    scheme = ""
    """'softmax' if a candidate's class outputs are of one softmax"""
    image_size: int | None
    own_spec: InputSpec

    @property
    def input_spec(self) -> InputSpec:
        """The normalisation of the pretrained weights; the size only if it is set, or was in an earlier run."""
        known, own = self.input_view, self.own_spec
        size = (self.image_size, self.image_size) if self.image_size else known.size or own.size
        return InputSpec("boxes", size=size, channels=3, mean=known.mean or own.mean, std=known.std or own.std)

    def reader(self, x: dict[str, Tensor], features: Tensor, select: Tensor | None) -> Reader:
        """Reads the outputs for these inputs, of which `select[B]` marks some."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its outputs are read")

    def head_of(self, classes: int) -> nn.Module:
        """A new head."""
        raise NotImplementedError(f"{type(self).__name__} does not say how a head is made")

    # ---- one pass ----

    def forward(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """One encoder pass, then the heads on the images that `select[B]` marks. Places are selected of their outputs."""
        features, below = self._encode_watching(x) if self.fresh else (self.encode(x), None)
        reader = self.reader(x, features, select)
        if select is not None and select.ndim == 1:
            features, below = features[select], None if below is None else below[select]
        logits = self.head(features)
        if self.joint:  # its old classes are the source head that is tuned, and exported
            source: Tensor | None = self.of_old_classes(logits)
        else:
            source = None if self.source_head is None else self.source_head(features)
        if select is not None and select.ndim > 1:
            features, logits = features[select], logits[select]
            source = None if source is None else source[select]
        return Output(logits, features, source, below, reader=reader)

    def of_old_classes(self, logits: Tensor) -> Tensor:
        """The outputs of a joint head without those of new classes."""
        raise NotImplementedError(f"{type(self).__name__} has no joint head")

    def _encode_watching(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As in the base class, with a map that enters new layers as its places, whose number is another than the features'."""
        self.watch_new_layers()
        self._watching = True
        features = self.encode(x)
        below, self._below_new, self._watching = self._below_new, None, False
        if below is None or below.ndim not in (3, 4):
            return features, features.new_empty(*features.shape[:-1], 0)
        return features, below.flatten(2).transpose(1, 2) if below.ndim == 4 else below

    # ---- the source head ----

    def keep_source_head(self, head: nn.Module, labels: list[str], task: str | None = None) -> None:
        """Keeps the pretrained last layers, frozen. The new boxes' layers start from theirs: a box is not of a class."""
        if self.fresh:
            self.report.notes.append(
                f"the pretrained output layers are not kept: the encoder below has new layers ({layers_of(self.fresh)})"
            )
            return
        self.source_head = head.requires_grad_(False).eval()
        self.source_labels = labels
        self.source_task = TaskInfo(NAME, len(labels), labels, scheme=self.scheme)
        started = "; the new head's box layers start from its" if self.start_boxes(head) else ""
        self.report.notes.append(f"{NOTE} {plural(len(labels), 'class', 'es')}{started}")

    def start_boxes(self, head: nn.Module) -> bool:
        """Copies the box layers of the pretrained head into the new one. Returns whether it could."""
        for name in ("boxes", "centred"):
            new, old = getattr(self.head, name, None), getattr(head, name, None)
            if new is not None and old is not None:
                new.load_state_dict(deepcopy(old.state_dict()))
        return True

    def keep_source_linear(self, state: Mapping[str, Tensor], labels: list[str], task: str | None = None) -> None:
        """Keeps the head whose tensors stand below `head.` in a state dict with our names, if it is whole."""
        theirs = {n.removeprefix("head."): v for n, v in state.items() if n.startswith("head.")}
        head = self.head_of(max(1, len(labels)))
        own = head.state_dict()
        if theirs.keys() == own.keys() and all(theirs[n].shape == own[n].shape for n in own):
            head.load_state_dict(theirs)
            self.keep_source_head(head, labels, task)

    def save_beside(self, folder: str) -> None:
        super().save_beside(folder)
        if (head := self.answering_source_head()) is not None and self.source_task is not None:
            write_source_head(head, self.source_task, self.source_labels, folder)

    def exchange_source_head(self, head: nn.Module, labels: list[str]) -> None:
        """Keeps the source head that an earlier tuning kept, instead of that tuning's own head, from whose boxes the new ones
        start.
        """
        boxes, self.source_head = deepcopy(self.head.state_dict()), None
        self.report.notes = [note for note in self.report.notes if not note.startswith(NOTE)]
        self.keep_source_head(head, labels)
        self.head.load_state_dict(boxes)

    def take_scheme(self) -> None:
        """Notes in the task how class outputs are probabilities."""
        self.task = replace(self.task, scheme=self.scheme)


class DenseDetector(Detector, base=True):
    """A detector of torchvision's kinds FCOS, RetinaNet and SSD."""

    kind: str
    """'fcos', 'retinanet' or 'ssd'"""
    head: nn.Module
    _model: tuple[Any]

    def whole(self, classes: int) -> nn.Module:
        """Torchvision's model, weights random."""
        raise NotImplementedError(f"{type(self).__name__} does not say which model it is made from")

    def reader(self, x: dict[str, Tensor], features: Tensor, select: Tensor | None) -> Reader:
        assert isinstance(self.head, DenseHead)
        return DenseReader(self._model[0], x["image"].shape[-1], self.head, features.shape[1])

    def head_of(self, classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            return taken_apart(self.whole(classes), self.kind)[1]

    @property
    def joint(self) -> bool:
        return isinstance(self.head, DenseHead) and isinstance(self.head.classes, JointConv)

    def joint_parameters(self) -> dict[str, nn.Parameter]:
        """Old classes' outputs, and those of boxes, which are of no class."""
        parts = ("head.classes.old.", "head.boxes.", "head.centred.")
        return {n: p for n, p in self.named_parameters() if n.startswith(parts)} if self.joint else {}

    def plain_head(self) -> nn.Module:
        return plain_boxes(self.head)

    def answering_source_head(self) -> nn.Module | None:
        return old_boxes(self.head) if self.joint and self.source_head is not None else self.source_head

    def of_old_classes(self, logits: Tensor) -> Tensor:
        assert isinstance(self.head, DenseHead) and isinstance(self.head.classes, JointConv)
        candidates = self.head.each[0]
        each = logits.reshape(*logits.shape[:-1], candidates, logits.shape[-1] // candidates)
        known, every = self.head.classes.known, self.task.num_outputs
        return torch.cat([each[..., :known], each[..., every:]], -1).flatten(-2)

    def take_model(self, model: Any) -> DenseHead:
        """Takes encoder and head off torchvision's model, which is kept outside the module tree to read outputs. Returns its
        head; the network's own is new.
        """
        self.scheme = "softmax" if self.kind == "ssd" else ""
        self.take_scheme()
        encoder, head = taken_apart(model, self.kind)
        self.encoder, self._model = encoder, (model,)
        return head
