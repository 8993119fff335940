"""Names in others' state dicts: finds the mapping in a file that holds the weights, and removes prefixes from names."""

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sft_lightning.core.errors import UserError

USUAL = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "backbone",
    "encoder",
)
"""Keys under which files keep the weights; the first one found wins"""


def tensors_of(content: Any, path: Path, notes: list[str]) -> dict[str, Tensor]:
    """Finds the state dict in a file's content, and notes a choice. Raises UserError, with the keys, if there is none."""
    if is_state(content):
        return dict(content)
    if not isinstance(content, Mapping):
        raise UserError(
            "network.pretrained",
            f"{path} must hold a state dict (names to tensors), got a {type(content).__name__}",
            "save the weights alone",
        )
    found = {str(key): value for key, value in content.items() if is_state(value)}
    for key, value in content.items():  # one level deeper: {checkpoint: {model: …}}
        if isinstance(value, Mapping) and not is_state(value):
            found |= {f"{key}.{below}": state for below, state in value.items() if is_state(state)}
    if not found:
        held = ", ".join(f"{key} ({kind_of(value)})" for key, value in list(content.items())[:6])
        raise UserError(
            "network.pretrained",
            f"{path} holds no state dict (names to tensors), it holds {held or 'nothing'}",
            "save the weights alone",
        )
    key = next((k for k in USUAL if k in found), None) or next(
        (k for k in found if k.rpartition(".")[2] in USUAL), None
    )
    if key is None and len(found) > 1:
        raise UserError(
            "network.pretrained", f"{path} holds several state dicts ({', '.join(found)})", "save one of them alone"
        )
    key = key or next(iter(found))
    others = [name for name in found if name != key]
    if others:
        left = f"{', '.join(others)} beside it {'is' if len(others) == 1 else 'are'} not"
        notes.append(f"the weights under '{key}' are taken; {left}")
    elif key not in ("state_dict", "model", "model_state_dict"):
        notes.append(f"the weights under '{key}' are taken")
    return dict(found[key])


def is_state(value: Any) -> bool:
    """Whether it maps at least one name to a tensor, and nothing else."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def kind_of(value: Any) -> str:
    """`12 names`, `int`"""
    return f"{len(value)} name{'s' * (len(value) != 1)}" if isinstance(value, Mapping) else type(value).__name__


def unprefixed(
    state: Mapping[str, Tensor], wanted: Collection[Collection[str]], source: str, notes: list[str]
) -> dict[str, Tensor]:
    """Removes a prefix before the network's names (`module.`, `_orig_mod.model.`), and notes it.

    `wanted` are alternative sets of names. A prefix is removed if the remaining names fit at least half of a set, and more of
    it than the unchanged names do; names without the prefix stay. Raises UserError if two prefixes fit equally well.
    """
    best: tuple[float, str] = (0.0, "")
    for names in wanted:
        plain = sum(name in names for name in state)
        counts: Counter[str] = Counter()
        for name in state:
            parts = name.split(".")
            counts.update(f"{'.'.join(parts[:i])}." for i in range(1, len(parts)) if ".".join(parts[i:]) in names)
        for prefix, count in counts.most_common(1):
            if count <= plain or count * 2 < len(names) or count / len(names) <= best[0]:
                continue
            rival = next((p for p, c in counts.items() if c == count and p != prefix), None)
            if rival is not None:
                raise UserError(
                    "network.pretrained",
                    f"{source}: both the names that begin with '{prefix}' and those that begin with '{rival}' fit the "
                    "network",
                    "save one of them alone",
                )
            best = (count / len(names), prefix)
    prefix = best[1]
    if not prefix:
        return dict(state)
    begun = sum(name.startswith(prefix) for name in state)
    notes.append(f"'{prefix}' taken off {'all' if begun == len(state) else begun} of the file's {len(state)} names")
    return {name.removeprefix(prefix): value for name, value in state.items()}


def common_prefix(names: Collection[str]) -> str:
    """The common beginning of all names in whole words, such as `module.`; may be empty."""
    split = [name.split(".")[:-1] for name in names]
    common = []
    for words in zip(*split, strict=False):
        if len(set(words)) > 1:
            break
        common.append(words[0])
    return "".join(f"{word}." for word in common)
