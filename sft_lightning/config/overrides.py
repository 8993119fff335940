"""Overlays: what an arm, an axis or a setting changes of the base experiment."""

from typing import Any

from sft_lightning.core.errors import UserError

BLOCKS = ("model", "network", "data", "retention")
PARTS = ("class_path", "init_args")


def nested(overlay: dict[str, Any], where: str) -> dict[str, Any]:
    """The same with dotted keys as mappings; `model.lr` is short for `model.init_args.lr`."""
    result: dict[str, Any] = {}
    for key, value in overlay.items():
        if not isinstance(key, str) or not all(key.split(".")):
            raise UserError(where, f"{key!r} is no key", "write model.init_args.lr, or model.lr for short")
        parts = full(key).split(".")
        if parts[0] in BLOCKS and len(parts) == 1 and isinstance(value, dict):
            value = in_block(value)
        for part in reversed(parts[1:]):
            value = {part: value}
        result = merged(result, {parts[0]: value})
    return result


def in_block(block: dict[str, Any]) -> dict[str, Any]:
    """Arguments written straight below `model:` go where they belong."""
    init = {k: v for k, v in block.items() if k not in PARTS}
    kept = {k: v for k, v in block.items() if k in PARTS}
    return merged(kept, {"init_args": init}) if init else kept


def full(key: str) -> str:
    """`model.lr` in full: `model.init_args.lr`."""
    parts = key.split(".")
    if parts[0] in BLOCKS and len(parts) > 1 and parts[1] not in PARTS:
        parts.insert(1, "init_args")
    return ".".join(parts)


def short(key: str, among: list[str]) -> str:
    """The shortest name of a key that no other of `among` has: `lr` for `model.init_args.lr`."""
    parts = key.split(".")
    for n in range(1, len(parts)):
        name = ".".join(parts[-n:])
        if sum(full(other) == full(key) or ("." + full(other)).endswith("." + name) for other in among) <= 1:
            return name
    return key


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid upon `base`: mappings key by key, all else replaced."""
    result = dict(base)
    for key, value in over.items():
        held = result.get(key)
        result[key] = merged(held, value) if isinstance(held, dict) and isinstance(value, dict) else value
    return result


def looked_up(config: dict[str, Any], key: str) -> Any:
    """The value at a dotted key; KeyError where there is none."""
    value: Any = config
    for part in full(key).split("."):
        if not isinstance(value, dict):
            raise KeyError(key)
        value = value[part]
    return value


def put(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with another value at a dotted key."""
    over = value
    for part in reversed(full(key).split(".")):
        over = {part: over}
    return merged(config, over)
