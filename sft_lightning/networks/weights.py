"""Finds and reads pretrained weights without running others' code, and writes our own export folder.

`pretrained` may be `builtin:NAME` (ships with the package), `package:NAME/PATH` (a file or folder inside an installed
Python package, whose code is never run), a run directory, a folder with `config.json`, a
`.safetensors` file, a `.pth`/`.pt`/`.bin` state dict (tensors alone: pickled code is refused), or else a hub's name.
"""

import json
import os
import pickle
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.load_report import LoadReport
from sft_lightning.networks.names import common_prefix, tensors_of
from sft_lightning.networks.tensors import tensor_names

BUILTIN = Path(__file__).parent.parent / "assets"
FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
OURS = "sft_lightning"


@dataclass
class Source:
    """The resolved `pretrained`: a folder, a state dict file, or a hub name. Exactly one of them is set."""

    name: str
    folder: Path | None = None
    file: Path | None = None
    hub: str | None = None
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> dict[str, Any]:
        """The entries of our own export (network, init_args, task); empty for others' folders."""
        return dict(self.config.get(OURS) or {})


def resolve(pretrained: str) -> Source:
    """Finds the folder, file or hub name that `pretrained` stands for."""
    if pretrained.startswith("builtin:"):
        folder = BUILTIN / pretrained.removeprefix("builtin:")
        names = [f"builtin:{p.parent.name}" for p in sorted(BUILTIN.glob("*/config.json"))]
        if not (folder / "config.json").is_file():
            raise UserError(
                "network.pretrained",
                f"the package has no '{pretrained}'{nearest(pretrained, names)}; it has {', '.join(names)}",
            )
        return Source(pretrained, folder=folder, config=_config(folder))
    path = in_package(pretrained) if pretrained.startswith("package:") else Path(pretrained).expanduser()
    if path.is_dir():
        run = path / "run.json"
        folder = path / "model" if run.is_file() else path
        if not (folder / "config.json").is_file():
            if run.is_file():
                raise UserError(
                    "network.pretrained",
                    f"the run {path} has no exported model",
                    "let the run finish, or choose another",
                )
            raise UserError("network.pretrained", f"{path} has no config.json", "choose a folder with one")
        return Source(pretrained, folder=folder, config=_config(folder))
    if path.is_file():
        if path.suffix == ".gguf":
            return Source(pretrained, folder=path.parent, file=path)
        if path.suffix not in FILES:
            raise UserError(
                "network.pretrained",
                f"{path} has an unknown suffix",
                f"give a folder, or a file with {', '.join(FILES)} or .gguf",
            )
        return Source(pretrained, file=path)
    if path.suffix in (*FILES, ".gguf") or pretrained.startswith((".", "/", "~")) or pretrained.count("/") > 1:
        raise UserError("network.pretrained", f"{pretrained} does not exist", "correct the path")
    return Source(pretrained, hub=pretrained)


def in_package(pretrained: str) -> Path:
    """`package:NAME/PATH` as a path. The package is found, not imported."""
    name, _, below = pretrained.removeprefix("package:").partition("/")
    try:
        # For a dotted name, find_spec would import the parent package.
        found = find_spec(name) if "." not in name else None
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        raise UserError(
            "network.pretrained", f"{pretrained}: the Python package '{name}' is not installed", "install it"
        )
    path = Path(found.submodule_search_locations[0]) / below
    if not path.exists():
        raise UserError("network.pretrained", f"{pretrained}: the package '{name}' has no {below}", "correct the path")
    return path


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"), parse_constant=constant)
    except (ValueError, OSError, RecursionError) as error:
        raise UserError("network.pretrained", f"{folder}/config.json cannot be read: {error}", "replace it") from None
    wrong = misfit(content)
    if wrong is not None:
        raise UserError(
            "network.pretrained", f"{folder}/config.json is damaged: {wrong}", "replace it, or export again"
        )
    return dict(content)


def constant(name: str) -> float:
    """Parses the numbers that Python writes although JSON lacks them: accepts infinities, refuses NaN."""
    if name == "NaN":
        raise ValueError("NaN is not a valid value")
    return float(name)


def misfit(content: Any) -> str | None:
    """The first damaged value in a config.json, as a message; None if all values are possible."""
    if not isinstance(content, dict):
        return "it must be a mapping"
    if huge := next((n for n, v in content.items() if isinstance(v, int) and abs(v) >= 1 << 63), None):
        return f"{huge} is too large a number"
    ours = content.get(OURS)
    if ours is None:
        return None
    if not isinstance(ours, dict):
        return f"{OURS} must be a mapping"
    for name, kind in (("network", str), ("init_args", dict), ("task", dict), ("input", dict)):
        if ours.get(name) is not None and not isinstance(ours[name], kind):
            return f"{OURS}.{name} must be a {'text' if kind is str else 'mapping'}"
    labels = (ours.get("task") or {}).get("labels")
    if labels is not None and not (isinstance(labels, list) and all(isinstance(n, str) for n in labels)):
        return f"{OURS}.task.labels must be a list of texts"
    seen = ours.get("input") or {}
    for name, low, high in (("mean", -1e6, 1e6), ("std", 1e-9, 1e6), ("size", 1, 1 << 14)):
        value = seen.get(name)
        if value is not None and not (
            isinstance(value, list)
            and len(value) == (2 if name == "size" else len(value) or 1)
            and all(isinstance(v, (int, float)) and not isinstance(v, bool) and low <= v <= high for v in value)
            and (name != "size" or all(isinstance(v, int) for v in value))
        ):
            return f"{OURS}.input.{name} must be a list of numbers in [{low:g}, {high:g}], got {value!r:.60}"
    return None


def read_state_dict(path: Path, notes: list[str] | None = None) -> dict[str, Tensor]:
    """The tensors of a file, by name. Refuses pickled code, and never runs it. Adds choices it made to `notes`."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise UserError(
                "network.pretrained",
                f"{path} holds pickled code or objects besides tensors, and these are never loaded",
                "save its state_dict as .safetensors",
            ) from None
        raise UserError(
            "network.pretrained", f"{path} is damaged or truncated: {error}", "download or copy it again"
        ) from None
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, struct.error) as error:
        raise UserError(
            "network.pretrained",
            f"{path} is damaged or truncated: {str(error).splitlines()[0]}",
            "download or copy it again",
        ) from None
    tensors = tensors_of(state, path, [] if notes is None else notes)
    if any(".lora_" in n for n in tensors):
        raise UserError(
            "network.pretrained",
            f"{path} holds low-rank adapters separate from the weights",
            "give the run's directory, whose export has them merged, or merge them",
        )
    if all(n.startswith("network.") for n in tensors):  # a checkpoint of ours
        return {n.removeprefix("network."): v for n, v in tensors.items()}
    return tensors


@contextmanager
def tensors_alone() -> Iterator[None]:
    """Limits torch to unpickling tensors while another library loads weights, whatever that library asks for."""
    force, force_not = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (force, force_not)}
    os.environ[force] = "1"
    try:
        yield
    finally:
        del os.environ[force]
        os.environ.update({name: value for name, value in before.items() if value is not None})


def by_position(state: Mapping[str, Tensor], model: nn.Module, source: str) -> dict[str, Tensor]:
    """Renames the tensors of a state dict by their order, which must be the model's; checks every shape."""
    own = model.state_dict()
    if len(own) != len(state):
        raise UserError(
            "network.pretrained",
            f"{source} has {len(state)} tensors and the network {len(own)}, so they cannot be matched by order",
            "choose other weights",
        )
    renamed = {}
    for (name, mine), (other, theirs) in zip(own.items(), state.items(), strict=True):
        if mine.shape != theirs.shape:
            raise UserError(
                "network.pretrained",
                f"matched by order, {other} {list(theirs.shape)} in {source} meets {name} {list(mine.shape)}",
                "choose other weights",
            )
        renamed[name] = theirs
    return renamed


def fill(
    model: nn.Module, state: Mapping[str, Tensor], report: LoadReport, head: str = "", by_order: str = ""
) -> set[str]:
    """Loads `state` into `model`, and returns the names of the parameters and running statistics it did not fill.

    `by_order` is the fix to name if the tensors fit in their order.

    Skips a tensor below `head` whose shape differs. Another shape elsewhere is an error, and so is a file that fills less
    than half of the model. The report gets the missing and the unexpected names.
    """
    own = model.state_dict()
    wrong = [n for n, v in state.items() if n in own and own[n].shape != v.shape and not (head and n.startswith(head))]
    if wrong:
        n = wrong[0]
        raise UserError(
            "network.pretrained",
            f"the architectures differ: {report.source} has tensors of another shape than the network's ({len(wrong)}, the "
            f"first {n} {list(state[n].shape)} instead of {list(own[n].shape)})",
            "choose weights of this architecture",
        )
    usable = {n: v for n, v in state.items() if n in own and own[n].shape == v.shape}
    body = [n for n in own if not (head and n.startswith(head))]
    if sum(n in usable for n in body) * 2 < len(body):
        pairs = zip(own, own.values(), state.values(), strict=False)
        alike = len(own) == len(state) and all(a.shape == b.shape or (head and n.startswith(head)) for n, a, b in pairs)
        differ = not (alike and by_order)
        prefix = common_prefix(state)
        raise UserError(
            "network.pretrained",
            f"{'the architectures differ' if differ else 'the names differ, the shapes do not'}: {report.source} fills "
            f"{sum(n in usable for n in body)} of the network's {len(body)} tensors (it has {', '.join(list(state)[:3])}"
            f"{f', and all begin with {prefix!r}' if prefix else ''}; the network has {', '.join(body[:3])})",
            "choose weights of this architecture" if differ else by_order,
        )
    model.load_state_dict(usable, strict=False)
    report.loaded = len(usable)
    report.missing = [n for n in own if n not in usable]
    report.unexpected = [n for n in state if n not in own]
    return {n for n in tensor_names(model) if n not in usable}


def write_folder(state: Mapping[str, Tensor], about: dict[str, Any], folder: str) -> None:
    """Writes our own export: `config.json` (`about`: network, arguments, task, input) and `model.safetensors`."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save_file(dict(state), path / "model.safetensors", metadata={"format": "pt"})
    (path / "config.json").write_text(json.dumps({OURS: about}, indent=2) + "\n")
