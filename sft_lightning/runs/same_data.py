"""Whether a run that is gone on with, or measured, meets the data it was fitted on: by the fingerprints in its record."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core.errors import UserError

PARTS = {"data": ("train", "val", "test"), "retention": ("val", "test")}
"""Splits that a fit uses, of its data and of the source task's"""


def recorded(record: Mapping[str, Any], part: str) -> dict[str, str]:
    """The fingerprint of each split of 'data' or 'retention' when the run was first fitted; empty where none is recorded."""
    held = record.get(part)
    prints = held.get("fingerprint") if isinstance(held, dict) else None
    return prints if isinstance(prints, dict) else {}


def of_test(record: Mapping[str, Any], part: str) -> str | None:
    """The fingerprint of the test split that the record's `test` was measured on."""
    measured = record.get("measured")
    tested = measured.get("test") if isinstance(measured, dict) else None
    name = "fingerprint" if part == "data" else "retention_fingerprint"
    held = tested.get(name) if isinstance(tested, dict) else None
    return (held if isinstance(held, dict) else recorded(record, part)).get("test")


def differences(record: Mapping[str, Any], found: Mapping[str, Mapping[str, str]], splits: Iterable[str]) -> list[str]:
    """'train of data (recorded 1f…, found 3a…)' for each split whose content, rows or targets are others than recorded.

    Args:
        record: The run's.
        found: Fingerprints now: by 'data' or 'retention', then by split. One that is in neither says nothing.
        splits: Which to look at.
    """
    said = []
    for part, prints in found.items():
        before = recorded(record, part)
        for split in [s for s in splits if s in PARTS[part] and s in before and s in prints]:
            if before[split] != prints[split]:
                said.append(f"{split} of {part} (recorded {before[split]}, found {prints[split]})")
    return said


def elsewhere(record: Mapping[str, Any]) -> str:
    """'; the run was made in A, and this is B' where these are two folders, since relative paths then name other files."""
    made, here = record.get("cwd"), os.getcwd()
    return f"; the run was made in {made}, and this is {here}" if isinstance(made, str) and made != here else ""


def refusal(record: Mapping[str, Any], found: Mapping[str, Mapping[str, str]]) -> UserError | None:
    """Why a fit cannot go on: other data than it began with. None where the data is the same."""
    differ = differences(record, found, ("train", "val", "test"))
    if not differ:
        return None
    where = elsewhere(record)
    back = "run the command from there, restore the files" if where else "restore the files and options"
    problem = f"fit cannot resume with other data than the run began with: {', '.join(differ)}{where}"
    return UserError("data", problem, f"{back}, or start a new run")


def note(record: Mapping[str, Any], found: Mapping[str, Mapping[str, str]], splits: Iterable[str]) -> str | None:
    """What is said where a run is measured on other samples than those that fit recorded; None where it is not."""
    differ = differences(record, found, splits)
    return f"not the data that fit recorded: {', '.join(differ)}{elsewhere(record)}" if differ else None


def left_behind(record: Mapping[str, Any], config: Path) -> str:
    """Which relative path of a run's config.yaml is found where the run was made and not here; empty where none is."""
    made = record.get("cwd")
    if not isinstance(made, str) or made == os.getcwd():
        return ""
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    for part in ("data", "retention", "network"):
        for value in strings(content.get(part) if isinstance(content, dict) else None):
            try:
                gone = not Path(value).is_absolute() and not Path(value).exists() and (Path(made) / value).exists()
            except (OSError, ValueError):  # no path at all
                continue
            if value and gone:
                return f"{value} is in {made}, where the run was made, and not here: run the command from there"
    return ""


def strings(value: Any) -> list[str]:
    """Every text in nested settings but class paths."""
    if isinstance(value, dict):
        return [text for key, held in value.items() if key != "class_path" for text in strings(held)]
    if isinstance(value, list):
        return [text for held in value for text in strings(held)]
    return [value] if isinstance(value, str) else []
