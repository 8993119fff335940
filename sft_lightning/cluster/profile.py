"""Reads profiles: one YAML file per cluster with the settings of its jobs, chosen by `--profile`."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core import plain_yaml
from sft_lightning.core.errors import UserError, nearest

USERS = "~/.config/sft-lightning"
"""Folder of the user's own profiles; they win over those in slurm/profiles."""


@dataclass(frozen=True)
class Profile:
    """Settings that all jobs on a cluster share. Command-line options win."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    time: str | None = None
    """Wall time, as Slurm writes it: 04:00:00, 2-00, 30"""
    cpus_per_task: int | None = None
    mem: str | None = None
    """Memory of each node, such as 64G"""
    gpus: str = "gpus-per-node"
    """How GPUs are asked for: gpus-per-node, or gres (gres=gpu:N)"""
    gpu_type: str | None = None
    lead_s: int = 180
    """Seconds before the end at which Slurm sends SIGUSR1, so that the run is saved and requeued"""
    modules: list[str] = field(default_factory=list)
    """Names for `module load`"""
    setup: list[str] = field(default_factory=list)
    """Shell lines before the command, such as `source ~/venv/bin/activate`"""
    container: str | None = None
    """Command that starts the container, such as `apptainer exec --nv image.sif`"""
    python: str | None = None
    """Python on the nodes or in the container; default the one that submits"""
    scratch: str | None = None
    """Node-local folder for `--stage-data`, such as $TMPDIR or /scratch/$USER"""
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables; secrets are not allowed"""
    network: bool = True
    """Whether nodes reach the network; if not, W&B records offline"""
    sync_partition: str | None = None
    """Partition for the `wandb sync` of `--sync`, whose nodes reach the network"""
    sbatch: list[str] = field(default_factory=list)
    """More options of sbatch"""


def read_profile(name: str | None) -> Profile:
    """Reads a profile by name or path; without a name the user's `default` if it exists, else an empty profile."""
    file = find(name or "default")
    if file is None:
        if name is None:
            return Profile()
        known = sorted({f.stem for folder in folders() for f in folder.glob("*.yaml")})
        raise UserError(
            "--profile",
            f"there is no file '{name}', {USERS}/{name}.yaml or slurm/profiles/{name}.yaml{nearest(name, known)}",
            f"choose {', '.join(known)}" if known else "",
        )
    return made(file)


def folders() -> list[Path]:
    """Returns the folders in which profiles are searched, in this order."""
    return [Path(USERS).expanduser(), Path("slurm/profiles")]


def find(name: str) -> Path | None:
    """Returns the file of a profile, or None."""
    if name.endswith((".yaml", ".yml")):
        return Path(name).expanduser() if Path(name).expanduser().is_file() else None
    return next((f / f"{name}.yaml" for f in folders() if (f / f"{name}.yaml").is_file()), None)


def made(file: Path) -> Profile:
    """Reads a profile from a file; raises UserError if it is invalid."""
    try:
        content: Any = plain_yaml.load_file(file) or {}
    except plain_yaml.DoubledKey as error:
        raise UserError("--profile", f"{file}: {error.said}", error.fix) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("--profile", f"{file} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError("--profile", f"{file} must hold a mapping, such as partition: gpu")
    types = {f.name: f.type for f in fields(Profile)}
    for key, value in content.items():
        if key not in types:
            raise UserError(
                "--profile",
                f"{file} has an unknown key '{key}'{nearest(str(key), types)}",
                f"choose {', '.join(types)}",
            )
        if (wrong := misfit(key, value)) is not None:
            kind, fix = wrong
            raise UserError("--profile", f"{file}: {key} must be {kind}, got {value!r}", fix)
    if "env" in content:
        content["env"] = {str(name): str(value) for name, value in content["env"].items()}
    return Profile(**content)


def misfit(key: str, value: Any) -> tuple[str, str] | None:
    """Returns (what the value of a key must be, how to fix it) if the value is something else; else None."""
    if key in ("modules", "setup", "sbatch"):
        fine = isinstance(value, list) and all(isinstance(v, str) for v in value)
        return None if fine else ("a list of texts", "")
    if key == "env":
        return None if isinstance(value, dict) else ("a mapping of names to values", "")
    if key in ("cpus_per_task", "lead_s"):
        fine = isinstance(value, int) and not isinstance(value, bool) and value > 0
        return None if fine else ("a whole number above 0", "")
    if key == "network":
        return None if isinstance(value, bool) else ("true or false", "")
    if key == "gpus":
        return None if value in ("gpus-per-node", "gres") else ("gpus-per-node or gres", "")
    return None if value is None or isinstance(value, str) else ("text", "put it in quotes")
