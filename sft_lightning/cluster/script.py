"""Writes the sbatch script of a job."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from sft_lightning.cluster.profile import Profile

TEMPLATE = Path(__file__).parents[1] / "assets" / "slurm" / "fit.sbatch.j2"


class Raw(str):
    """A word that the job's shell expands: it goes into the script as it is, without further quotes."""


@dataclass(frozen=True)
class Job:
    """A job of one run, or an array of runs."""

    name: str
    nodes: int
    tasks_per_node: int
    gpus_per_node: int
    time: str | None
    """Wall time as Slurm writes it; None for the partition's default"""
    log: str
    """File name pattern of Slurm"""
    folder: Path
    """Working directory of the command"""
    root: Path
    """runs_dir"""
    command: list[str]
    """Words of the command"""
    lead_s: int
    array: str | None = None
    max_requeues: int | None = None
    max_idle_returns: int | None = None
    staged: list[tuple[str, str]] = field(default_factory=list)
    """(source, name on the node) of data to copy"""
    options: list[str] = field(default_factory=list)
    """More options of sbatch, including the profile's"""
    before: list[str] = field(default_factory=list)
    """Shell lines before the command"""


def options(job: Job, profile: Profile, given: dict[str, str | int | None]) -> list[str]:
    """Returns the options of sbatch, without dashes; the command line wins over the profile."""
    gpus = None
    if job.gpus_per_node:
        kind = f"{profile.gpu_type}:" if profile.gpu_type else ""
        gpus = (
            f"gres=gpu:{kind}{job.gpus_per_node}"
            if profile.gpus == "gres"
            else f"gpus-per-node={kind}{job.gpus_per_node}"
        )
    named: dict[str, str | int | None] = {
        "job-name": job.name,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks_per_node,
        **{name: given.get(name) or getattr(profile, name.replace("-", "_")) for name in CHOICES},
        "time": job.time,
        "array": job.array,
        "output": job.log,
        "open-mode": "append",
        "signal": f"USR1@{job.lead_s}",
    }
    made = [f"{name}={value}" for name, value in named.items() if value is not None]
    return [*made, *([gpus] if gpus else []), "requeue", *job.options]


CHOICES = ("partition", "account", "qos", "constraint", "cpus-per-task", "mem")


def render(job: Job, profile: Profile, given: dict[str, str | int | None]) -> str:
    """Renders the script."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["quote"] = lambda value: shlex.quote(str(value))
    template = environment.from_string(TEMPLATE.read_text())
    words = [w if isinstance(w, Raw) else shlex.quote(w) for w in job.command]
    return template.render(
        options=[o.removeprefix("--") for o in options(job, profile, given)],
        modules=profile.modules,
        setup=[*profile.setup, *job.before],
        env=profile.env,
        container=profile.container,
        scratch=profile.scratch,
        cpus=given.get("cpus-per-task") or profile.cpus_per_task,
        lead_s=max(30, job.lead_s - 60),
        max_requeues=job.max_requeues,
        max_idle_returns=job.max_idle_returns,
        nodes=job.nodes,
        root=job.root,
        folder=job.folder,
        staged=job.staged,
        command=" \\\n  ".join(lines(words)),
        job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" if job.array else "$SLURM_JOB_ID",
    )


def lines(words: list[str]) -> list[str]:
    """Joins words into lines, an option and its value in one line."""
    found = [" ".join(words[:4])]
    for word in words[4:]:
        if word.startswith("--") or not found[-1].startswith("--"):
            found.append(word)
        else:
            found[-1] += f" {word}"
    return found
