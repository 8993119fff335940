"""Measures what a network kept: the source metric after tuning, and gauges of drift that need no source data."""

from sft_lightning.evaluation.drift import DriftMeter, moved, statistics_drift, weight_drift
from sft_lightning.evaluation.evaluate import evaluate
from sft_lightning.evaluation.predictions import Answers

__all__ = ["Answers", "DriftMeter", "evaluate", "moved", "statistics_drift", "weight_drift"]
