"""The values of `status` in `run.json`, and tests for finished and ended runs."""

RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"
QUEUED = "queued"
"""Status of a study's point that has no run yet"""


def is_finished(status: object) -> bool:
    """Tells whether training ended as planned, by the `status` of a run's record or of a study's point."""
    return status == FINISHED


def is_over(status: object) -> bool:
    """Tells whether a run has ended for good: finished or failed."""
    return status in (FINISHED, FAILED)
