"""How a run stands: the words of `run.json`'s `status`, and whether a run is finished."""

RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"
QUEUED = "queued"
"""Of a study's point that has no run yet."""


def is_finished(status: object) -> bool:
    """Whether training ended as it was meant to, by the `status` of a run's record or of a study's point."""
    return status == FINISHED


def is_over(status: object) -> bool:
    """Whether nothing more comes by itself: finished, or failed."""
    return status in (FINISHED, FAILED)
