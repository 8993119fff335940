"""What was kept: the source metric after tuning, and gauges of drift that need no source data."""

from sft_lightning.retention.answers import Answers
from sft_lightning.retention.drift import DriftMeter, statistics_drift, weight_drift
from sft_lightning.retention.evaluate import evaluate

__all__ = ["Answers", "DriftMeter", "evaluate", "statistics_drift", "weight_drift"]
