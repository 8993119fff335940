"""Compares an export's answers, given by another library in a fresh process, with the run's own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sft_lightning
from sft_lightning.core.errors import UserError
from sft_lightning.export.probe import Probe

SCRIPT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from sft_lightning.elsewhere.answer import main; main(sys.argv[2])"
)
"""Runs without the caller's paths and settings of Python"""
TOLERANCE, COARSE = 1e-5, 2e-2
"""Largest difference of logits, as a share of the largest one or of 1, in single and in half precision"""
TIES = 20
"""One sample of so many may be decided otherwise, if outputs are equal to the tolerance: a tie of two scores to within it"""
PIXELS = 100
"""One pixel of so many may get another class, for masks: at the borders of regions scores are often close"""
LEVELS = 2.0
"""Most levels of 255 by which two libraries' resizing of the same image may differ"""


@dataclass
class Case:
    """One export to be compared."""

    format: str
    folder: Path
    probe: Probe
    heads: tuple[str, ...]
    inputs: Path
    """An empty folder for inputs and answers"""
    labels: list[str]
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """The normalisation of images, in the order that the network sees"""
    source_labels: list[str] = field(default_factory=list)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """The run's settings that must be the same there: padding_side, chat_template, and max_length if texts are cut"""
    modules: str | None = None
    """Where the user's own module lies that has the network's class; a folder of our own format needs it"""
    coarse: bool = False
    """Whether the export's weights are in half precision"""

    def job(self) -> dict[str, Any]:
        """The job for `elsewhere/answer.py`."""
        self.probe.write(self.inputs)
        paths = {"folder": str(self.folder), "inputs": str(self.inputs)}
        about = {"library": self.format, "kind": self.probe.kind, "heads": list(self.heads), "limit": self.probe.limit}
        return {**about, **paths, "modules": self.modules}


def answer_elsewhere(cases: list[Case]) -> None:
    """Lets one fresh process load every folder and answer."""
    jobs = cases[0].inputs / "jobs.json"
    jobs.write_text(json.dumps([case.job() for case in cases]), encoding="utf-8")
    alone = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    package = Path(sft_lightning.__file__).parent.parent
    command = [sys.executable, "-I", "-c", SCRIPT, str(package), str(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError("--format", f"{cases[0].format}: the export cannot be tried: {said}")


def compare(case: Case) -> dict[str, Any]:
    """The content of parity.json. Raises UserError if the answers differ."""
    said = json.loads((case.inputs / "answers.json").read_text(encoding="utf-8"))
    if "error" in said:
        raise differs(case, f"cannot be loaded there: {said['error']}")
    if case.labels and (there := said.get("labels")) != case.labels:
        raise differs(case, "has no labels there" if there is None else f"has other labels there: {there}")
    if "source" in case.heads and list(said.get("source_labels") or []) != case.source_labels:
        raise differs(case, f"has other labels of the source head there: {said.get('source_labels')}")
    for name, there in (said.get("tokenizer") or {}).items():
        if (ours := case.tokenizer.get(name, there)) != there:
            raise differs(case, f"has another {name} of the tokenizer there: {there!r:.60} instead of {ours!r:.60}")
    probe, found = case.probe, dict(np.load(case.inputs / "answers.npz"))
    content: dict[str, Any] = {
        "library": said["version"],
        "n": probe.n,
        "tolerance": COARSE if case.coarse else TOLERANCE,
        "heads": {head: of_head(case, head, f"{head}.prepared", found, strict=True) for head in case.heads},
    }
    if "new.raw" in found:
        content["raw"] = of_raw(case, found)
    elif case.format != "safetensors" and probe.kind not in ("tokens", "pairs", "speech"):
        content["note"] = "compared on prepared inputs alone, because the data does not give these samples as they are"
    if probe.texts and said.get("texts") is not None:
        raw = said.get("raw_texts") or [None] * len(probe.texts)  # None where the library cannot prepare a sample
        pairs = [*zip(said["texts"], probe.texts, strict=True), *zip(raw, probe.texts, strict=True)]
        for there, ours in pairs:
            if there is not None and there != ours:
                raise differs(case, f"generates {there!r:.60} there instead of {ours!r:.60}")
        content["generated"] = {"n": len(probe.texts), "equal": len(probe.texts)}
        if any(text is not None for text in raw):
            content["generated"]["of_raw"] = sum(text is not None for text in raw)
    if probe.ids and said.get("ids") is not None and said["ids"] != probe.ids:
        raise differs(case, "has another tokenizer there")
    return content


def of_raw(case: Case, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Compares answers to samples as a user has them, which the library prepared itself."""
    probe, strict, note = case.probe, True, {}
    if "pixels" in found and case.mean_std is not None:
        ours = np.concatenate([batch["x"]["image"].numpy() for batch in probe.batches])
        if found["pixels"].shape != ours.shape:
            raise differs(case, f"prepares images of shape {found['pixels'].shape[1:]} instead of {ours.shape[1:]}")
        std = np.array(case.mean_std[1]).reshape(1, -1, 1, 1)
        levels = float((np.abs(found["pixels"] - ours) * std * 255).max())
        if not levels <= LEVELS:  # also if it is no number
            raise differs(
                case,
                f"prepares images differently, by up to {levels:.1f} of 255 levels, because the run's data resized them in "
                "their own way",
                f"choose {'' if case.format == 'onnx' else 'onnx or '}safetensors, or fit with images of the network's size",
            )
        note, strict = {"levels": round(levels, 3)}, levels < 0.01
    heads = {}
    for head in case.heads:
        there = [bool(sample) for sample in probe.raw]
        if all(there):
            heads[head] = of_head(case, head, f"{head}.raw", found, strict)
    if not heads:
        return {"n": sum(map(bool, probe.raw)), **of_some(case, found)}
    return {"n": probe.n, **note, "heads": heads}


def of_some(case: Case, found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Compares the samples that the library can prepare itself, where it cannot prepare all."""
    heads = {}
    for head in case.heads:
        keep, at = [], 0
        for batch, logits in zip(case.probe.batches, case.probe.of(head), strict=True):
            sizes = batch["select"].flatten(1).sum(1).tolist() if "select" in batch else [1] * len(batch["index"])
            for part in torch.split(logits, sizes):
                if case.probe.raw[at]:
                    keep.append(part)
                at += 1
        ours = torch.cat(keep).numpy() if keep else np.zeros(0)
        theirs = found.get(f"{head}.raw", np.zeros(0))
        if theirs.shape != ours.shape:
            raise differs(case, f"gives outputs of shape {theirs.shape} for raw samples instead of {ours.shape}")
        difference, scale = difference_of(theirs, ours)
        if difference > bound(case, scale):
            raise differs(case, f"gives other outputs for raw samples ({head} head): by up to {difference:.2g}")
        heads[head] = {"largest_difference": difference, "largest_output": scale}
    return {"heads": heads}


def of_head(case: Case, head: str, name: str, found: dict[str, np.ndarray], strict: bool) -> dict[str, Any]:
    """Largest difference and share of equal decisions of one head. Without `strict`, decisions alone must be equal."""
    probe = case.probe
    theirs, ours = probe.split(found[name], head), probe.of(head)
    if theirs is None:
        raise differs(case, f"gives outputs of shape {found[name].shape} ({head} head)")
    difference, scale = difference_of(found[name], torch.cat(ours).numpy())
    before, after = probe.decisions(head, ours), probe.decisions(head, theirs)
    equal = sum(a == b for a, b in zip(before, after, strict=True))
    if strict and difference > bound(case, scale):
        raise differs(
            case,
            f"gives other outputs ({head} head, {name.partition('.')[2]} inputs): by up to {difference:.2g}, where "
            f"{bound(case, scale):.2g} is allowed",
        )
    ties = (
        len(before) - equal
    )  # outputs that are equal to the tolerance decide otherwise only where scores are that close
    most = len(before) // PIXELS if probe.kind == "masks" else max(1, len(before) // TIES) if strict else 0
    if ties > most:
        raise differs(case, f"decides {ties} of {len(before)} samples differently ({head} head)")
    return {
        "largest_difference": difference,
        "largest_output": scale,
        "equal_decisions": equal / max(1, len(before)),
        **({"ties": ties} if ties else {}),
        "n": probe.n,
        **({"pixels": len(before)} if probe.kind == "masks" else {}),
    }


def difference_of(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, float]:
    """(largest difference, largest output)."""
    if not ours.size:
        return 0.0, 0.0
    theirs, ours = theirs.astype(np.float64), ours.astype(np.float64)
    equal = (theirs == ours) | (np.isnan(theirs) & np.isnan(ours))
    with np.errstate(invalid="ignore"):
        apart = np.where(equal, 0.0, np.abs(theirs - ours))
    largest = float(np.abs(ours[np.isfinite(ours)]).max(initial=0.0))
    return (float("inf") if np.isnan(apart).any() else float(apart.max())), largest


def bound(case: Case, scale: float) -> float:
    """The largest difference that is allowed for outputs of this size."""
    return (COARSE if case.coarse else TOLERANCE) * max(1.0, scale)


def differs(case: Case, how: str, fix: str = "choose another format") -> UserError:
    """The error for an export that answers differently."""
    return UserError("--format", f"{case.format}: the export {how}; nothing was written", fix)


def lines(content: dict[str, Any]) -> list[str]:
    """The comparison in words, one line for each head."""
    said = []
    for head, found in content["heads"].items():
        ties = f", {found['ties']} decided otherwise by a tie to within the tolerance" if "ties" in found else ""
        said.append(
            f"{head} head: largest difference {found['largest_difference']:.1e} of outputs up to "
            f"{found['largest_output']:.3g}, {found['equal_decisions']:.0%} of decisions equal{ties} (n = {found['n']}, "
            f"{content['library']} in a fresh process)"
        )
    raw = content.get("raw")
    if raw is not None:
        largest = max(found["largest_difference"] for found in raw["heads"].values())
        resized = f", pixels by up to {raw['levels']} of 255 levels" if raw.get("levels", 0) > 0.01 else ""
        said.append(f"from raw samples: largest difference {largest:.1e}{resized} (n = {raw['n']})")
    if "generated" in content:
        made = content["generated"]
        raw = f", {made['of_raw']} of them from raw sounds too" if "of_raw" in made else ""
        said.append(f"generated texts: {made['equal']} of {made['n']} equal{raw}")
    if "note" in content:
        said.append(content["note"])
    if "int8" in content:
        said += of_int8(content["int8"])
    return said


def of_int8(content: dict[str, Any]) -> list[str]:
    """What quantised weights cost, in words."""
    small, whole = sorted(content["bytes"].values())
    said = [
        f"int8: model.int8.onnx has {small / 1e6:.1f} MB instead of {whole / 1e6:.1f} MB, and the same inputs and outputs",
        "int8: values between layers are rounded by the range of the whole batch, so an answer depends a little on the others; "
        "in batches of 1 it depends on nothing else",
    ]
    for head, found in content["heads"].items():
        change = found["int8"] - found["float32"]
        said.append(
            f"int8, {head} head: {found['metric']} {found['int8']:.4f} instead of {found['float32']:.4f} "
            f"({change:+.4f}; validation, n = {found['n']}, in batches of {found['batch_size']})"
        )
    return said + ([content["note"]] if "note" in content else [])
