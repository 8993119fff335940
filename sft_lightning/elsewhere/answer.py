"""Answers jobs from export folders alone: `main(JOBS.json)`, called by `export/parity.py` in a fresh process.

One process does all jobs of the file, because imports take longest. A job has `library`, `folder`, `inputs` (a folder, see
`inputs.py`), `kind` of the samples, `heads`, and `limit` on generated tokens. Answers are written to `inputs`, as
`answers.npz` and `answers.json`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sft_lightning.elsewhere.inputs import Arrays, Inputs, prepared, rows_of
from sft_lightning.elsewhere.libraries import LIBRARIES, OnnxFolder, OwnFolder, TransformersFolder


def swap_source(held: Any, folder: Path) -> None:
    """Puts the kept source head in the output layer's place, as the folder's README says."""
    from safetensors.torch import load_file
    from torch import nn

    about = json.loads((folder / "source_head.json").read_text(encoding="utf-8"))
    layer, kept = held.layer(about["layer"]), load_file(folder / "source_head.safetensors")
    layer.weight = nn.Parameter(
        kept["weight"].clone().reshape(-1, *layer.weight.shape[1:])
    )  # aligned in memory, as the run's own is: the last bits depend on it
    layer.bias = nn.Parameter(kept["bias"].clone()) if "bias" in kept else None


def facts_of(held: Any, folder: Path) -> dict[str, Any]:
    """What few samples do not show: the source head's labels, and the tokenizer's settings."""
    said: dict[str, Any] = {}
    if isinstance(held, OnnxFolder):
        said["source_labels"] = json.loads(held.about_all.get("source_labels", "null"))
    elif isinstance(held, OwnFolder):
        said["source_labels"] = held.network.source_labels
    elif (folder / "source_head.json").is_file():
        said["source_labels"] = json.loads((folder / "source_head.json").read_text(encoding="utf-8"))["labels"]
    if (tokenizer := getattr(held, "tokenizer", None)) is not None:
        said["tokenizer"] = {
            "max_length": tokenizer.model_max_length,
            "padding_side": tokenizer.padding_side,
            "chat_template": getattr(tokenizer, "chat_template", None),
        }
    return said


def joined(parts: list[np.ndarray], kind: str) -> np.ndarray:
    """Outputs of all batches: for masks one row for each place of the maps, whose sizes may differ."""
    return np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts] if kind == "masks" else parts)


def answer(job: dict[str, Any]) -> None:
    """Does one job."""
    folder, inputs, kind = Path(job["folder"]), Inputs(Path(job["inputs"])), job["kind"]
    if job.get("modules"):
        sys.path.append(job["modules"])
    held: Any = LIBRARIES[job["library"]](folder, kind)
    found: Arrays = {}
    said: dict[str, Any] = {"labels": held.labels, "version": held.version, **facts_of(held, folder)}
    prompt = {n.removeprefix("prompt."): v for n, v in inputs.arrays.items() if n.startswith("prompt.")}
    if prompt and hasattr(held, "texts"):
        said["texts"] = held.texts(prompt, job["limit"])
        if kind == "speech" and isinstance(held, TransformersFolder):  # and from the sounds themselves
            sounds = [held.sound(inputs.sound(s)) if s else None for s in inputs.raw[: len(said["texts"])]]
            said["raw_texts"] = [None if s is None else held.texts(s, job["limit"])[0] for s in sounds]
    if kind in ("tokens", "pairs") and isinstance(held, TransformersFolder) and all("text" in s for s in inputs.raw):
        assert held.tokenizer is not None
        said["ids"] = held.tokenizer([s["text"] for s in inputs.raw])["input_ids"]
    for head in job["heads"]:
        if isinstance(held, OwnFolder):
            found[f"{head}.prepared"] = joined([held.rows(b, head == "source") for b in inputs.batches()], kind)
            continue
        run = held.run
        if head == "source" and isinstance(held, OnnxFolder):
            run = held.source
        elif head == "source":
            swap_source(held, folder)
        found[f"{head}.prepared"] = joined([rows_of(run, b) for b in inputs.batches()], kind)
        if not any(inputs.raw) or kind in ("tokens", "pairs", "speech"):
            continue
        if kind in ("audio", "ctc"):
            samples = [held.sound(inputs.sound(sample)) for sample in inputs.raw if sample]
        elif kind in ("image", "masks"):
            samples = [held.pixels(inputs.image(sample)) for sample in inputs.raw]
            if len({s["image"].shape for s in samples}) == 1:  # others keep a size of their own, and are not resized
                found["pixels"] = np.concatenate([s["image"] for s in samples])
        else:
            samples = [prepared(kind, sample, held.tokenizer) for sample in inputs.raw if sample]
        rows = [rows_of(run, sample) for sample in samples]
        found[f"{head}.raw"] = joined([row[0] for row in rows] if kind == "ctc" else rows, kind)
    np.savez(inputs.folder / "answers.npz", **found)  # type: ignore[arg-type]
    (inputs.folder / "answers.json").write_text(json.dumps(said, ensure_ascii=False) + "\n", encoding="utf-8")


def main(path: str) -> None:
    """Does all jobs of a file, one after the other. A job that fails leaves its error in `answers.json`."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    with torch.no_grad():
        for job in json.loads(Path(path).read_text(encoding="utf-8")):
            try:
                answer(job)
            except Exception as error:  # whatever the library raises: the folder cannot be used there
                why = f"{type(error).__name__}: {error}"
                Path(job["inputs"], "answers.json").write_text(json.dumps({"error": why}) + "\n", encoding="utf-8")
