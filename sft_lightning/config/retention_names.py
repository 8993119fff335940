"""Reads `retention: {imagenet: {…}, sketch: {…}}`, sets of the source task by name, as `retention` and `retention_sets`."""

from collections.abc import Mapping
from typing import Any

from sft_lightning.core.errors import UserError

SETS, ITSELF = "retention_sets", "retention"
"""The key of named sets, and what stands there for the set that is `retention` itself"""


def names_sets(block: Any) -> bool:
    """Whether the value of `retention` maps names to sets: it has no class_path of its own, and each value has one, or a
    corruption.
    """
    if not isinstance(block, Mapping) or not block or {"class_path", "init_args"} & set(block):
        return False
    return all(isinstance(one, Mapping) and {"class_path", "corruption"} & set(one) for one in block.values())


def spread(content: Any) -> Any:
    """Returns a config's content with named sets under `retention` in the keys that the parser has.

    The first set that is not corrupted becomes `retention`: anchors and the choice of settings use it, unless a metric of
    another one is named. It keeps its columns under its own name too.
    """
    if not isinstance(content, dict) or not names_sets(content.get("retention")):
        return content
    named = content["retention"]
    if content.get(SETS):
        raise UserError(
            SETS, "cannot be set beside retention, which names sets itself", "write all of them in retention"
        )
    first = next((name for name, one in named.items() if "corruption" not in one), None)
    if first is None:
        fix = "add a set with class_path alone, or write retention: {class_path: …} and the others in retention_sets"
        raise UserError("retention", "names corrupted sets alone", fix)
    sets = {name: ITSELF if name == first else one for name, one in named.items()}
    return {**content, "retention": named[first], SETS: sets}
