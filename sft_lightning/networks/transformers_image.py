"""Image classification networks of transformers, by name, folder or configuration."""

import json
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.hf import find, hf_export, load_hf, split_head
from sft_lightning.networks.processor_view import NotFollowed, ProcessorView, ask, load_processor, of_size
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.transforms import Transform


class TransformersImage(Network):
    """Any model of transformers' AutoModelForImageClassification, its last linear layer replaced.

    Exports are transformers folders: AutoModelForImageClassification and AutoImageProcessor load them.

    Args:
        task: What is predicted; given by the module.
        pretrained: Where weights come from: a hub name, a transformers folder, a run directory, a state dict file
            (with config); null for random ones of config.
        config: The architecture without a pretrained folder: a folder or hub name with a config.json, or its
            values, such as `{model_type: vit, hidden_size: 192}`.
        dropout: Probability of dropping a unit, in every dropout layer; null for the model's own.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        trust_remote_code: Run the Python code that comes with the hub's model; only for models whose code you have read.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    library = "transformers"

    def __init__(
        self,
        task: TaskInfo,
        pretrained: str | None = None,
        config: str | dict[str, Any] | None = None,
        dropout: float | None = None,
        gradient_checkpointing: bool = False,
        keep_source_head: bool | Literal["source"] = True,
        trust_remote_code: bool = False,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from transformers import AutoModelForImageClassification

        model = load_hf(AutoModelForImageClassification, pretrained, config, self, trust_remote_code)
        self.head_name = split_head(self, model, keep_source_head is True)
        take_source_head(self, pretrained, keep_source_head)
        set_dropout(model, dropout)
        if gradient_checkpointing:
            if not model.supports_gradient_checkpointing:
                raise UserError(
                    "network.gradient_checkpointing", f"{type(model).__name__} does not support it", "set it to false"
                )
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.encoder = model
        self.processor: Any = None
        self.own_spec = self.read_spec(model.config, config)
        takes_any_size = "interpolate_pos_encoding" in signature(model.forward).parameters
        self.trained_size = square(getattr(model.config, "image_size", None)) if takes_any_size else None

    @property
    def input_spec(self) -> InputSpec:
        """The view of the image processor, if the weights came with one; else the configuration's size."""
        known, own = self.input_view, self.own_spec
        return InputSpec(
            "image",
            size=known.size or own.size,
            channels=own.channels,
            mean=known.mean or own.mean,
            std=known.std or own.std,
            view=own.view if known.size is None or known.view else None,
            reverse_channels=known.reverse_channels or own.reverse_channels,
        )

    def read_spec(self, config: Any, given: str | dict[str, Any] | None) -> InputSpec:
        """Reads the input's form from the image processor, or else from the model's configuration."""
        size, channels = square(getattr(config, "image_size", None)), int(getattr(config, "num_channels", 3))
        place, values = self.processor_values(given)
        if place is None:
            return InputSpec("image", size=size, channels=channels)
        try:
            self.processor = load_processor(place)
            found = ask(self.processor, channels)
            return InputSpec(
                "image",
                size=found.view.size,
                channels=channels,
                mean=found.mean,
                std=found.std,
                view=found.view,
                reverse_channels=found.reverse_channels,
            )
        except NotFollowed as error:
            self.processor = None
            kind = values.get("image_processor_type") or values.get("feature_extractor_type") or "the image processor"
            self.report.notes.append(
                f"{kind} is not used ({error}): size, mean and std come from preprocessor_config.json alone"
            )
        shown = values.get("crop_size") if values.get("do_center_crop") and values.get("crop_size") else None
        size = square(shown or values.get("size")) or size
        if values.get("do_normalize") is False:
            values |= {"image_mean": [0.0] * channels, "image_std": [1.0] * channels}
        mean, std = (tuple(values[k]) if values.get(k) else None for k in ("image_mean", "image_std"))
        return InputSpec("image", size=size, channels=channels, mean=mean, std=std)

    def processor_values(self, given: str | dict[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
        """The folder or hub name with preprocessor_config.json, and that file's values; (None, {}) without such a file."""
        if self.pretrained is None:
            return None, {}
        source = find(self.pretrained, self)
        folder, hub = source.folder, source.hub
        if source.file is not None and isinstance(given, str):  # the weights are in a file, the rest in a folder
            folder, hub = (Path(given), None) if Path(given).is_dir() else (None, given)
        path = folder / "preprocessor_config.json" if folder else None
        if hub is not None:
            from transformers.utils import cached_file

            found = cached_file(hub, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
            path = Path(found) if found else None
        if path is None or not path.is_file():
            return None, {}
        try:
            return hub or str(folder), dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, OSError) as error:
            raise UserError(
                "network.pretrained", f"{path} cannot be read: {error}", "replace it, or remove it"
            ) from None

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        image, options = x["image"], {}
        if self.trained_size is not None and tuple(image.shape[-2:]) != self.trained_size:
            options["interpolate_pos_encoding"] = True
        features: Tensor = self.encoder(pixel_values=image, **options).logits
        return features

    def save_pretrained(self, folder: str) -> None:
        """Writes a transformers folder: config.json, model.safetensors, preprocessor_config.json."""
        hf_export(self, self.encoder, folder, self.head_name)
        path, spec = Path(folder) / "preprocessor_config.json", self.input_spec
        size, own = spec.size or (224, 224), None
        if isinstance(spec.view, ProcessorView):
            own = spec.view.processor
        elif spec.reverse_channels and self.processor is not None:  # no other kind of processor reverses channels
            own = of_size(self.processor, size, spec.channels or 3)
        if own is not None:
            path.write_text(own.to_json_string())
            return
        processor = {
            # The data modules also resize the shorter side and crop the centre.
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": spec.channels == 3,
            "do_resize": True,
            "size": {"shortest_edge": max(size)},
            "resample": 2,  # bilinear
            "do_center_crop": True,
            "crop_size": {"height": size[0], "width": size[1]},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": spec.mean is not None,
            "image_mean": list(spec.mean or ()) or None,
            "image_std": list(spec.std or ()) or None,
        }
        path.write_text(json.dumps(processor, indent=2) + "\n")


def square(size: Any) -> tuple[int, int] | None:
    """(height, width) from any of transformers' forms of a size: 224, [224, 224], {shortest_edge: 224}, …"""
    if isinstance(size, dict):
        if "height" in size and "width" in size:
            return int(size["height"]), int(size["width"])
        size = size.get("shortest_edge")
    if isinstance(size, (list, tuple)):
        return int(size[0]), int(size[-1])
    return None if size is None else (int(size), int(size))
