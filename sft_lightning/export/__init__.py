"""Exports finished runs as files for other tools."""

from sft_lightning.runs.best_model import export_best

__all__ = ["export_best"]
