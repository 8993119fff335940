"""`submit`: submits a run, or an array of runs, as a Slurm job that is requeued after preemption."""

import argparse
import shlex
import sys
from pathlib import Path

from sft_lightning.cli.parser import Parser
from sft_lightning.cli.quiet import quieten
from sft_lightning.cluster.checks import check
from sft_lightning.cluster.job import check_fit, make_job, run_directory
from sft_lightning.cluster.profile import Profile, read_profile
from sft_lightning.cluster.sbatch import sbatch
from sft_lightning.cluster.script import CHOICES, Job, render
from sft_lightning.core import redaction
from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import RunDirectory, write_atomic


def make_parser() -> Parser:
    """Builds the parser of `submit`."""
    parser = Parser(
        "submit",
        description="Submit a fit as a Slurm job. If it is preempted or its time is up, it is saved, requeued and resumed.",
        epilog="Options after -- go to fit: submit --config E.yaml --gpus-per-node 4 -- --model.lr 1e-4",
    )
    parser.add_argument("--config", type=Path, metavar="EXPERIMENT", help="what to fit")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="resume a run in its own directory")
    parser.add_argument(
        "--profile", metavar="NAME", help="the cluster's profile; default your own `default`, if there is one"
    )
    group = parser.add_argument_group("resources, named as in Slurm; they win over the profile")
    group.add_argument("--nodes", type=int, default=1, help="nodes [1]")
    group.add_argument("--gpus-per-node", type=int, default=0, help="GPUs of each node, with one process each [0]")
    group.add_argument("--tasks-per-node", type=int, help="processes of each node without GPUs [1]")
    group.add_argument("--time", help="wall time, such as 04:00:00; then the run is saved and requeued")
    for name in CHOICES:
        group.add_argument(f"--{name}", help="passed to sbatch")
    group.add_argument("--array", help="several runs, such as 0-4%%2; {task} in an option of fit is a run's number")
    group.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="more options for sbatch: --sbatch=--exclusive"
    )
    group = parser.add_argument_group("the run")
    group.add_argument("--job-name", help="default the experiment's")
    group.add_argument("--runs_dir", "--runs-dir", help="root of run directories; default SFT_RUNS_DIR, else runs")
    group.add_argument("--experiment", help="folder of the run in runs_dir; default from the file's name")
    group.add_argument("--run_id", "--run-id", help="name of the run; default one is made")
    group.add_argument(
        "--lead",
        type=int,
        metavar="SECONDS",
        help="time before the end that is left to save; default the profile's [180]",
    )
    group.add_argument("--max-requeues", type=int, help="how often the job may be requeued [100]")
    group.add_argument(
        "--max-idle-returns", type=int, help="how often in a row it may be requeued without training a step [5]"
    )
    group.add_argument(
        "--stage-data",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="copy a file or folder to each node's own disk once, and set KEY, such as data.root, to the copy",
    )
    group.add_argument(
        "--sync", action="store_true", help="afterwards run `wandb sync` as a job on the profile's sync_partition"
    )
    group.add_argument("--dry-run", "--dry_run", action="store_true", help="check, and print the script")
    return parser


def main(arguments: list[str]) -> int:
    """Runs `submit`. Returns 0, or raises UserError."""
    ours, theirs = split(arguments)
    given = make_parser().parse_args(ours)
    profile = read_profile(given.profile)
    if (given.config is None) == (given.resume is None):
        raise UserError("submit", "needs either --config or --resume", "give --config EXPERIMENT, or --resume RUN")
    for name in ("nodes", "tasks_per_node", "lead", "max_requeues", "max_idle_returns"):
        value = getattr(given, name)
        least = 0 if name == "max_requeues" else 1
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')}", f"must be at least {least}, got {value}")
    if given.sync and profile.sync_partition is None:
        raise UserError("--sync", "the profile has no sync_partition", "add one whose nodes reach the network")
    if theirs != redaction.without_in_arguments(theirs):
        raise UserError(
            "submit",
            "an option of fit holds a secret, which would be written into the script",
            "use an environment variable",
        )
    where = run_directory(given)
    job = make_job(given, profile, theirs, where)
    choices: dict[str, str | int | None] = {name: getattr(given, name.replace("-", "_")) for name in CHOICES}
    check(job, given.partition or profile.partition)
    if profile.env != redaction.without(profile.env):
        raise UserError(
            "--profile",
            "env holds a secret, which would be written into the script",
            "set it in the nodes' environment",
        )
    quieten()
    check_fit(given, theirs, job)
    text = render(job, profile, choices)
    if given.dry_run:
        print(text, end="")
        return 0
    return send(text, job, where, given, profile)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into (ours, those of fit after `--`)."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at + 1 :]


def send(text: str, job: Job, where: RunDirectory, given: argparse.Namespace, profile: Profile) -> int:
    """Writes the script, submits it, and prints the job and how to follow, stop and resume it."""
    folder = job.root / "slurm"
    script = folder / f"{where.run_id}.sbatch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(script, text)
    except OSError as error:
        raise UserError("--runs_dir", f"{folder} cannot be written: {error.strerror}") from None
    number = sbatch(str(script))
    each = "-N" if job.array else ""
    print(f"job     {number} ({job.name}), {script}")
    print(f"run     {where.path}{each}")
    print(f"log     {job.log.replace('%j', number).replace('%A', number)}")
    print(f"follow  squeue --job {number}; tail -F {job.log.replace('%j', number).replace('%A_%a', number + '_*')}")
    print(f"stop    scancel {number} saves and ends it; scancel --signal=USR1 {number} saves it and lets it come back")
    print(f"resume  sft-lightning submit --resume {where.path}{each}")
    python = shlex.quote(profile.python or sys.executable)  # the full path, as the environment is not activated there
    synced = f"{python} -m wandb sync {shlex.quote(str(where.path))}{'-*' if job.array else ''}/wandb/offline-run-*"
    if given.sync:
        after = ["--dependency", f"afterany:{number}", "--partition", str(profile.sync_partition), "--time", "30"]
        after += ["--job-name", f"{job.name}-sync", "--output", str(folder / f"{where.run_id}-sync-%j.out")]
        print(f"sync    job {sbatch(*after, '--wrap', synced)}")
    elif not profile.network:
        print(f"sync    {synced}")
    return 0
