"""Transforms: change a pretrained network before it is tuned, from plain specifications. The teacher has none of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, ClassVar

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.registry import Registry
from sft_lightning.networks.base import Network
from sft_lightning.networks.spec import Spec

TRANSFORMS: Registry["Transform"] = Registry("transform", key="network.transforms")


class Transform(ABC):
    """Changes a network in place after `pretrained` has filled it. Defining a sub-class registers it.

    A sub-class reports its changes to the network: it adds its adapters to `network.adapters`, and the new name of each
    pretrained parameter that it moves to `network.renamed`. Its constructor takes plain values, which are the YAML keys.
    """

    needs_pretrained: ClassVar[bool] = True
    """Whether it needs a network with pretrained weights"""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        TRANSFORMS.add_class(cls)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Its arguments as plain values, in which a resumed checkpoint must agree."""

    @abstractmethod
    def apply(self, network: Network) -> None:
        """Changes the network. Raises UserError if it cannot."""

    def save(self, network: Network, folder: str) -> None:  # noqa: B027 (nothing, for most)
        """Writes its additions separately into an export's folder, whose weights include them already."""


def build_transform(given: Spec | str) -> Transform:
    """Builds the transform of a specification."""
    given = {"class_path": given} if isinstance(given, str) else given
    if not isinstance(given, Mapping) or "class_path" not in given:
        raise UserError(
            "network.transforms",
            f"{given!r} has no class_path",
            "give class_path and init_args, such as {class_path: LoRA, init_args: {r: 8}}",
        )
    cls, args = TRANSFORMS.load(str(given["class_path"]), Transform), dict(given.get("init_args") or {})
    known = list(signature(cls).parameters)
    if unknown := next((n for n in args if n not in known), None):
        raise UserError(
            "network.transforms",
            f"{cls.__name__} has no argument '{unknown}'{nearest(unknown, known)}; it has {', '.join(known)}",
        )
    return cls(**args)


def settings_of(transforms: Iterable[Transform]) -> list[dict[str, Any]]:
    """Name and arguments of each transform, as plain values."""
    return [{"name": type(t).__name__, **t.settings()} for t in transforms]


def without_transforms(network: Spec) -> Spec:
    """The specification of the network without transforms, as the teacher has it."""
    init = {n: v for n, v in (network.get("init_args") or {}).items() if n != "transforms"}
    return {**network, "init_args": init}


def apply_transforms(network: Network) -> None:
    """Applies the network's transforms in their order. Call it once, after building the teacher and before freezing."""
    for given in network.transforms:
        transform = build_transform(given)
        name = type(transform).__name__
        if transform.needs_pretrained and network.pretrained is None:
            raise UserError(
                "network.transforms",
                f"{name} needs pretrained weights, and the network starts from random ones",
                "set network.init_args.pretrained, or leave transforms out",
            )
        if network.adapters:
            raise UserError(
                "network.transforms", f"{name} would adapt layers that have adapters already", "give one transform only"
            )
        layers = network.layers()
        transform.apply(network)
        network.keep_layers(layers)
        network.applied.append(transform)
