"""Overlays: the changes that an arm, an axis or a setting makes to the base experiment."""

from typing import Any

from sft_lightning.config.retention_names import spread
from sft_lightning.core.errors import UserError

BLOCKS = ("model", "network", "data", "retention")
PARTS = ("class_path", "init_args")


def nested(overlay: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns an overlay with dotted keys as nested mappings; `model.lr` is short for `model.init_args.lr`.

    Sets that `retention` names stand where the parser has them.
    """
    result: dict[str, Any] = {}
    for key, value in spread(overlay).items():
        if not isinstance(key, str) or not all(key.split(".")):
            raise UserError(
                where, f"{key!r} is not a valid key", "write keys as model.init_args.lr, or model.lr for short"
            )
        parts = full(key).split(".")
        if parts[0] in BLOCKS and len(parts) == 1 and isinstance(value, dict):
            value = in_block(value)
        for part in reversed(parts[1:]):
            value = {part: value}
        result = merged(result, {parts[0]: value})
    return result


def in_block(block: dict[str, Any]) -> dict[str, Any]:
    """Moves arguments that are written directly below `model:` into its init_args."""
    init = {k: v for k, v in block.items() if k not in PARTS}
    kept = {k: v for k, v in block.items() if k in PARTS}
    return merged(kept, {"init_args": init}) if init else kept


def full(key: str) -> str:
    """Returns a key in full: `model.init_args.lr` for `model.lr`."""
    parts = key.split(".")
    if parts[0] in BLOCKS and len(parts) > 1 and parts[1] not in PARTS:
        parts.insert(1, "init_args")
    return ".".join(parts)


def short(key: str, among: list[str]) -> str:
    """Returns the shortest name of a key that is unique in `among`: `lr` for `model.init_args.lr`."""
    parts = key.split(".")
    for n in range(1, len(parts)):
        name = ".".join(parts[-n:])
        if sum(full(other) == full(key) or ("." + full(other)).endswith("." + name) for other in among) <= 1:
            return name
    return key


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merges `over` into `base`: mappings key by key, any other value replaces the old one."""
    result = dict(base)
    for key, value in over.items():
        held = result.get(key)
        result[key] = merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return result


def looked_up(config: dict[str, Any], key: str) -> Any:
    """Returns the value at a dotted key; raises KeyError if there is none."""
    value: Any = config
    for part in full(key).split("."):
        if not isinstance(value, dict):
            raise KeyError(key)
        value = value[part]
    return value


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Returns a copy with another value at a dotted key."""
    over = value
    for part in reversed(full(key).split(".")):
        over = {part: over}
    return merged(config, over)
