"""Submits and cancels Slurm jobs."""

import subprocess

from sft_lightning.core.errors import UserError


def sbatch(*arguments: str) -> str:
    """Submits a job and returns its id; raises UserError with the message of sbatch if that fails."""
    try:
        done = subprocess.run(["sbatch", "--parsable", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("submit", "there is no sbatch here", "run it on a login node, or use --dry-run") from None
    if done.returncode:
        raise UserError("submit", f"sbatch refuses: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout.strip().partition(";")[0]


def cancel(job: str) -> None:
    """Cancels a job; does nothing if it has ended."""
    subprocess.run(["scancel", job], capture_output=True, check=False)
