"""Reduces the default study step by step, for a time budget that the whole study exceeds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sft_lightning.config.overrides import nested, put

FEWEST_STEPS, FEWEST_TOKENS = 40, 32
"""Fewest optimizer steps of a fit and tokens of a text that a budget may lead to"""
FEWEST_VALIDATIONS = 5


@dataclass(frozen=True)
class Size:
    """A study of reduced size."""

    content: dict[str, Any]
    left_out: tuple[str, ...]
    """In words, the parts of the whole study that this one lacks"""
    tokens: float = 1.0
    """Share of the whole study's tokens that is left after texts are cut"""


def sizes(content: dict[str, Any], steps: int = 0, tokens: list[int] | None = None) -> list[Size]:
    """Returns the study, then ever smaller ones. The smallest has all arms, one tuning seed, short fits and short texts.

    The reductions that harm the comparison least come first: tuning seeds, learning rates of the anchored arms, folds,
    steps of each fit, ends of texts. The baseline's learning rate is always tuned.

    Args:
        content: Content of the study file.
        steps: Optimizer steps of a fit; 0 if unknown, which keeps the number of steps.
        tokens: Tokens of some texts; None or empty if texts cannot be cut.
    """
    found = [Size(content, ())]
    for said, made in fewer_fits(content):
        found.append(Size(made, (*found[-1].left_out, said)))
    before = found[-1].left_out
    for said, made in fewer_steps(found[-1].content, steps):  # each halves the steps again, so only the last is named
        found.append(Size(made, (*before, said)))
    before = found[-1].left_out
    for said, made, share in shorter_texts(found[-1].content, tokens or []):
        found.append(Size(made, (*before, said), share))
    return found


def fewer_fits(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (the reduction in words, the reduced study), one reduction after another."""
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
    """An arm with only its middle learning rate, if it tunes the learning rate and other keys."""
    tune = arm.get("tune", {})
    if len(tune) < 2 or len(tune.get("model.lr", [])) < 2:
        return arm
    return {**arm, "tune": {**tune, "model.lr": [middle(tune["model.lr"])]}}


def middle(values: list[Any]) -> Any:
    """The middle of an ordered grid; the larger of two, as in the base config."""
    return values[len(values) // 2]


def fewer_steps(content: dict[str, Any], steps: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the study with half the steps of a fit, then a quarter, and so on down to FEWEST_STEPS."""
    if not steps:
        return
    trainer, whole = content["base"].get("trainer", {}), steps
    said = nested(content.get("set") or {}, "set").get("trainer", {})
    if {"max_epochs", "max_steps", "val_check_interval", "check_val_every_n_epoch"} & set(said):
        return  # the user has set the length of a fit
    epochs = trainer.get("max_epochs", 1)
    while True:
        if epochs > 1:
            per_epoch, epochs = steps // epochs, epochs // 2
            every = max(1, epochs // FEWEST_VALIDATIONS) if "check_val_every_n_epoch" in trainer else None
            epochs -= epochs % (every or 1)
            trainer = {**trainer, "max_epochs": epochs, **({"check_val_every_n_epoch": every} if every else {})}
            steps = per_epoch * epochs
        else:
            steps //= 2
            every = max(1, steps // FEWEST_VALIDATIONS)
            trainer = {**trainer, "max_epochs": 1, "max_steps": steps, "val_check_interval": every}
        if steps < FEWEST_STEPS:
            return
        content = {**content, "base": {**content["base"], "trainer": trainer}}
        yield f"a fit has {steps:,} of {whole:,} steps", content


def shorter_texts(content: dict[str, Any], lengths: list[int]) -> Iterator[tuple[str, dict[str, Any], float]]:
    """Yields the study with texts cut at half the tokens, then a quarter, down to FEWEST_TOKENS; with the share left."""
    said = nested(content.get("set") or {}, "set").get("data", {}).get("init_args", {})
    if "max_length" in said or not lengths:
        return
    limit = content["base"]["data"]["init_args"].get("max_length") or max(lengths)
    whole = sum(min(n, limit) for n in lengths)
    while limit // 2 >= FEWEST_TOKENS:
        limit //= 2
        base = put(content["base"], "data.max_length", limit)
        if "retention" in base:
            base = put(base, "retention.max_length", limit)
        content = {**content, "base": base}
        cut = sum(n > limit for n in lengths) / len(lengths)
        left = sum(min(n, limit) for n in lengths) / whole
        yield f"texts are cut at {limit} tokens, which {cut:.0%} of them exceed", content, left
