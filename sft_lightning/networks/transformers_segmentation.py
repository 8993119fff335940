"""Segmentation networks of transformers, by name, folder or configuration."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.heads import fresh_linear, set_dropout
from sft_lightning.networks.hf import hf_export, labels_of, load_hf, set_module
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.transformers_image import TransformersImage
from sft_lightning.networks.transforms import Transform


class TransformersSegmentation(TransformersImage):
    """Any model of transformers' AutoModelForSemanticSegmentation that ends in a 1×1 convolution, which is replaced.

    SegFormer, BEiT, MobileViT and the like; the head is one linear layer on each pixel of the model's maps. UperNet and DPT
    enlarge maps to the image's size themselves, which takes memory. Auxiliary heads are left out. Of the image processor,
    mean and standard deviation are used. Exports are transformers folders: AutoModelForSemanticSegmentation loads them.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory, a state dict file
            (with config); null for random ones of config.
        config: The architecture without a pretrained folder: a folder or hub name with a config.json, or its
            values, such as `{model_type: segformer, depths: [2, 2, 2, 2]}`.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    tasks = ("semantic_segmentation",)

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        dropout: float | None = None,
        keep_source_head: bool | Literal["source"] = True,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super(TransformersImage, self).__init__(task, transforms)
        from transformers import AutoModelForSemanticSegmentation

        model = load_hf(
            AutoModelForSemanticSegmentation, pretrained, config, self, trust_remote_code, trim=without_auxiliary_head
        )
        self.head_name = self.split(model, keep_source_head is True)
        take_source_head(self, pretrained, keep_source_head)
        set_dropout(model, dropout)
        self.encoder = model
        self.own_spec = self.read_spec(model.config, config)

    def split(self, model: Any, keep: bool) -> str:
        """Replaces the last convolution by the identity, makes the new head, and keeps the old one if it was pretrained."""
        name, old = last_convolution(model)
        filled = not any(n.startswith(f"{name}.") for n in self.fresh)
        self.fresh = {n for n in self.fresh if not n.startswith(f"{name}.")}
        self.report.missing = [n for n in self.report.missing if not n.startswith(f"{name}.")]
        set_module(model, name, Through())
        self.head = fresh_linear(old.in_channels, self.task.num_outputs, bias=old.bias is not None)
        if self.pretrained is not None and keep and filled:
            self.keep_source_head(linear_of(old), labels_of(model), "semantic_segmentation")
        return name

    @property
    def input_spec(self) -> InputSpec:
        """The normalisation of the image processor, if the weights came with one; the size only of an earlier run."""
        known, own = self.input_view, self.own_spec
        mean, std = known.mean or own.mean, known.std or own.std
        return InputSpec("masks", size=known.size, channels=own.channels, mean=mean, std=std)

    def read_spec(self, config: Any, given: str | dict[str, Any] | None) -> InputSpec:
        """Reads the input's form from the image processor's file, or else from the model's configuration."""
        channels, values = int(getattr(config, "num_channels", 3)), self.processor_values(given)[1]
        if values.get("do_normalize") is False:
            values |= {"image_mean": [0.0] * channels, "image_std": [1.0] * channels}
        mean, std = (tuple(values[k]) if values.get(k) else None for k in ("image_mean", "image_std"))
        return InputSpec("masks", channels=channels, mean=mean, std=std)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        maps: Tensor = self.encoder(pixel_values=x["image"]).logits
        return maps.permute(0, 2, 3, 1).contiguous()

    def save_pretrained(self, folder: str) -> None:
        """Writes a transformers folder: config.json, model.safetensors, preprocessor_config.json."""
        assert isinstance(self.head, nn.Linear)
        hf_export(self, self.encoder, folder, self.head_name, convolution_of(self.head))
        spec = self.input_spec
        processor = {
            "image_processor_type": "SegformerImageProcessor",
            "do_resize": spec.size is not None,
            "size": None if spec.size is None else {"height": spec.size[0], "width": spec.size[1]},
            "resample": 2,  # bilinear
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": spec.mean is not None,
            "image_mean": list(spec.mean or ()) or None,
            "image_std": list(spec.std or ()) or None,
        }
        values = {name: value for name, value in processor.items() if value is not None}
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")


class Through(nn.Identity):
    """The identity in a 1×1 convolution's place; MobileNet asks for that one's sizes."""

    kernel_size = stride = dilation = (1, 1)


def without_auxiliary_head(model: Any) -> None:
    """Removes the head that only helps training from scratch."""
    if getattr(model, "auxiliary_head", None) is not None:
        model.auxiliary_head = None
        model.config.use_auxiliary_head = False


def last_convolution(model: Any) -> tuple[str, nn.Conv2d]:
    """Name of the layer that gives the model's outputs: its last 1×1 convolution with one output for each label."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and module.out_channels == model.config.num_labels
    ]
    if not found:
        raise UserError(
            "network",
            f"{type(model).__name__} does not end in a 1×1 convolution, so it cannot get a new head",
            "choose another model",
        )
    return found[-1]


@torch.no_grad()
def linear_of(convolution: nn.Conv2d) -> nn.Linear:
    """A 1×1 convolution as a linear layer on each pixel."""
    linear = nn.Linear(convolution.in_channels, convolution.out_channels, bias=convolution.bias is not None)
    linear.weight.copy_(convolution.weight.flatten(1))
    if convolution.bias is not None:
        linear.bias.copy_(convolution.bias)
    return linear


@torch.no_grad()
def convolution_of(linear: nn.Linear) -> nn.Conv2d:
    """A linear layer on each pixel as a 1×1 convolution."""
    convolution = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=linear.bias is not None)
    convolution.weight.copy_(linear.weight[..., None, None])
    if convolution.bias is not None:
        convolution.bias.copy_(linear.bias)
    return convolution
