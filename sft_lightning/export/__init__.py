"""Exports finished runs as files for other tools."""

from sft_lightning.core.registry import discover
from sft_lightning.export.formats import FORMATS, Format, default_format
from sft_lightning.export.own_folder import load_export
from sft_lightning.export.writing import Exported, export_run
from sft_lightning.runs.best_model import export_best

__all__ = ["FORMATS", "Exported", "Format", "default_format", "export_best", "export_run", "load_export"]

discover(__name__)
