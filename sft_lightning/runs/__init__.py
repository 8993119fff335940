"""The run directory: make it, record into it, read it back."""

from sft_lightning.runs.directory import RunDirectory, create_run, make_run_id
from sft_lightning.runs.load import Run, load
from sft_lightning.runs.metrics_log import MetricsLog
from sft_lightning.runs.record import Record

__all__ = ["MetricsLog", "Record", "Run", "RunDirectory", "create_run", "load", "make_run_id"]
