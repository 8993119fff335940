"""Faster R-CNN of torchvision, with a choice of candidates that draws no random number."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import InputSpec, Output, TaskInfo
from sft_lightning.networks.backbone import Backbone
from sft_lightning.networks.detector import Detector
from sft_lightning.networks.region_reader import Even, RegionReader
from sft_lightning.networks.regions import Found, Look, RegionHead, Regions
from sft_lightning.networks.torchvision_detection import FromTorchvision
from sft_lightning.networks.transforms import Transform

NAMES = (
    *("fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"),
    *("fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn"),
)
PREDICTOR = "roi_heads.box_predictor."


class FasterRCNN(FromTorchvision, Detector, Backbone):
    """Faster R-CNN of torchvision without its last layers, and new ones for the data's classes.

    Losses are torchvision's, of each image by itself, but for the choice of candidates: those that the loss is of are spread
    evenly over all positive and all negative ones, instead of drawn, and true boxes are not added to the proposals. So the
    loss is a function of image and weights alone. Student and teacher are compared at the teacher's own proposals, the best
    64 of an image: the student looks at the same boxes in its own features, with its own layers.

    Args:
        task: What is predicted; given by the module.
        name: torchvision's name, such as fasterrcnn_resnet50_fpn.
        pretrained: Where weights come from: a name of torchvision's weights (`DEFAULT`), a run directory, an export folder, a
            state dict file with torchvision's names; null for random ones.
        proposals: Largest number of proposals of an image.
        score_threshold: Lowest score of a detection.
        dropout: Must be 0: these networks have no dropout.
        image_size: Height and width of the images that the network sees, in pixels; default the data's.
        keep_source_head: Keep the pretrained last layers, frozen, beside the new ones; source keeps those that a run kept, and
            exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    works_in_parts = False  # student and teacher look at regions between passes, when their parameters are in parts
    scheme = "softmax"
    background = 1

    def __init__(
        self,
        task: TaskInfo,
        name: str,
        pretrained: str | None = None,
        proposals: int = 256,
        score_threshold: float = 0.05,
        dropout: float = 0.0,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        if name not in NAMES:
            raise UserError("network.name", f"must be {', '.join(NAMES)}, got '{name}'{nearest(name, NAMES)}")
        if not 1 <= proposals <= 2000:
            raise UserError("network.proposals", f"must be 1 to 2000, got {proposals}")
        self.proposals, self.own_spec = proposals, InputSpec("boxes")
        self.start(name, pretrained, score_threshold, dropout, image_size, keep_source_head)

    def options(self) -> dict[str, Any]:
        """Arguments of torchvision's builder."""
        tops = {f"rpn_{when}_nms_top_n_{how}": self.proposals for when in ("pre", "post") for how in ("train", "test")}
        return {
            "box_score_thresh": self.score_threshold,
            "box_detections_per_img": 100,
            "trainable_backbone_layers": 6 if "mobilenet" in self.model_name else 5,
            **tops,
        }

    def take_model(self, model: Any) -> nn.Module:
        """Takes encoder and head off torchvision's model, which is kept outside the module tree to read outputs."""
        self.take_scheme()
        old = RegionHead(model.roi_heads.box_predictor)
        self.inputs = model.roi_heads.box_predictor.cls_score.in_features
        self.encoder = Regions(model, self.proposals)
        self._model = (model,)
        model.roi_heads.box_predictor = nn.Identity()
        for part, share in ((model.rpn, 0.5), (model.roi_heads, 0.25)):
            part.fg_bg_sampler = Even(part.fg_bg_sampler.batch_size_per_image, share)
        return old

    def head_of(self, classes: int) -> nn.Module:
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

        with torch.random.fork_rng(devices=[]):
            return RegionHead(FastRCNNPredictor(self.inputs, classes + 1))

    def start_boxes(self, head: nn.Module) -> bool:
        """Nothing: the outputs of boxes are of classes."""
        return False

    def forward(self, x: dict[str, Tensor], select: Tensor | None = None) -> Output:
        """One encoder pass on the images that `select[B]` marks, then the heads. Places are selected of their outputs."""
        image = x["image"]
        some = image if select is None or select.ndim > 1 else image[select]
        found: Found = self.encoder(some if len(some) else image[:1])
        found = found.first(len(some))
        features = found.features
        logits = self.head(features)
        source = None if self.source_head is None else self.source_head(features)
        assert isinstance(self.encoder, Regions)
        look = Look(self.encoder, self.head, self.source_head, found.maps, image.shape[-1])
        reader = RegionReader(self._model[0], image.shape[-1], found, look)
        if select is not None and select.ndim > 1:
            features, logits = features[select], logits[select]
            source = None if source is None else source[select]
        return Output(logits, features, source, None, reader=reader)

    def outputs_of(self, state: Mapping[str, Tensor]) -> int:
        name = f"{PREDICTOR}cls_score.weight"
        if name not in state:
            raise UserError("network.pretrained", f"lacks {name}", f"give weights of {self.model_name}")
        return int(state[name].shape[0]) - 1

    def export_config(self) -> dict[str, Any]:
        return {**super().export_config(), "proposals": self.proposals}
