"""Image classification networks of torchvision, by name."""

import re
from types import MethodType
from typing import Any, Literal

from torch import nn

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.backbone import Backbone, classes_of, named_as, read_weights
from sft_lightning.networks.image_view import ImageView
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.torchvision_weights import library_weights
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.weights import Source, resolve

FIXED = {"vit": "image_size", "maxvit": "input_size"}  # families built for one size, and the argument that sets it
TWICE_NORMALISED = ("googlenet", "inception_v3")
"""Models whose pretrained versions normalise again inside; here that is off, and the data are normalised accordingly"""
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)")  # DenseNet's files: norm.1 for norm1
BLOCK = re.compile(r"\d+|encoder_layer_\d+|denselayer\d+|transition\d+|block\d+-\d+|Mixed_\w+|inception\d\w+")


class Torchvision(Backbone):
    """Any classification model of torchvision without its last linear layer, and one linear head in its place.

    SqueezeNet ends in a convolution, which cannot be kept as a source head; the new head takes its pooled features.
    GoogLeNet and Inception are built without their auxiliary outputs.

    Args:
        task: What is predicted; given by the module.
        name: torchvision's name of the architecture, such as `resnet18` or `vit_b_16`.
        pretrained: Where weights come from: a name of torchvision's weights (`DEFAULT`, `IMAGENET1K_V2`), a run
            directory, an export folder, a state dict file with torchvision's names; null for random ones.
        dropout: Probability of dropping a unit, in every dropout layer; null for the architecture's own.
        image_size: Height and width the network is built for, in pixels; default the architecture's own.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    def __init__(
        self,
        task: TaskInfo,
        name: str,
        pretrained: str | None = None,
        dropout: float | None = None,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        from torchvision import models

        from sft_lightning.networks.heads import set_dropout

        names = models.list_models(module=models)
        if name not in names:
            raise UserError("network.name", f"torchvision has no classification model '{name}'{nearest(name, names)}")
        self.model_name, self.image_size = name, image_size
        self.own_spec = InputSpec("image", size=(224, 224) if self.fixed_argument else None)
        weights = models.get_model_weights(name).__members__
        keep = keep_source_head is True
        if pretrained is None:
            self.take_apart(self.build(), keep, [])
        elif pretrained in weights:
            self.from_library(weights[pretrained], pretrained, keep)
        else:
            source = resolve(pretrained)
            if source.hub is not None:
                raise UserError(
                    "network.pretrained",
                    f"{name} has no weights '{pretrained}', and there is no such folder or file"
                    f"{nearest(pretrained, weights)}; it has {', '.join(weights) or 'no weights'}",
                )
            self.from_tensors(source, list(weights.values()), keep)
        take_source_head(self, None if pretrained in weights else pretrained, keep_source_head)
        self.built_for = self.input_spec.size if self.fixed_argument else None
        set_dropout(self.encoder, dropout)

    @property
    def fixed_argument(self) -> str | None:
        """Name of the builder's argument that fixes the size, for the families that have one."""
        return FIXED.get(self.model_name.partition("_")[0])

    # ---- where weights come from ----

    def build(self, **options: Any) -> nn.Module:
        """The whole model, classifier included."""
        from torchvision import models

        if self.model_name in TWICE_NORMALISED:
            options |= {} if "weights" in options else {"aux_logits": False, "init_weights": True}
        if self.image_size is not None and self.fixed_argument is not None:
            sized = (self.image_size,) * 2 if self.fixed_argument == "input_size" else self.image_size
            options[self.fixed_argument] = sized
        try:
            model: nn.Module = models.get_model(self.model_name, **options)
        except (ValueError, AssertionError, RuntimeError) as error:
            if not options:
                raise
            raise UserError(
                "network", f"{self.model_name} cannot be built with these arguments: {error or type(error).__name__}"
            ) from None
        if self.model_name in TWICE_NORMALISED:
            model.transform_input = model.aux_logits = False  # type: ignore[assignment]
            for name in AUXILIARY:
                setattr(model, name.rstrip("."), None)
        if self.model_name.startswith("mnasnet"):  # its own loader needs a version that only torch.save's files have
            model._load_from_state_dict = MethodType(nn.Module._load_from_state_dict, model)  # type: ignore[method-assign]
        return model

    def from_library(self, weights: Any, pretrained: str, keep: bool) -> None:
        """Builds the network with torchvision's own weights, from its cache or its server."""
        with library_weights(weights, pretrained, self.model_name):
            model = self.build(weights=weights)
        self.note(Source(pretrained, hub=weights.url))
        self.report.loaded = len(model.state_dict())
        self.take_apart(model, keep, list(weights.meta.get("categories") or []))
        self.own_spec = self.spec_of(weights)

    def from_tensors(self, source: Source, weights: list[Any], keep: bool) -> None:
        """Builds the network from a file or a folder: with our names, or with torchvision's."""
        if source.ours:
            self.check_ours(source)
            self.image_size = self.image_size or (source.ours.get("init_args") or {}).get("image_size")
        state = read_weights(source, self.report.notes)
        model = self.build()
        state = {OLD_NAME.sub(r"\1\2", n): v for n, v in state.items()}
        state, ours = named_as(state, model, classifier_of(model), source, self.report.notes)
        if ours:
            self.take_apart(model, False, [])
            self.fill_ours(state, source, keep)
            return
        self.note(source)
        state = {n: v for n, v in state.items() if not n.startswith(AUXILIARY)}
        classes = classes_of(state, model, classifier_of(model), "name", 1000)
        if classes != 1000:
            model = self.build(num_classes=classes)
        self.fill_model(model, state, classifier_of(model), "name")
        self.take_apart(model, keep, [])
        if weights:
            self.own_spec = self.spec_of(weights[0])

    def spec_of(self, weights: Any) -> InputSpec:
        """The view and normalisation with which torchvision evaluated its weights."""
        made = weights.transforms()
        mean, std = tuple(made.mean), tuple(made.std)
        if self.model_name in TWICE_NORMALISED:
            mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        crop = (made.crop_size[0], made.crop_size[0])
        view = ImageView(made.resize_size[0], crop, made.interpolation.value)
        return InputSpec("image", size=crop, mean=mean, std=std, view=view)

    # ---- the parts ----

    def take_apart(self, model: nn.Module, keep: bool, labels: list[str]) -> None:
        """Removes the classifier, so that the model gives features."""
        classifier = classifier_of(model)
        if self.model_name.startswith("squeezenet"):  # dropout, convolution, ReLU, pool: the pool stays
            features = int(model.get_submodule(classifier).in_channels)  # type: ignore[arg-type]
            layers: Any = model.get_submodule("classifier")
            layers[1], layers[2] = nn.Identity(), nn.Identity()
            self.fresh = {n for n in self.fresh if not n.startswith("classifier.")}
        else:
            features = self.take_off(model, classifier, keep, labels).in_features
        self.set_encoder(model, features)

    def own_layers(self) -> list[tuple[str, list[str]]]:
        """One layer for each block, by torchvision's names, and one for all that lies below, between or above the blocks."""
        layers: list[tuple[str, list[str]]] = []
        blocks: set[str] = set()
        for name in self.encoder_parameters():
            parts = name.split(".")
            at = next((i for i, p in enumerate(parts) if BLOCK.fullmatch(p)), None)
            key = ".".join(parts[:-1] if at is None else parts[: at + 1])
            if at is not None:
                blocks.add(key)
            if layers and (layers[-1][0] == key or (at is None and layers[-1][0] not in blocks)):
                layers[-1][1].append(name)
            else:
                layers.append((key, [name]))
        return layers


def classifier_of(model: nn.Module) -> str:
    """Name of the last linear layer, or of SqueezeNet's last convolution."""
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return linear[-1] if linear else "classifier.1"
