"""Checks by fingerprints that a run is resumed or measured on the data that it was fitted on."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sft_lightning.core.errors import UserError

PARTS = {"data": ("train", "val", "test"), "retention": ("val", "test")}
"""Splits that a fit uses, of the target data and of the source data"""


def recorded(record: Mapping[str, Any], part: str) -> dict[str, str]:
    """Returns the recorded fingerprint of each split of 'data' or 'retention'; empty if there are none."""
    held = record.get(part)
    prints = held.get("fingerprint") if isinstance(held, dict) else None
    return prints if isinstance(prints, dict) else {}


def of_test(record: Mapping[str, Any], part: str) -> str | None:
    """Returns the fingerprint of the test split on which the record's `test` was measured."""
    measured = record.get("measured")
    tested = measured.get("test") if isinstance(measured, dict) else None
    name = "fingerprint" if part == "data" else "retention_fingerprint"
    held = tested.get(name) if isinstance(tested, dict) else None
    return (held if isinstance(held, dict) else recorded(record, part)).get("test")


def differences(record: Mapping[str, Any], found: Mapping[str, Mapping[str, str]], splits: Iterable[str]) -> list[str]:
    """Returns 'train of data (recorded 1f…, found 3a…)' for each split whose content, rows or targets have changed.

    Args:
        record: The run's record.
        found: Current fingerprints, by 'data' or 'retention', then by split. Splits that are missing are not compared.
        splits: Names of the splits to compare.
    """
    said = []
    for part, prints in found.items():
        before = recorded(record, part)
        for split in [s for s in splits if s in PARTS[part] and s in before and s in prints]:
            if before[split] != prints[split]:
                said.append(f"{split} of {part} (recorded {before[split]}, found {prints[split]})")
    return said


def elsewhere(record: Mapping[str, Any]) -> str:
    """Returns '; the run was made in A, and this is B' if the folders differ: relative paths then name other files."""
    made, here = record.get("cwd"), os.getcwd()
    return f"; the run was made in {made}, and this is {here}" if isinstance(made, str) and made != here else ""


def refusal(record: Mapping[str, Any], found: Mapping[str, Mapping[str, str]]) -> UserError | None:
    """Returns the UserError for a fit that cannot resume because its data changed; None if the data is the same."""
    differ = differences(record, found, ("train", "val", "test"))
    if not differ:
        return None
    where = elsewhere(record)
    back = "run the command from there, restore the files" if where else "restore the files and options"
    problem = f"has changed since the run began: {', '.join(differ)}{where}"
    return UserError("data", problem, f"{back}, or start a new run")


def note(record: Mapping[str, Any], found: Mapping[str, Mapping[str, str]], splits: Iterable[str]) -> str | None:
    """Returns a note if a run is measured on other samples than fit recorded; None if they are the same."""
    differ = differences(record, found, splits)
    return f"not the data that fit recorded: {', '.join(differ)}{elsewhere(record)}" if differ else None


def left_behind(record: Mapping[str, Any], config: Path) -> str:
    """Returns a hint if a relative path of config.yaml exists only in the folder where the run was made; else empty."""
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
            except (OSError, ValueError):  # not a path
                continue
            if value and gone:
                return f"run the command from {made}, where the run was made and which has {value}"
    return ""


def strings(value: Any) -> list[str]:
    """Returns every text in nested settings, except class paths."""
    if isinstance(value, dict):
        return [text for key, held in value.items() if key != "class_path" for text in strings(held)]
    if isinstance(value, list):
        return [text for held in value for text in strings(held)]
    return [value] if isinstance(value, str) else []
