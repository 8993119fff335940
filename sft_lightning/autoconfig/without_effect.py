"""Refuses what the user sets of an inferred study's base if each arm decides it."""

from collections.abc import Mapping
from typing import Any

from sft_lightning.config.overrides import full, looked_up, nested
from sft_lightning.core.errors import UserError


def check_effect(changed: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError for the first key that each arm with settings to choose from sets or chooses itself.

    An arm without any, such as a linear probe that is solved, has no use for what the others choose.
    """
    choosing = [arm for arm in arms.values() if arm.get("tune")]
    for key, value in changed.items():
        if choosing and not isinstance(value, dict) and all(decides(arm, key) for arm in choosing):
            fix = "leave it out, or write a study file with values of your own"
            raise UserError(key, "has no effect, because each arm of this study has its own", fix)


def decides(arm: Mapping[str, Any], key: str) -> bool:
    """Whether an arm sets or chooses the value of a key."""
    try:
        looked_up(nested(dict(arm.get("set") or {}), "set"), key)
    except KeyError:
        return full(key) in map(full, arm["tune"])
    return True
