"""Segmentation networks on any backbone of timm: its maps at several scales, and UNet's decoder."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.timm_models import Timm, classifier_name
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.unet import Decoder, convolved


class TimmSegmentation(Timm):
    """Any image model of timm without its classifier, UNet's decoder on its maps, and one linear head on each pixel.

    The decoder's features have the size of the backbone's largest map, usually half of the image's, and `width` channels
    there, up to four times as many below. Decoder and head are new, so that `freeze: all-but-head` trains both, unless
    `pretrained` is a run or an export of this class: then the decoder is pretrained too, and the old head is kept as the
    source head. The classifier of timm's own weights is not kept, because its classes are of images, not of pixels.

    Args:
        task: What is predicted; given by the module.
        name: timm's name of the architecture, such as `resnet18` or `tf_efficientnet_lite0`.
        pretrained: Where weights come from: true for timm's own of that name, a hub name (`timm/resnet18.a1_in1k`), a
            run directory, an export or timm folder, a state dict file with timm's names; null for random ones.
        match: How a state dict file's tensors are matched: by name, or by order if their names are another library's.
        width: Channels of the decoder's features, on which the head is.
        dropout: Probability of dropping a channel before the head.
        image_size: Height and width the network is built for, in pixels; default those of the images.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    library = ""  # timm has no class for masks
    tasks = ("semantic_segmentation",)

    def __init__(
        self,
        task: TaskInfo,
        name: str,
        pretrained: str | bool | None = None,
        match: Literal["name", "order"] = "name",
        width: int = 32,
        dropout: float = 0.0,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        if not 1 <= width <= 4096:
            raise UserError("network.width", f"must be 1 to 4096 channels, got {width}")
        if not 0.0 <= dropout < 1.0:
            raise UserError("network.dropout", f"must be in [0, 1), got {dropout}")
        self.width, self.channel_dropout = width, dropout
        super().__init__(task, name, pretrained, match, None, image_size, keep_source_head, transforms)
        self.own_spec = replace(self.own_spec, view=None)  # images are not cropped

    @property
    def input_spec(self) -> InputSpec:
        """The normalisation of the pretrained weights; the size only if it is set, or the architecture has one alone."""
        spec = super().input_spec
        fixed = self.image_size or self.input_view.size or self.cfg.get("fixed_input_size")
        return InputSpec("masks", size=spec.size if fixed else None, channels=3, mean=spec.mean, std=spec.std)

    def take_apart(self, model: Any, keep: bool, labels: list[str], task: str | None = None) -> None:
        """Replaces classifier and pooling by the decoder."""
        if classifier := classifier_name(model):
            self.take_off(model, classifier, False, [])
            if keep and self.pretrained is not None:
                self.report.notes.append(
                    "the pretrained output layer is not kept: its classes are of images, not of pixels"
                )
        encoder = Pyramid(model, self.model_name, self.cfg, self.width, self.channel_dropout)
        left = {n.removeprefix("backbone.") for n in encoder.state_dict()}
        self.report.missing = [n for n in self.report.missing if n in left]
        decoder = {n for n in encoder.state_dict() if n.startswith("decoder.")}
        self.fresh = {f"backbone.{n}" for n in self.fresh & left} | (decoder if self.pretrained is not None else set())
        self.set_encoder(encoder, self.width)

    def export_config(self) -> dict[str, Any]:
        return {"name": self.model_name, "image_size": self.image_size, "width": self.width}

    def own_layers(self) -> list[tuple[str, list[str]]]:
        """The backbone's numbered blocks, then the decoder's levels."""
        return super(Timm, self).own_layers()


class Pyramid(nn.Module):
    """A backbone of timm whose maps of different sizes go through the decoder."""

    def __init__(self, model: Any, name: str, cfg: dict[str, Any], width: int, dropout: float) -> None:
        super().__init__()
        if not hasattr(model, "forward_intermediates") or not hasattr(model, "prune_intermediate_layers"):
            raise UserError(
                "network.name", f"timm's {name} does not give maps of several layers", "choose another model"
            )
        maps = tried(model, cfg["input_size"][-1], bool(cfg.get("fixed_input_size")))
        if any(one.ndim != 4 for one in maps):
            raise UserError(
                "network.name", f"timm's {name} does not give maps of several layers", "choose another model"
            )
        sizes = [one.shape[-1] for one in maps]
        self.levels = [i for i, size in enumerate(sizes) if i + 1 == len(sizes) or sizes[i + 1] != size]
        model.prune_intermediate_layers(self.levels, prune_norm=True, prune_head=True)
        self.backbone = model
        channels = [maps[i].shape[1] for i in self.levels]
        widths = [width * min(4, 2**level) for level in range(len(channels) - 1)]
        if widths:
            self.decoder: nn.Module = Decoder(channels, widths)
        else:  # maps of one size, as a vision transformer has
            self.decoder = Single(channels[0], width)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, image: Tensor) -> Tensor:
        """`[B, h, w, width]` at the size of the largest map."""
        pixels: Tensor = self.dropout(self.decoder(self.maps(image))).permute(0, 2, 3, 1).contiguous()
        return pixels

    def maps(self, image: Tensor) -> list[Tensor]:
        """The backbone's maps `[B, C, h, w]`, from the largest to the smallest."""
        found: list[Tensor] = self.backbone.forward_intermediates(
            image, indices=self.levels, intermediates_only=True, output_fmt="NCHW"
        )
        return found

    def set_input_size(self, size: tuple[int, int]) -> None:
        """Fits a backbone of fixed size to another one."""
        self.backbone.set_input_size(size)


class Single(nn.Module):
    """The decoder of a backbone with maps of one size: one convolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.levels = nn.Sequential(*convolved(channels, width))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """`[B, width, h, w]`"""
        found: Tensor = self.levels(maps[-1])
        return found


@torch.no_grad()
def tried(model: Any, own: int, fixed: bool) -> list[Tensor]:
    """The maps of one blank image, to learn their channels and sizes: of 64 pixels, or of its `own` size if 64 are too few."""
    training = model.training
    model.eval()

    def maps(side: int) -> list[Tensor]:
        image = torch.zeros(1, 3, side, side)
        return list(model.forward_intermediates(image, intermediates_only=True, output_fmt="NCHW"))

    try:
        return maps(own if fixed else 64)
    except RuntimeError:
        return maps(own)
    finally:
        model.train(training)
