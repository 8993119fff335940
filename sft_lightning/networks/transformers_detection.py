"""Detectors of transformers with queries and a matching: DETR, Table Transformer and YOLOS."""

import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sft_lightning.core.box_reader import Reader
from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.detector import Detector
from sft_lightning.networks.heads import fresh_linear, set_dropout
from sft_lightning.networks.hf import hf_export, labels_of, load_hf, set_module
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.transformers_image import TransformersImage
from sft_lightning.networks.transforms import Transform

KINDS = ("detr", "table-transformer", "yolos")
"""Model types whose loss is DETR's, of the last layer's outputs. Others use class scores or boxes inside the network, as
RT-DETR does to choose its queries, so that a kept head would need a pass of its own; RT-DETR also trains on drawn noise"""
CLASSES, BOXES = "class_labels_classifier", "bbox_predictor"
MOST = 100
"""Largest number of detections of an image"""


class TransformersDetection(Detector, TransformersImage):
    """DETR, Table Transformer or YOLOS of transformers; its last layers, of classes and of boxes, are replaced.

    The new layers of boxes start from the pretrained ones. A candidate is a query; its boxes are matched to the image's by
    the Hungarian method, as in DETR, and the loss is DETR's, normalised by the image's own boxes. With auxiliary losses, it is
    the sum over the decoder's layers, each with a matching of its own, in training and evaluation; detections, drift and
    anchors are of the last layer. Of the image processor, mean and standard deviation are used. Exports are transformers
    folders.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory, a state dict file
            (with config); null for random ones of config.
        config: The architecture without a pretrained folder: a folder or hub name with a config.json, or its
            values, such as `{model_type: detr, num_queries: 50}`.
        auxiliary_loss: Add the losses of the decoder's other layers, as transformers does for a config.json with
            `auxiliary_loss`. It then normalises each layer's output too, which changes what weights say that were trained
            without it. Default the configuration's.
        score_threshold: Lowest score of a detection.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        image_size: Height and width of the images that the network sees, in pixels; default the data's.
        keep_source_head: Keep the pretrained last layers, frozen, beside the new ones; source keeps those that a run kept, and
            exported, beside its own.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    scheme = "softmax"
    tasks = Detector.tasks
    _of_layers: Tensor | None = None
    """`[L, B, Q, D]` of the decoder's layers in the pass that is under way"""

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        auxiliary_loss: bool | None = None,
        score_threshold: float = 0.05,
        dropout: float | None = None,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super(TransformersImage, self).__init__(task, transforms)
        from transformers import AutoModelForObjectDetection

        if not 0 <= score_threshold < 1:
            raise UserError("network.score_threshold", f"must be in [0, 1), got {score_threshold}")
        self.image_size, self.score_threshold = image_size, score_threshold
        model = load_hf(AutoModelForObjectDetection, pretrained, config, self, trust_remote_code)
        if model.config.model_type not in KINDS:
            raise UserError(
                "network",
                f"detectors of the type {model.config.model_type} are not supported",
                f"use {', '.join(KINDS)}",
            )
        self.auxiliary = self.settle_auxiliary(model, auxiliary_loss)
        self.take_scheme()
        old = QueryHead(getattr(model, CLASSES), getattr(model, BOXES))
        filled = not any(n.startswith((f"{CLASSES}.", f"{BOXES}.")) for n in self.fresh)
        self.fresh = {n for n in self.fresh if not n.startswith((f"{CLASSES}.", f"{BOXES}."))}
        self.report.missing = [n for n in self.report.missing if not n.startswith((f"{CLASSES}.", f"{BOXES}."))]
        self._blank = (deepcopy(old),)  # of which heads are made
        for name in (CLASSES, BOXES):
            set_module(model, name, nn.Identity())
        set_dropout(model, dropout)
        self.encoder = model
        self.head = self.head_of(task.num_outputs)
        if self.pretrained is not None and keep_source_head and filled:
            self.keep_source_head(old, labels_of(model) or [str(n) for n in range(model.config.num_labels)])
        take_source_head(self, pretrained, keep_source_head)
        self.own_spec = self.read_spec(model.config, config)

    def settle_auxiliary(self, model: Any, wanted: bool | None) -> bool:
        """Whether there are auxiliary losses; sets the model's configuration to what is wanted, and notes what that changes."""
        config, before = model.config, bool(model.config.auxiliary_loss)
        if config.model_type == "yolos" and (before if wanted is None else wanted):
            raise UserError(
                "network.auxiliary_loss", "yolos has no decoder, whose layers have losses", "set it to false"
            )
        if wanted and config.decoder_layers < 2:
            raise UserError(
                "network.auxiliary_loss", "has no effect on a decoder of one layer, which has the loss", "leave it out"
            )
        for part in model.modules():
            if wanted is not None and hasattr(getattr(part, "config", None), "auxiliary_loss"):
                part.config.auxiliary_loss = wanted
        if wanted is not None and wanted != before and self.pretrained is not None:
            self.report.notes.append(
                "auxiliary_loss is another than in pretraining: the outputs of the decoder's layers are "
                f"{'now' if wanted else 'no longer'} normalised, which changes what the pretrained network says"
            )
        found = before if wanted is None else wanted
        if found:
            model.model.register_forward_hook(self._note_layers)
        return found

    def _note_layers(self, model: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._of_layers = output.intermediate_hidden_states

    def read_spec(self, config: Any, given: str | dict[str, Any] | None) -> InputSpec:
        """The normalisation of the image processor's file, if there is one."""
        values = self.processor_values(given)[1]
        mean, std = (tuple(values[k]) if values.get(k) else None for k in ("image_mean", "image_std"))
        return InputSpec("boxes", channels=3, mean=mean, std=std)

    def head_of(self, classes: int) -> nn.Module:
        """New layers of classes; those of boxes as they were."""
        made = deepcopy(self._blank[0])
        if isinstance(made.classes, nn.Linear):
            made.classes = fresh_linear(made.classes.in_features, classes + 1)
        else:
            name, last = [(n, m) for n, m in made.classes.named_modules() if isinstance(m, nn.Linear)][-1]
            set_module(made.classes, name, fresh_linear(last.in_features, classes + 1))
        return made.requires_grad_()

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        """`[B, Q, D]` of the queries, followed by those of the decoder's other layers if these have losses: `[B, L · Q, D]`.
        What no image fills is masked, where the model takes a mask.
        """
        options: dict[str, Any] = {}
        if "size" in x and self.encoder.config.model_type != "yolos":  # type: ignore[union-attr]
            down, across = (
                torch.arange(x["image"].shape[axis], device=x["size"].device) < x["size"][:, at, None]
                for axis, at in ((-2, 0), (-1, 1))
            )
            options["pixel_mask"] = (down[:, :, None] & across[:, None]).long()
        features: Tensor = self.encoder(pixel_values=x["image"], **options).logits
        if self.auxiliary:
            others, self._of_layers = self._of_layers, None
            assert others is not None
            features = torch.cat([features, *others[:-1]], 1)
        return features

    def reader(self, x: dict[str, Tensor], features: Tensor, select: Tensor | None) -> Reader:
        sizes = x.get("size")
        if sizes is None or self.encoder.config.model_type == "yolos":  # type: ignore[union-attr]
            sizes = torch.tensor([x["image"].shape[-2:]] * len(x["image"]), device=x["image"].device)
        if select is not None and select.ndim == 1:
            sizes = sizes[select]
        config: Any = self.encoder.config
        return QueryReader(sizes, config, self.score_threshold, config.num_queries if self.auxiliary else None)

    def export_config(self) -> dict[str, Any]:
        return {"score_threshold": self.score_threshold, "image_size": self.image_size}

    def save_pretrained(self, folder: str) -> None:
        """Writes a transformers folder: config.json, model.safetensors, preprocessor_config.json."""
        assert isinstance(self.head, QueryHead)
        set_module(self.encoder, BOXES, self.head.boxes)
        try:
            hf_export(self, self.encoder, folder, CLASSES, self.head.classes)
        finally:
            set_module(self.encoder, BOXES, nn.Identity())
        spec = self.input_spec
        processor = {
            "image_processor_type": "DetrImageProcessor",
            "do_resize": True,
            "size": {"longest_edge": spec.size[0], "shortest_edge": spec.size[0]} if spec.size else None,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": spec.mean is not None,
            "image_mean": list(spec.mean or ()) or None,
            "image_std": list(spec.std or ()) or None,
        }
        values = {name: value for name, value in processor.items() if value is not None}
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")

    def own_layers(self) -> list[tuple[str, list[str]]]:
        """The layers in the order of the model's numbered blocks."""
        return super(TransformersImage, self).own_layers()


class QueryHead(nn.Module):
    """The last layers of each query: `[R, Q, D]` to `[R, Q, C + 1 + 4]`, the box as centre and size, shares of the image."""

    def __init__(self, classes: nn.Module, boxes: nn.Module) -> None:
        super().__init__()
        self.classes, self.boxes = classes, boxes

    def forward(self, features: Tensor) -> Tensor:
        where = "cpu" if features.is_meta else features.device.type
        with torch.autocast(where, enabled=False):  # half precision would round boxes to a 256th of the image
            boxes = self.boxes(features.to(next(self.boxes.parameters()).dtype)).sigmoid()
        return torch.cat([self.classes(features), boxes], -1)


class QueryReader:
    """Reads a `QueryHead`'s outputs with transformers' own matching and losses, image by image.

    Args:
        sizes: `[R, 2]` height and width that the images fill, of which boxes are shares, in pixels.
        config: The model's configuration.
        threshold: Lowest score of a detection.
        queries: Q, the queries of a decoder layer, if others than the last one's follow; None for those of the last layer
            alone.
    """

    def __init__(self, sizes: Tensor, config: Any, threshold: float, queries: int | None = None) -> None:
        self.sizes, self.config, self.threshold, self.queries = sizes, config, threshold, queries

    def places(self, features: Tensor) -> Tensor:
        return features[:, : self.queries]

    def rows(self, logits: Tensor) -> Tensor:
        return logits[:, : self.queries]

    def losses(self, logits: Tensor, targets: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

        config, losses = self.config, ["labels", "boxes"]
        costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
        rule = ImageLoss(HungarianMatcher(**costs), logits.shape[-1] - 5, config.eos_coefficient, losses)
        rule.to(logits)
        weights = {
            "loss_ce": 1.0,
            "loss_bbox": config.bbox_loss_coefficient,
            "loss_giou": config.giou_loss_coefficient,
        }
        found = []
        with torch.autocast(logits.device.type, enabled=False):
            for row, (boxes, classes), size in zip(logits, targets, self.sizes, strict=True):
                if not row.isfinite().all():  # which the matching refuses; the loss must say it
                    found.append(row.sum() * float("nan"))
                    continue
                scale = size.flip(0).repeat(2).to(row)
                centre, extent = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
                target = [{"class_labels": classes, "boxes": torch.cat([centre, extent], 1) / scale}]
                total = row.new_zeros(())
                for layer in row.split(self.queries or len(row)):
                    outputs = {"logits": layer[None, :, :-4], "pred_boxes": layer[None, :, -4:]}
                    matched, parts = rule.matcher(outputs, target), dict[str, Tensor]()
                    for name in losses:  # ImageLoss itself would divide by the boxes of all ranks
                        parts |= rule.get_loss(name, outputs, target, matched, max(1, len(classes)))
                    total = total + sum((parts[name] * weight for name, weight in weights.items()), row.new_zeros(()))
                found.append(total)
        return torch.stack(found)

    @torch.no_grad()
    def detections(self, logits: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        found = []
        for row, size in zip(self.rows(logits), self.sizes, strict=True):
            scores, labels = row[:, :-4].softmax(-1)[:, :-1].max(-1)
            order = scores.argsort(descending=True, stable=True)[:MOST]
            order = order[scores[order] > self.threshold]
            centre, extent = row[order, -4:-2], row[order, -2:]
            corners = torch.cat([centre - extent / 2, centre + extent / 2], 1) * size.flip(0).repeat(2).to(row)
            found.append((corners, scores[order], labels[order]))
        return found
