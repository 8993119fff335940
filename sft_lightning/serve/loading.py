"""Loads what is served: the network of a run or an export, and how its data prepared samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core import plain_yaml, redaction
from sft_lightning.core.errors import UserError, one_line
from sft_lightning.export.card import CONFIG
from sft_lightning.export.library_folder import described
from sft_lightning.export.onnx_folder import FILE as ONNX
from sft_lightning.export.onnx_network import OnnxNetwork
from sft_lightning.export.own_folder import load_export
from sft_lightning.networks.base import Network
from sft_lightning.networks.transforms import without_transforms
from sft_lightning.networks.weights import resolve
from sft_lightning.runs.directory import RunDirectory
from sft_lightning.runs.load import load
from sft_lightning.runs.status import is_finished

OWN = "sft_lightning."
"""Where the classes of networks come from that are served; others would be code that a folder names"""
SERVED = {
    "text": ("classification", "regression", "multi_label"),
    "words": ("token_classification",),
    "questions": ("extractive_qa",),
    "choices": ("multiple_choice",),
    "pairs": ("seq2seq",),
    "tokens": ("causal_lm",),
    "image": ("classification", "regression", "multi_label"),
    "masks": ("semantic_segmentation",),
    "boxes": ("object_detection",),
    "audio": ("classification", "regression"),
    "speech": ("seq2seq", "ctc"),
}
"""Tasks that are served, by kind of the network's input"""
GENERATION = ("max_new_tokens", "num_beams", "dtype")
"""Arguments of networks that change answers, and that an export's config.json does not hold"""
NEVER = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*/*.onnx", "*.*.onnx", "*_*.onnx")
"""Files of a hub that are not downloaded: pickled weights, which are never read, and graphs other than `model.onnx`"""


def find_folder(place: str | Path) -> Path:
    """The folder of a run or an export; for a hub's name its files, downloaded once. Raises UserError if there is none."""
    path, name = Path(place).expanduser(), str(place)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, ignore_patterns=list(NEVER)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        why = redaction.redact(one_line(str(error)))[:200]
        raise UserError(
            name, f"is neither a folder nor a model that the hub gives: {why}", "correct the name"
        ) from None


def load_served(place: str | Path) -> tuple[Network, dict[str, Any]]:
    """Loads a network with its heads, and the arguments of the data that it was tuned on.

    The arguments are empty for an export without training_config.yaml. No code comes from the folder.

    Args:
        place: A finished run, its `model/`, an export of any format, or the graph of one (`model.int8.onnx`).

    Raises:
        UserError: The run is unfinished or has lost its weights, the folder is damaged or names other code, or the task is
            not served.
    """
    place = find_folder(place)
    if (graph := graph_at(place)) is not None:
        network: Network = OnnxNetwork(graph)
        place = graph.parent
    else:
        if not place.is_dir():
            raise UserError(place, "is not a folder", "name a run or an export")
        if (place / "run.json").is_file():
            check_run(place)
        check_folder(place)
        network = load_export(place, **generation_arguments(place))
    kind, task = network.input_spec.kind, network.task.name
    if task not in SERVED.get(kind, ()):
        served = "; ".join(f"{', '.join(tasks)} of {name}" for name, tasks in SERVED.items())
        raise UserError(place, f"has a network for {task} of {kind}, which is not served", f"serve one for {served}")
    return network, data_arguments(place)


def graph_at(place: Path) -> Path | None:
    """The graph of an ONNX export; None for other folders, which are loaded by their config.json."""
    if place.suffix == ".onnx" and place.is_file():
        return place
    return place / ONNX if (place / ONNX).is_file() and not (place / "config.json").is_file() else None


def check_run(place: Path) -> None:
    """Raises UserError for a run that is unfinished, or has no weights any more."""
    run = load(place)
    if not is_finished(run.status):
        raise UserError(place, f"is not finished, its status is {run.status}", f"finish it by fit --resume {place}")
    if not (run.files.model / "config.json").is_file():
        raise UserError(
            place,
            "has no model/ any more: keep_weights or runs clean removed its weights, or it was a trial run",
            "repeat it by fit --config of its config.yaml, or serve the study's chosen run",
        )


def check_folder(place: Path) -> None:
    """Raises UserError if loading the folder would run code that does not belong to this package."""
    if not any((place / name).is_file() for name in ("run.json", "config.json")):
        raise UserError(place, "has neither config.json nor model.onnx", "choose a run, or an export of one")
    source = resolve(str(place))
    ours = source.ours or described(source)
    network = str(ours.get("network") or "")
    if not network:
        raise UserError(
            place, "has no network that sft_lightning serves", "choose a run, an export, or a model of another kind"
        )
    if not network.startswith(OWN):
        raise UserError(
            place, f"names the class {network}, and only networks of sft_lightning are served", "use it from Python"
        )
    named = ours.get("init_args") or {}
    if named.get("trust_remote_code") or names_class(named):
        raise UserError(place, "asks to run other code (trust_remote_code or class_path)", "use it from Python")


def names_class(value: Any) -> bool:
    """Whether a value holds a `class_path`, at any depth."""
    if isinstance(value, Mapping):
        return "class_path" in value or any(names_class(held) for held in value.values())
    return isinstance(value, list) and any(names_class(held) for held in value)


def data_arguments(place: Path) -> dict[str, Any]:
    """`init_args` of the data, with its `class_path`, from the run's or the export's own config; empty without one. `of_run`
    is true for a run, whose files may be read.
    """
    block, of_run = block_of(place, "data")
    return (
        {**dict(block.get("init_args") or {}), "class_path": str(block.get("class_path")), "of_run": of_run}
        if block
        else {}
    )


def generation_arguments(place: Path) -> dict[str, Any]:
    """How the network of the run wrote texts, and its number format."""
    given = without_transforms(block_of(place, "network")[0]).get("init_args") or {}
    return {name: given[name] for name in GENERATION if name in given}


def block_of(place: Path, key: str) -> tuple[dict[str, Any], bool]:
    """(a block of the run's or the export's own config, empty without one; whether it is a run's)"""
    files = [RunDirectory(place).config, place / CONFIG]
    if (place.parent / "run.json").is_file():
        files.append(RunDirectory(place.parent).config)
    for file in files:
        if not file.is_file():
            continue
        try:
            return dict(dict(plain_yaml.load_file(file)).get(key) or {}), file.name != CONFIG
        except (yaml.YAMLError, ValueError, TypeError, AttributeError, OSError) as error:
            raise UserError(file, f"cannot be read: {error}", "replace it, or remove it") from None
    return {}, False
