"""The default study made smaller, step by step, for a budget that does not pay for all of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """A study of some size."""

    content: dict[str, Any]
    left_out: tuple[str, ...]
    """What the whole study has and this one has not, in words"""


def sizes(content: dict[str, Any]) -> list[Size]:
    """The study, then ever smaller ones, down to the least: every arm, three settings of each, chosen by one seed.

    What is given up first costs the comparison least. The baseline's learning rate stays tuned to the last.
    """
    found = [Size(content, ())]
    for said, made in steps(content):
        found.append(Size(made, (*found[-1].left_out, said)))
    return found


def steps(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what is given up, the study without it)"""
    if content.get("tune_seeds") != 1:
        content = {**content, "tune_seeds": 1}
        yield "settings are chosen on the first seed alone", content
    arms = {name: thinner(arm) for name, arm in content["arms"].items()}
    if thin := [name for name, arm in arms.items() if arm != content["arms"][name]]:
        rate = arms[thin[0]]["tune"]["model.lr"][0]
        content = {**content, "arms": arms}
        yield f"{' and '.join(thin)} {'has' if len(thin) == 1 else 'have'} the one learning rate {rate:g}", content
    if content.get("folds") is not None:
        content = {k: v for k, v in content.items() if k != "folds"}
        yield "settings are chosen on the validation split, without cross-validation", content


def thinner(arm: dict[str, Any]) -> dict[str, Any]:
    """An arm that tunes its learning rate and more, with the middle rate alone."""
    tune = arm.get("tune", {})
    if len(tune) < 2 or len(tune.get("model.lr", [])) < 2:
        return arm
    return {**arm, "tune": {**tune, "model.lr": [middle(tune["model.lr"])]}}


def middle(values: list[Any]) -> Any:
    """Of a grid in order; of two the larger, as the base has it."""
    return values[len(values) // 2]
