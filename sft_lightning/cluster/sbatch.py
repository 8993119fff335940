"""Submitting and cancelling."""

import subprocess

from sft_lightning.core.errors import UserError


def sbatch(*arguments: str) -> str:
    """The id of the job that sbatch made; UserError with what it said."""
    try:
        done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("submit", "there is no sbatch here", "run this on a login node, or look at --dry-run") from None
    if done.returncode:
        raise UserError("submit", f"sbatch refuses: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout.strip().partition(";")[0]


def cancel(job: str) -> None:
    """Has a job of ours go away; one that is over is gone already."""
    subprocess.run(["scancel", job], capture_output=True, check=False)
