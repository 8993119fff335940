"""Image networks of timm, by name."""

from math import floor
from typing import Any, Literal

from torch import nn

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import InputSpec, TaskInfo
from sft_lightning.networks.backbone import Backbone, classes_of, is_ours, named_as, read_weights
from sft_lightning.networks.image_view import RESAMPLE, ImageView
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.weights import Source, resolve, tensors_alone


class Timm(Backbone):
    """Any image model of timm without its classifier, and one linear head on its pooled features.

    The classifier is kept as the source head if it is one linear layer, which it nearly always is.

    Args:
        task: What is predicted; given by the module.
        name: timm's name of the architecture, such as `resnet18` or `vit_tiny_patch16_224.augreg_in21k`.
        pretrained: Where weights come from: true for timm's own of that name, a hub name (`timm/resnet18.a1_in1k`), a
            run directory, an export or timm folder, a state dict file with timm's names; null for random ones.
        match: How a state dict file's tensors are matched: by name, or by order if their names are another library's.
        dropout: Probability of dropping a feature before the head; null for the architecture's own.
        image_size: Height and width the network is built for, in pixels; default the architecture's own.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    library = "timm"

    def __init__(
        self,
        task: TaskInfo,
        name: str,
        pretrained: str | bool | None = None,
        match: Literal["name", "order"] = "name",
        dropout: float | None = None,
        image_size: int | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        import timm

        if not timm.is_model(name):
            raise UserError("network.name", f"timm has no model '{name}'{nearest(name, timm.list_models())}")
        if match not in ("name", "order"):
            raise UserError("network.match", f"must be name or order, got '{match}'")
        if dropout is not None and not 0.0 <= dropout < 1.0:
            raise UserError("network.dropout", f"must be in [0, 1), got {dropout}")
        self.model_name, self.image_size, self.match = name, image_size, match
        self.options = {} if dropout is None else {"drop_rate": dropout}
        self.cfg: dict[str, Any] = {}
        keep = bool(keep_source_head)
        if pretrained is None or pretrained is False:
            self.take_apart(self.build(), keep, [])
            self.resize()
        elif pretrained is True:
            self.from_hub(name, Source(name, hub=name), keep)
        else:
            source = resolve(pretrained.removeprefix("hf-hub:"))
            if source.hub is None:
                self.from_tensors(source, match, keep)
            else:
                hub = source.hub if timm.is_model(source.hub) else f"hf-hub:{source.hub}"
                self.from_hub(hub, source, keep)
        take_source_head(self, self.pretrained, keep_source_head)
        cfg, known = self.cfg, self.pretrained is not None
        size = tuple(cfg["input_size"][1:]) if known or cfg.get("fixed_input_size") else None
        self.own_spec = InputSpec(
            "image",
            size=size,
            mean=tuple(cfg["mean"]) if known and cfg.get("mean") else None,
            std=tuple(cfg["std"]) if known and cfg.get("std") else None,
            view=self.view_of_cfg() if known else None,
        )
        self.built_for = self.input_spec.size if cfg.get("fixed_input_size") else None

    def view_of_cfg(self) -> ImageView | None:
        """The view of timm's own evaluation transform; None, with a note, if an ImageView cannot express it."""
        from timm.data import resolve_data_config

        config = resolve_data_config(pretrained_cfg=self.cfg)
        (_, height, width), mode, filter_ = config["input_size"], config["crop_mode"], config["interpolation"]
        grown = floor(height / config["crop_pct"]), floor(width / config["crop_pct"])
        if filter_ not in RESAMPLE or mode not in ("center", "squash") or (mode == "center" and grown[0] != grown[1]):
            self.report.notes.append(
                f"timm's view of {self.model_name} is not used (crop_mode {mode}, {height}×{width} pixels, {filter_}): the "
                "shorter side is resized, bilinear, and the centre cropped"
            )
            return None
        return ImageView(grown[0] if mode == "center" else grown, (height, width), filter_)

    # ---- where weights come from ----

    def build(self, name: str | None = None, **options: Any) -> nn.Module:
        """The whole model, classifier included."""
        import timm

        try:
            model: nn.Module = timm.create_model(name or self.model_name, **self.options, **options)
        except TypeError as error:
            raise UserError("network", f"{self.model_name} cannot be built with these arguments: {error}") from None
        self.cfg = dict(model.pretrained_cfg)  # type: ignore[arg-type]
        return model

    def from_hub(self, name: str, source: Source, keep: bool) -> None:
        """Builds the network from the hub: timm downloads, renames and fills."""
        from sft_lightning.networks.hf import user_errors

        with user_errors("network.pretrained", source.name, "Timm"), tensors_alone():
            model = self.build(name, pretrained=True)
        self.check_architecture(source, self.cfg["architecture"])
        self.note(source)
        self.report.loaded = len(model.state_dict())
        self.take_apart(model, keep, self.cfg.get("label_names") or imagenet_labels(model))
        self.resize()

    def from_tensors(self, source: Source, match: str, keep: bool) -> None:
        """Builds the network from a file or a folder: with our names, with timm's, or in timm's order."""
        if source.ours and "architecture" not in source.config:
            self.check_ours(source)
        self.check_architecture(source, source.config.get("architecture"))
        state = read_weights(source, self.report.notes)
        model = self.build()
        self.cfg |= dict(source.config.get("pretrained_cfg") or {})
        named = self.cfg["classifier"]  # one name, or several for models with several heads
        classifier = classifier_name(model) or (named if isinstance(named, str) else named[0])
        ours = is_ours(state)
        if match == "name":
            state, ours = named_as(state, model, classifier, source, self.report.notes)
        theirs = (source.ours.get("init_args") or {}).get("image_size")
        wanted, self.image_size = self.image_size or theirs, theirs
        if ours:
            self.take_apart(model, False, [])
            self.resize()
            self.fill_ours(state, source, keep)
        else:
            self.note(source)
            classes = classes_of(state, model, classifier, match, model.num_classes)  # type: ignore[arg-type]
            if classes != model.num_classes:
                model.reset_classifier(classes)  # type: ignore[operator]
            self.resize(model)
            self.fill_model(model, state, classifier, match)
            task = (source.ours.get("task") or {}).get("name")
            self.take_apart(model, keep, list(source.config.get("label_names") or []), task)
        self.image_size = wanted
        self.resize()

    def check_architecture(self, source: Source, theirs: str | None) -> None:
        """Raises UserError if a hub's model or a folder's config.json has another architecture."""
        if theirs is not None and theirs != self.model_name.partition(".")[0]:
            raise UserError(
                "network.pretrained",
                f"{source.name} is a {theirs}, and the network is {self.model_name}",
                f"set network.init_args.name to {theirs}, or choose other weights",
            )

    # ---- the parts ----

    def take_apart(self, model: Any, keep: bool, labels: list[str], task: str | None = None) -> None:
        """Removes the classifier, so that the model gives pooled features."""
        classifier = classifier_name(model)
        if classifier is not None:
            features = self.take_off(model, classifier, keep, labels, task).in_features
        else:  # a convolutional or double classifier: there is no linear layer to keep
            model.reset_classifier(0)
            features = getattr(model, "head_hidden_size", model.num_features)
            own = set(model.state_dict())
            self.fresh, self.report.missing = self.fresh & own, [n for n in self.report.missing if n in own]
        self.set_encoder(model, features)

    def resize(self, model: Any = None) -> None:
        """Fits a network of fixed size to `image_size`, and interpolates its position embeddings. `model` is the encoder, if it
        is not taken apart yet.
        """
        model = self.encoder if model is None else model
        if self.image_size is None or not self.cfg.get("fixed_input_size"):
            return
        if not hasattr(model, "set_input_size"):
            raise UserError(
                "network.image_size",
                f"{self.image_size} does not work, because {self.model_name} has a fixed size of "
                f"{self.cfg['input_size'][1]} pixels",
                "leave it out",
            )
        try:
            model.set_input_size((self.image_size, self.image_size))
        except (AssertionError, ValueError) as error:
            raise UserError(
                "network.image_size",
                f"{self.image_size} does not work with {self.model_name}: {error}",
                "choose another size",
            ) from None

    def own_layers(self) -> list[tuple[str, list[str]]]:
        """The layers as timm groups them, if the architecture defines groups."""
        from timm.models._manipulate import group_parameters

        try:
            groups = group_parameters(self.encoder, self.encoder.group_matcher(coarse=False))  # type: ignore[operator]
        except (AttributeError, TypeError, NotImplementedError):
            return super().own_layers()
        named = [(names[-1].rpartition(".")[0], [f"encoder.{n}" for n in names]) for names in groups.values() if names]
        if {n for _, names in named for n in names} != set(self.encoder_parameters()):
            return super().own_layers()
        return [(f"encoder.{name}", names) for name, names in named]


def classifier_name(model: nn.Module) -> str | None:
    """Name of the classifier if the logits are one linear layer's."""
    classifier = model.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear) or getattr(model, "aux_head", None) is not None:
        return None
    return next((n for n, m in model.named_modules() if m is classifier), None)


def imagenet_labels(model: Any) -> list[str]:
    """ImageNet's class names, if timm knows on which of its subsets the model was trained; else an empty list."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(model)
    return [] if subset is None else list(ImageNetInfo(subset).label_descriptions())
