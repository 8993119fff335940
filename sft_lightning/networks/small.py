"""The small networks of tutorials, MLP and LeNet, and their base: an encoder of our own and one linear head."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from sft_lightning.core.errors import UserError
from sft_lightning.core.structures import InputSpec, InputView, TaskInfo
from sft_lightning.networks.base import Network
from sft_lightning.networks.heads import set_dropout
from sft_lightning.networks.names import unprefixed
from sft_lightning.networks.source_head import take_source_head
from sft_lightning.networks.transforms import Transform
from sft_lightning.networks.weights import fill, read_state_dict, resolve


class SmallNetwork(Network, base=True):
    """Loads `pretrained`: a state dict with our names (`encoder.…`, `head.…`) in a folder or a file."""

    def start_from(self, pretrained: str | None, keep: bool | str, encoder: nn.Module, features: int) -> None:
        """Sets encoder and heads, and fills them from `pretrained`. The source head is the pretrained head if `keep` is True,
        or with 'source' the source head that was kept beside it.
        """
        head = nn.Linear(features, self.task.num_outputs)
        self.encoder, self.head = encoder, head
        if pretrained is not None:
            self._fill_from(pretrained, keep is True)
            head.reset_parameters()
        take_source_head(self, pretrained, keep)

    def _fill_from(self, pretrained: str, keep: bool) -> None:
        source = resolve(pretrained)
        if source.hub:
            raise UserError(
                "network.pretrained",
                f"{pretrained} is neither a folder nor a file, and {type(self).__name__} has no weights on a hub",
                "choose an export folder or a state dict file",
            )
        theirs = (source.ours.get("network") or "").rpartition(".")[2]
        if theirs and theirs != type(self).__name__:
            raise UserError(
                "network.pretrained",
                f"{pretrained} holds a {theirs}, and the network is a {type(self).__name__}",
                f"choose other weights, or set network to {theirs}",
            )
        path = source.file or (source.folder / "model.safetensors" if source.folder else None)
        assert path is not None
        if not path.is_file():
            raise UserError("network.pretrained", f"{path} does not exist", "choose another folder or file")
        names = [n for n in self.state_dict() if not n.startswith("head.")]
        state = unprefixed(read_state_dict(path, self.report.notes), [names], str(path), self.report.notes)
        self.pretrained, self.report.source = pretrained, str(path)
        self.input_view = InputView.of(source.ours.get("input"))
        fresh = fill(self, state, self.report, head="head.")
        self.fresh = {n.removeprefix("encoder.") for n in fresh if n.startswith("encoder.")}
        if above := [n for n in self.report.unexpected if n.startswith("encoder.")]:
            raise UserError(
                "network.pretrained",
                f"the architectures differ: the encoder in {path} has tensors that the network lacks ({len(above)}, the first "
                f"{above[0]}), so its output layer does not fit the network's features",
                "give the network the same layers",
            )
        if keep:
            task = source.ours.get("task") or {}
            self.keep_source_linear(state, list(task.get("labels") or []), task.get("name"))
        self.report.missing = [n for n in self.report.missing if not n.startswith("head.")]

    def image_spec(self, size: tuple[int, int] | None = None, channels: int | None = None) -> InputSpec:
        """The images that the network takes, with the normalisation it was pretrained with, if any."""
        known = self.input_view
        return InputSpec("image", size=size or known.size, channels=channels, mean=known.mean, std=known.std)


class MLP(SmallNetwork):
    """A multilayer perceptron with ReLU on flattened images or feature vectors; 784-256-C by default.

    Args:
        task: What is predicted; given by the module.
        in_features: Number of input values (height × width × channels).
        hidden: Units of each hidden layer, bottom to top.
        dropout: Probability of dropping a hidden unit.
        pretrained: Where weights come from: a run directory, an export folder, a state dict file, `builtin:NAME`;
            null for random ones.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    def __init__(
        self,
        task: TaskInfo,
        in_features: int = 784,
        hidden: Sequence[int] = (256,),
        dropout: float = 0.0,
        pretrained: str | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        self.in_features, self.hidden = in_features, list(hidden)
        if not self.hidden:
            raise UserError("network.hidden", "must name at least one layer, got none", "give the units of each layer")
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip([in_features, *self.hidden], self.hidden, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        encoder = nn.Sequential(*layers)
        set_dropout(encoder, dropout)
        self.start_from(pretrained, keep_source_head, encoder, self.hidden[-1])

    @property
    def input_spec(self) -> InputSpec:
        return self.image_spec()

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        image = x["image"]
        if image[0].numel() != self.in_features:
            shape = "×".join(str(n) for n in image.shape[1:])
            raise UserError(
                "network.in_features",
                f"MLP takes {self.in_features} values, and the data's images have {image[0].numel()} ({shape})",
                f"set it to {image[0].numel()}",
            )
        features: Tensor = self.encoder(image)
        return features

    def export_config(self) -> dict[str, object]:
        return {"in_features": self.in_features, "hidden": self.hidden}


class LeNet(SmallNetwork):
    """The LeNet-like convolutional net of the CIFAR tutorials: conv 6@5, pool, conv 16@5, pool, 120, 84, C.

    Args:
        task: What is predicted; given by the module.
        channels: Channels of the images: 3 for colour, 1 for grey.
        image_size: Height and width of the images, in pixels.
        dropout: Probability of dropping a unit of the two fully connected layers.
        pretrained: Where weights come from: a run directory, an export folder, a state dict file; null for random ones.
        keep_source_head: Keep the pretrained output layer, frozen, beside the new one; source keeps the one that a run kept,
            and exported, beside its own.
        transforms: What changes the network once it is pretrained, in order, such as LoRA; null for nothing.
    """

    def __init__(
        self,
        task: TaskInfo,
        channels: int = 3,
        image_size: int = 32,
        dropout: float = 0.0,
        pretrained: str | None = None,
        keep_source_head: bool | Literal["source"] = True,
        transforms: list[Transform] | None = None,
    ) -> None:
        super().__init__(task, transforms)
        self.channels, self.image_size = channels, image_size
        side = ((image_size - 4) // 2 - 4) // 2
        if side < 1:
            raise UserError("network.image_size", f"must be at least 16 pixels, got {image_size}")
        encoder = nn.Sequential(
            *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(16 * side * side, 120), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(120, 84), nn.ReLU(), nn.Dropout(dropout)),
        )
        set_dropout(encoder, dropout)
        self.start_from(pretrained, keep_source_head, encoder, 84)

    @property
    def input_spec(self) -> InputSpec:
        return self.image_spec((self.image_size, self.image_size), self.channels)

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        height, width = x["image"].shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            advice = (
                f"set network.init_args.image_size {height}"
                if height == width
                else f"set data.init_args.image_size {self.image_size}"
            )
            raise UserError(
                "network.image_size",
                f"LeNet is built for {self.image_size} pixels, and the images have {height}×{width}",
                advice,
            )
        return super().encode(x)

    def export_config(self) -> dict[str, object]:
        return {"channels": self.channels, "image_size": self.image_size}
