"""Results as files: one JSON for each workload, with what it was measured on."""

import json
import os
import platform
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "benchmarks/results/bench"
PAGE = ROOT / "docs/performance.md"
PATHS = ("--data", "--out")
"""Options whose values are paths"""
PACKAGES = ("torch", "lightning", "transformers", "timm", "wandb")


def about(arguments: list[str], load: float | None) -> dict[str, Any]:
    """Device, versions, date, command. Starts CUDA where there is a GPU, so that it must come after the last fork."""
    from sft_lightning.runs.record import git_state

    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": device(),
        "cores": os.cpu_count(),
        "load": load,
        "git": git_state(),
        "versions": {"Python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}},
        "command": shlex.join(["python", "-m", "benchmarks.run", *without_paths(arguments)]),
    }


def without_paths(arguments: list[str]) -> list[str]:
    """The arguments, without the paths of this machine."""
    shown = []
    for before, one in zip(["", *arguments], arguments, strict=False):
        option = one.partition("=")[0]
        shown.append(
            "FOLDER" if before in PATHS else f"{option}=FOLDER" if one.startswith(PATHS) and "=" in one else one
        )
    return shown


def device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"CPU, {next(names, platform.processor() or platform.machine())}"


def file_name(name: str, result: dict[str, Any]) -> str:
    """Results of a GPU stand beside those of a CPU."""
    noise = result.get("threads", {}).get("1", {}).get("noise", {})
    return f"{name}-gpu.json" if "device" in noise else f"{name}.json"


def write(place: Path, name: str, result: dict[str, Any]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / file_name(name, result)).write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def read(place: Path) -> dict[str, Any]:
    """All results in a folder, by the files' names."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(place.glob("*.json"))}


def load_average() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
