"""Detectors on any convolutional backbone of timm: a feature pyramid, and the heads of FCOS or RetinaNet."""

from collections import OrderedDict
from typing import Any, Literal

from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.detector import DenseDetector
from sft_lightning.networks.timm_models import Timm, classifier_name
from sft_lightning.networks.timm_segmentation import tried
from sft_lightning.networks.transforms import Transform

GROUPS = 32
"""Groups of torchvision's GroupNorm in FCOS"""
HALF = 2.0
"""Half of a box's sides at the start, in strides: at 0, ReLU would stop gradients where it starts below"""
MAPS = 3
"""Maps of the backbone that the pyramid reads, the smallest ones; it adds two smaller ones"""


class TimmDetection(DenseDetector, Timm):
    """Any convolutional model of timm without its classifier, a feature pyramid, and FCOS's or RetinaNet's layers.

    The pyramid reads the three smallest maps, usually an eighth to a 32nd of the image in height and width, and adds two. It
    and all above it are torchvision's, and new, so that `freeze: all-but-head` trains them, unless `pretrained` is a run or an
    export of this class: then they are pretrained too, and the old last layers are kept as the source head.

    Args:
        task: What is predicted; given by the module.
        name: timm's name of the architecture, such as `resnet18` or `tf_efficientnet_lite0`.
        pretrained: Where weights come from: true for timm's own of that name, a hub name (`timm/resnet18.a1_in1k`), a
            run directory, an export or timm folder, a state dict file with timm's names; null for random ones.
        match: How a state dict file's tensors are matched: by name, or by order if their names are another library's.
        kind: The detector: fcos, with one candidate at each place, or retinanet, with nine.
        width: Channels of the pyramid, a multiple of 32 from 64 on.
        convolutions: Convolutions between the pyramid and the last layers, of classes and of boxes each.
        score_threshold: Lowest score of a detection.
        dropout: Probability of dropping a feature in the backbone; null for the architecture's own.
        image_size: Height and width of the images that the network sees, in pixels; default the data's.
        keep_source_head: Keep the pretrained last layers, frozen, beside the new ones; source keeps those that a run kept, and
            exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    library = ""  # timm has no class for detectors

    def __init__(
        self,
        task: TaskInfo,
        name: str,
        pretrained: str | bool | None = None,
        match: Literal["name", "order"] = "name",
        kind: Literal["fcos", "retinanet"] = "fcos",
        width: int = 128,
        convolutions: int = 4,
        score_threshold: float = 0.05,
        dropout: float | None = None,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        if kind not in ("fcos", "retinanet"):
            raise UserError("network.kind", f"must be fcos or retinanet, got '{kind}'")
        if not 2 * GROUPS <= width <= 4096 or width % GROUPS:
            raise UserError("network.width", f"must be a multiple of {GROUPS} from {2 * GROUPS} to 4096, got {width}")
        if not 1 <= convolutions <= 4:
            raise UserError("network.convolutions", f"must be 1 to 4, got {convolutions}")
        if not 0 <= score_threshold < 1:
            raise UserError("network.score_threshold", f"must be in [0, 1), got {score_threshold}")
        self.kind, self.width, self.convolutions, self.score_threshold = kind, width, convolutions, score_threshold
        super().__init__(task, name, pretrained, match, dropout, image_size, keep_source_head, transforms)
        known = self.pretrained is not None
        mean, std = (tuple(self.cfg[n]) if known and self.cfg.get(n) else None for n in ("mean", "std"))
        self.own_spec, self.built_for = InputSpec("boxes", mean=mean, std=std), None

    def take_apart(self, model: Any, keep: bool, labels: list[str], task: str | None = None) -> None:
        """Replaces classifier and pooling by the pyramid and the detector's layers."""
        if classifier := classifier_name(model):
            self.take_off(model, classifier, False, [])
            if keep and self.pretrained is not None:
                self.report.notes.append(
                    "the pretrained output layer is not kept: its classes are of images, not of boxes"
                )
        self.pyramid: tuple[Any] = (Pyramid(model, self.model_name, self.cfg, self.width),)
        self.head = self.take_model(self.whole(self.task.num_outputs))
        self.pyramid = (Stub(self.width, self.pyramid[0].stride),)  # the encoder has the pyramid now
        own, prefix = set(self.encoder.state_dict()), "backbone.body."
        self.report.missing = [n for n in self.report.missing if prefix + n in own]
        new = {n for n in own if not n.startswith(prefix)}
        self.fresh = {prefix + n for n in self.fresh if prefix + n in own}
        self.fresh |= new if self.pretrained is not None else set()

    def whole(self, classes: int) -> nn.Module:
        """Torchvision's detector on the pyramid."""
        from torchvision.models.detection import FCOS, RetinaNet
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.fcos import FCOSHead
        from torchvision.models.detection.retinanet import RetinaNetHead

        backbone = self.pyramid[0]
        strides = [backbone.stride * 2**level for level in range(MAPS + 2)]
        options: dict[str, Any] = {"score_thresh": self.score_threshold, "detections_per_img": 100}
        norm = lambda channels: nn.GroupNorm(GROUPS, channels)  # noqa: E731
        if self.kind == "fcos":
            generator = AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * len(strides))
            head = FCOSHead(self.width, 1, classes, self.convolutions)
            nn.init.constant_(head.regression_head.bbox_reg.bias, HALF)
            fcos: nn.Module = FCOS(backbone, classes, anchor_generator=generator, head=head, **options)
            return fcos
        octaves = tuple(tuple(int(4 * s * 2 ** (third / 3)) for third in range(3)) for s in strides)
        generator = AnchorGenerator(octaves, ((0.5, 1.0, 2.0),) * len(strides))
        made = RetinaNetHead(self.width, generator.num_anchors_per_location()[0], classes, norm_layer=norm)
        for part in (made.classification_head, made.regression_head):
            part.conv = part.conv[: self.convolutions]
        retinanet: nn.Module = RetinaNet(backbone, classes, anchor_generator=generator, head=made, **options)
        return retinanet

    def export_config(self) -> dict[str, Any]:
        return {
            "name": self.model_name,
            "image_size": self.image_size,
            "kind": self.kind,
            "width": self.width,
            "convolutions": self.convolutions,
            "score_threshold": self.score_threshold,
        }

    def resize(self, model: Any = None) -> None:
        """A convolutional backbone takes any size."""

    def own_layers(self) -> list[tuple[str, list[str]]]:
        """The backbone's numbered blocks, then the pyramid's and the detector's layers."""
        return super(Timm, self).own_layers()


class Stub(nn.Module):
    """Stands for a pyramid where only its channels and its stride are asked for."""

    def __init__(self, out_channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels, self.stride = out_channels, stride


class Pyramid(nn.Module):
    """A backbone of timm, and torchvision's feature pyramid with two more levels on its smallest maps."""

    def __init__(self, model: Any, name: str, cfg: dict[str, Any], width: int) -> None:
        super().__init__()
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

        refused = UserError(
            "network.name", f"timm's {name} does not give maps of {MAPS} sizes", "choose a convolutional model"
        )
        if not hasattr(model, "forward_intermediates") or not hasattr(model, "prune_intermediate_layers"):
            raise refused
        maps = tried(model, cfg["input_size"][-1], bool(cfg.get("fixed_input_size")))
        sizes = [one.shape[-1] for one in maps if one.ndim == 4]
        last = [i for i, size in enumerate(sizes) if i + 1 == len(sizes) or sizes[i + 1] != size][-MAPS:]
        if len(last) < MAPS or len(sizes) < len(maps):
            raise refused
        self.stride = int(getattr(model.feature_info, "info", model.feature_info)[last[0]]["reduction"])
        self.levels, self.out_channels = last, width
        model.prune_intermediate_layers(last, prune_norm=True, prune_head=True)
        self.body = model
        self.fpn = FeaturePyramidNetwork([maps[i].shape[1] for i in last], width, LastLevelP6P7(width, width))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Maps `[B, width, h, w]` from the largest to the smallest."""
        maps = self.body.forward_intermediates(image, indices=self.levels, intermediates_only=True, output_fmt="NCHW")
        found: dict[str, Tensor] = self.fpn(OrderedDict((str(i), one) for i, one in enumerate(maps)))
        return found
