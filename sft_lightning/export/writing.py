"""Exports a run: writes the folder, compares its answers, and gives it its name only then."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sft_lightning.core.errors import UserError
from sft_lightning.export.card import write_card
from sft_lightning.export.folder_files import ADAPTER
from sft_lightning.export.formats import FORMATS, NEW, SOURCE, Format, default_format
from sft_lightning.export.onnx_folder import IMAGES
from sft_lightning.export.own_folder import own_module
from sft_lightning.export.parity import Case, answer_elsewhere, compare
from sft_lightning.export.probe import kind_of, take_probe
from sft_lightning.export.rebuilt import check_rebuilt
from sft_lightning.export.tuned import Tuned, open_run
from sft_lightning.networks.base import Network

PARITY = "parity.json"


@dataclass
class Exported:
    """An export that was written."""

    folder: Path
    format: str
    heads: tuple[str, ...]
    parity: dict[str, Any]

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


def export_run(
    run: str | Path,
    to: str | Path | None = None,
    format: str | None = None,
    heads: str | None = None,
    merge_adapters: bool = False,
    int8: bool = False,
    pixels: bool = False,
) -> Exported:
    """Exports a finished run.

    Args:
        run: The run's directory.
        to: The folder to make; by default `export/FORMAT` in the run.
        format: Name of a format; by default that of the network's own library.
        heads: 'new' or 'both'; by default both if the run measured retention and the format can hold both.
        merge_adapters: Leave out the adapter alone, whose effect the weights include in any case.
        int8: With onnx, also write a graph with int8 weights, and measure what it loses.
        pixels: With onnx, a graph of images takes pixels, and normalises them itself.

    Raises:
        UserError: The run is unfinished, the network does not fit the format, the folder exists, or the export answers
            differently from the run. Then no folder is left.
    """
    if format is not None:
        FORMATS.find(format)
    if to is not None:
        refuse_existing(Path(to).expanduser())
    tuned = open_run(run)
    name = format or default_format(tuned.network)
    made = FORMATS.find(name)()
    if int8 and name != "onnx":
        raise UserError("--int8", f"has no effect on {name}", "set --format onnx, or leave it out")
    if pixels and (name != "onnx" or tuned.network.input_spec.kind not in IMAGES):
        what = f"networks of {tuned.network.input_spec.kind}" if name == "onnx" else name
        raise UserError("--pixels", f"has no effect on {what}", "leave it out")
    if pixels:
        made.pixels = True  # type: ignore[attr-defined]
    if why := made.why_not(tuned.network):
        other = default_format(tuned.network)
        raise UserError("--format", f"{name}: {why}", f"choose {other}" if name != other else "choose safetensors")
    folder = Path(to).expanduser() if to is not None else tuned.run.path / "export" / name
    refuse_existing(folder)
    chosen = chosen_heads(tuned, heads)
    has_adapter = (tuned.run.files.model / ADAPTER).is_dir()
    if merge_adapters and not has_adapter:
        raise UserError("--merge-adapters", "has no effect, because the run has no adapters", "leave it out")
    with half_written(folder) as temporary:
        made.write(tuned, temporary, chosen, has_adapter and not merge_adapters)
        parity = compared(tuned, made, temporary, chosen)
        if int8:
            from sft_lightning.export.int8 import add_int8

            parity["int8"] = add_int8(tuned, temporary, chosen)
        (temporary / PARITY).write_text(json.dumps(parity, indent=2) + "\n", encoding="utf-8")
        write_card(tuned, made, temporary, chosen, parity)
    return Exported(folder, name, chosen, parity)


def chosen_heads(tuned: Tuned, heads: str | None) -> tuple[str, ...]:
    """The heads to export. Raises UserError if both are asked for, and there is one."""
    if heads == "both" and tuned.network.source_head is None:
        why = "the network has one output layer" if tuned.network.shares_outputs else "the run kept no source head"
        raise UserError("--heads", f"both are asked for, and {why}", "use new")
    both = tuned.kept if heads is None else heads == "both"
    return (NEW, SOURCE) if both else (NEW,)


def compared(tuned: Tuned, made: Format, folder: Path, heads: tuple[str, ...]) -> dict[str, Any]:
    """Compares a folder's answers with the run's; returns the content of parity.json."""
    with TemporaryDirectory() as scratch:
        case = case_of(tuned, made, folder, heads, Path(scratch))
        check_rebuilt(tuned, case.probe)
        answer_elsewhere([case])
        return {"format": made.name, **compare(case)}


def case_of(
    tuned: Tuned, made: Format, folder: Path, heads: tuple[str, ...], inputs: Path, most: int | None = None
) -> Case:
    """The comparison of one folder, with the run's answers in it."""
    view, task = tuned.network.input_view, tuned.network.task
    normalised = (view.mean, view.std) if view.mean is not None and view.std is not None else None
    coarse = any(p.dtype in (torch.bfloat16, torch.float16) for p in tuned.network.parameters())
    unnamed = ("choices", "questions", "tokens", "pairs", "speech", "ctc")
    labels = [] if kind_of(tuned.network) in unnamed else task.labels
    probe = take_probe(tuned, heads, most)
    tokenizer = settings_of(tuned.network) if made.name != "safetensors" else {}
    source = list(tuned.network.source_labels)
    module = own_module(tuned.network) if made.name == "safetensors" else None
    place = None if module is None else str(module[1])
    return Case(made.name, folder, probe, heads, inputs, labels, normalised, source, tokenizer, place, coarse)


def settings_of(network: Network) -> dict[str, Any]:
    """The tokenizer's settings that answers depend on, as the run had them; empty without a tokenizer of transformers."""
    tokenizer, most = getattr(network, "tokenizer", None), network.input_view.max_length
    if not hasattr(tokenizer, "save_pretrained"):
        return {}
    found = {name: getattr(tokenizer, name, None) for name in ("padding_side", "chat_template")}
    return {**found, "max_length": most} if most is not None else found


def refuse_existing(folder: Path) -> None:
    """Raises UserError if the folder to make exists."""
    if folder.exists() or folder.is_symlink():
        raise UserError("--to", f"{folder} exists already", "choose another folder by --to, or remove it")


@contextmanager
def half_written(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder`, which gets its name at the end, and is removed after an error."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError("--to", f"{folder} cannot be made: {error.strerror}", "choose another folder") from None
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o644)
        refuse_existing(folder)
        temporary.rename(folder)
    except OSError as error:
        raise UserError(
            "--to", f"{folder} cannot be written: {error.strerror or error}", "choose another folder"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
