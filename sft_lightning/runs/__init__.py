"""Run directories: makes them, records into them and reads them back."""

from typing import TYPE_CHECKING, Any

from sft_lightning.runs.directory import RunDirectory, create_run, make_run_id
from sft_lightning.runs.load import Run, load
from sft_lightning.runs.record import Record

if TYPE_CHECKING:
    from sft_lightning.runs.metrics_log import MetricsLog

__all__ = ["MetricsLog", "Record", "Run", "RunDirectory", "create_run", "load", "make_run_id"]


def __getattr__(name: str) -> Any:
    """Imports MetricsLog when it is first used: it needs Lightning, which readers of runs do not."""
    if name == "MetricsLog":
        from sft_lightning.runs.metrics_log import MetricsLog

        return MetricsLog
    raise AttributeError(f"module {__name__} has no attribute {name}")
