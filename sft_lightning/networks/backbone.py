"""The base of timm and torchvision networks: removes the classifier and keeps everything below it as the encoder."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import fresh_linear
from sft_lightning.networks.image_view import view_of
from sft_lightning.networks.names import unprefixed
from sft_lightning.networks.weights import Source, by_position, fill, read_state_dict

HEAD = "head."


class Backbone(Network, base=True):
    """An encoder built by a library, with one linear head.

    A state dict has either the library's own names, for the whole model with its classifier, or ours (`encoder.…`,
    `head.…`), as in a run or an export folder.
    """

    model_name: str
    image_size: int | None
    own_spec: InputSpec
    built_for: tuple[int, int] | None = None
    """height, width in pixels, if the architecture takes one size only"""

    @property
    def input_spec(self) -> InputSpec:
        """The pretrained weights' own view and normalisation; `image_size` and the input of an earlier run take precedence."""
        known, own = self.input_view, self.own_spec
        size = (self.image_size, self.image_size) if self.image_size else known.size or own.size
        view = view_of(known.view) if known.size else own.view
        return InputSpec(
            "image",
            size=size,
            channels=3,
            mean=known.mean or own.mean,
            std=known.std or own.std,
            view=view if view is not None and view.size == size else None,
        )

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        size = tuple(x["image"].shape[-2:])
        if self.built_for is not None and size != self.built_for:
            raise UserError(
                "network.image_size",
                f"{self.model_name} is built for {self.built_for[0]} pixels, the images have {size[0]}",
                f"set it to {size[0]}, or leave the data's image_size out",
            )
        return super().encode(x)

    def export_config(self) -> dict[str, Any]:
        return {"name": self.model_name, "image_size": self.image_size}

    def set_encoder(self, encoder: nn.Module, features: int) -> None:
        """The model without its classifier, and a new head on its `features`."""
        self.encoder, self.head = encoder, fresh_linear(features, self.task.num_outputs)

    def check_ours(self, source: Source) -> None:
        """Raises UserError if one of our folders holds another network."""
        args = source.ours.get("init_args") or {}
        theirs = ((source.ours.get("network") or "").rpartition(".")[2], args.get("name"))
        if theirs != (type(self).__name__, self.model_name):
            raise UserError(
                "network.pretrained",
                f"{source.name} holds a {' '.join(t for t in theirs if t)}, and the network is a {type(self).__name__} "
                f"{self.model_name}",
                "choose weights of this network, or set the network to theirs",
            )

    def fill_ours(self, state: Mapping[str, Tensor], source: Source, keep_source_head: bool) -> None:
        """Fills encoder and source head from tensors with our names. Encoder and head must be set already."""
        self.note(source)
        theirs = {n: v for n, v in state.items() if not n.startswith(HEAD)}
        fresh = fill(self, theirs, self.report, head=HEAD)
        self.fresh = {n.removeprefix("encoder.") for n in fresh if n.startswith("encoder.")}
        self.report.missing = [n for n in self.report.missing if n.startswith("encoder.")]
        if keep_source_head:
            task = source.ours.get("task") or {}
            self.keep_source_linear(state, list(task.get("labels") or []), task.get("name"))

    def fill_model(self, model: nn.Module, state: Mapping[str, Tensor], classifier: str, match: str) -> None:
        """Fills the library's whole model from tensors with its own names, or in its own order."""
        if match == "order":
            state = by_position(state, model, self.report.source)
        by_order = "set network.init_args.match order" if hasattr(self, "match") else ""
        self.fresh = fill(model, state, self.report, head=f"{classifier}.", by_order=by_order)

    def take_off(
        self, model: nn.Module, classifier: str, keep_source_head: bool, labels: list[str], task: str | None = None
    ) -> nn.Linear:
        """Replaces the linear classifier by the identity; keeps it as the source head if it was pretrained. `task` is its name,
        if that is known.
        """
        old = model.get_submodule(classifier)
        assert isinstance(old, nn.Linear)
        filled = not any(n.startswith(f"{classifier}.") for n in self.fresh)
        self.fresh = {n for n in self.fresh if not n.startswith(f"{classifier}.")}
        self.report.missing = [n for n in self.report.missing if not n.startswith(f"{classifier}.")]
        if self.pretrained is not None and keep_source_head and filled:
            self.keep_source_head(old, labels, task)
        parent, _, leaf = classifier.rpartition(".")
        setattr(model.get_submodule(parent), leaf, nn.Identity())
        return old

    def note(self, source: Source) -> None:
        """Records where the weights come from, and which inputs they were trained on."""
        self.pretrained = source.name
        self.report.source = str(source.file or source.folder or source.hub)
        self.input_view = InputView.of(source.ours.get("input"))


def read_weights(source: Source, notes: list[str]) -> dict[str, Tensor]:
    """The tensors of a file, or of the model.safetensors (or else pytorch_model.bin) of a folder."""
    if source.file is not None:
        return read_state_dict(source.file, notes)
    assert source.folder is not None
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (source.folder / name).is_file():
            return read_state_dict(source.folder / name, notes)
    raise UserError("network.pretrained", f"{source.folder} has no weights", "add model.safetensors to it")


def named_as(
    state: Mapping[str, Tensor], model: nn.Module, classifier: str, source: Source, notes: list[str]
) -> tuple[dict[str, Tensor], bool]:
    """Removes a prefix from the names. Returns the tensors, and whether their names are ours (`encoder.…`, `head.…`)."""
    library = set(model.state_dict())
    body = {n for n in library if not n.startswith(f"{classifier}.")}
    ours = {f"encoder.{n}" for n in body}
    if is_ours(state) and f"encoder.{classifier}.weight" not in state:
        return dict(state), True
    found = unprefixed(state, [library, ours], str(source.file or source.folder), notes)
    return found, is_ours(found)


def is_ours(state: Mapping[str, Tensor]) -> bool:
    """Whether all names are as in our own exports."""
    return all(n.startswith(("encoder.", HEAD)) for n in state)


def classes_of(state: Mapping[str, Tensor], model: nn.Module, classifier: str, match: str, default: int) -> int:
    """Number of outputs of the classifier in a state dict; `default` if the state dict has no classifier."""
    named = list(zip(model.state_dict(), state.values(), strict=False)) if match == "order" else list(state.items())
    weights = (v for n, v in named if n.startswith(f"{classifier}.") and v.ndim > 1)
    return int(next((v.shape[0] for v in weights), default))
