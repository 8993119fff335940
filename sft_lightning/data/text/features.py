"""Reads class names from the features of datasets, as parquet files and the hub have them."""

from typing import Any


def class_names_of(feature: Any) -> list[str] | None:
    """The class names of a feature as plain values, or of the values of its lists; None if it has none."""
    if isinstance(feature, list) and len(feature) == 1:  # as datasets wrote a list until version 1.2
        feature = feature[0]
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        return list(feature["names"])
    return class_names_of(feature["feature"]) if "feature" in feature else None
