"""Specifications: networks as plain values, and how one is built."""

from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.redaction import refuse_left_out
from sft_lightning.core.structures import TaskInfo
from sft_lightning.networks.base import NETWORKS, Network
from sft_lightning.networks.joining import join

if TYPE_CHECKING:
    Spec = dict[str, Any]
else:
    Spec = dict  # where dict[str, Any] is asked for, jsonargparse builds the classes that nested values name
"""`{'class_path': name, 'init_args': {...}}`, as in YAML."""


def spec(network: type[Network] | str, **init_args: Any) -> Spec:
    """A network as plain values, for `network=` of a module: `spec(MLP, pretrained='builtin:digits-0-4')`."""
    path = network if isinstance(network, str) else f"{network.__module__}.{network.__qualname__}"
    return {"class_path": path, "init_args": init_args}


def build_network(network: Spec | str, task: TaskInfo) -> Network:
    """Builds what a specification describes for a task."""
    if isinstance(network, str):
        network = spec(network)
    if not isinstance(network, Mapping) or "class_path" not in network:
        raise UserError("network", "give class_path and init_args, or a class name; in Python, spec(MLP, ...)")
    cls, args = NETWORKS.load(str(network["class_path"]), Network), dict(network.get("init_args") or {})
    refuse_left_out(args, "network.init_args")
    try:
        made = cls(task, **args)
        made.watch_new_layers()
        if task.known:
            join(made)
        return made
    except TypeError as error:
        known = list(signature(cls).parameters)[1:]
        for name in args:
            if name not in known:
                raise UserError(
                    f"network.{name}", f"{cls.__name__} has no such argument{nearest(name, known)}"
                ) from error
        raise
