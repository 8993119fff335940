"""Lists the keys that the user wrote, in order: flags of the command line, and the keys of the files that they name.

The parser keeps only the result. This list serves to find keys that have no effect.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from sft_lightning.config.overrides import BLOCKS, full
from sft_lightning.core import plain_yaml
from sft_lightning.core.errors import UserError

LEVELS = ("init_args", "dict_kwargs")
PARTS = ("class_path", *LEVELS)
"""Parts of a key that may be left out: `model.lr` is `model.init_args.lr`"""
FILES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Given:
    """One key with the value that the user wrote for it."""

    key: str
    """As it was written, without `--`: `model.lr`"""
    value: Any
    file: str | None = None
    """The file that has the key; None for the command line"""

    @property
    def plain(self) -> str:
        """The key without the parts that may be left out, so that two spellings of one key are equal."""
        return plain(self.key)


def plain(key: str) -> str:
    """Returns a key without the parts that may be left out."""
    return ".".join(part for part in key.split(".") if part not in PARTS)


Link = tuple[tuple[str, ...], str]
"""(keys a value is taken from, the key that it is written to)"""


def from_arguments(arguments: Iterable[str]) -> Iterator[Given]:
    """Yields all keys of a command line in order. The keys of a `--config` file come at its place."""
    words = list(arguments)
    for i, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, joined, value = word[2:].partition("=")
        if not joined:
            value = words[i + 1] if i + 1 < len(words) and not words[i + 1].startswith("--") else "true"
        if key == "config":
            yield from from_mapping(read(value), file=value)
        else:
            yield from from_value(key, value)


def from_value(key: str, text: str) -> Iterator[Given]:
    """Yields the keys of a flag's value: those of a mapping, or of a file that holds one; else the flag itself."""
    content = read(text)
    if isinstance(content, dict) and content:
        yield from from_mapping(content, key, text if text.endswith(FILES) else None)
    else:
        yield Given(key, text if content is None else content)


def from_mapping(content: Any, above: str = "", file: str | None = None) -> Iterator[Given]:
    """Yields all keys of nested mappings whose value is not a mapping itself."""
    for name, value in content.items() if isinstance(content, dict) else ():
        name = ("on" if name else "off") if isinstance(name, bool) else name  # YAML 1.1's reading of the key `on`
        key = f"{above}.{name}" if above else str(name)
        if isinstance(value, dict) and value:
            yield from from_mapping(value, key, file)
        else:
            yield Given(key, value, file)


def read(text: str) -> Any:
    """Reads a value as YAML; if it names a readable file, returns the file's content."""
    try:
        if text.endswith(FILES) and Path(text).expanduser().is_file():
            return plain_yaml.load_file(Path(text).expanduser())
        return plain_yaml.load(text)
    except (yaml.YAMLError, ValueError, OSError, RecursionError):
        return text


def without_value(arguments: Sequence[str], option: str) -> str:
    """Returns the key of the first flag of an option (`--model`) or of its parts (`--model.lr`) that has no value."""
    for word, after in zip(arguments, [*arguments[1:], "--"], strict=True):
        if (word == option or word.startswith(f"{option}.")) and "=" not in word and re.match(r"-[^\d.]", after):
            return word if word == "--config" else word.removeprefix("--")
    return option


# ---- keys in errors ----


def in_users_words(error: UserError, given: Sequence[Given], config: Mapping[str, Any]) -> UserError:
    """Returns the same error with keys of arguments as the user wrote them, else in full: `model.init_args.lr`.

    Args:
        error: An error that names such keys in its key or its fix.
        given: The keys that the user wrote.
        config: The resolved config, whose arguments tell keys from files (`data.csv`); empty if it is unknown.
    """

    def spell(match: re.Match[str]) -> str:
        key = match[0]
        if key.rpartition(".")[2] in PARTS:
            return key
        block, name = plain(key).split(".")[:2]
        arguments = (config.get(block) or {}).get("init_args") or {}
        return written_as(key, given) or (full(key) if name in arguments else key)

    key = re.sub(rf"^{ARGUMENT}[\w.]*", spell, error.key)
    fix = re.sub(rf"(?<![\w./-]){ARGUMENT}", spell, error.fix)
    return error if (key, fix) == (error.key, error.fix) else UserError(key, error.problem, fix)


ARGUMENT = rf"(?:{'|'.join(BLOCKS)})\.(?:init_args\.)?(?!(?:{'|'.join(PARTS)})\b)\w+"
"""Matches the key of an argument of a class, in either spelling"""


def written_as(key: str, given: Sequence[Given]) -> str | None:
    """Returns a key in the user's last spelling; None if the user wrote neither the key nor one below it."""
    wanted = plain(key)
    for item in reversed(given):
        parts = item.key.rstrip("+").split(".")
        for i in range(len(parts), 0, -1):
            if parts[i - 1] not in PARTS and plain(above := ".".join(parts[:i])) == wanted:
                return above
    return None


# ---- keys that a link overwrites ----


def links_of(parser: Any) -> list[Link]:
    """Returns the links of a parser that are applied to its settings."""
    group = getattr(parser, "_links_group", None)
    actions = group._group_actions if group is not None else []
    return [(tuple(key for key, _ in a.source), a.target[0]) for a in actions if a.apply_on == "parse"]


def refuse_linked(given: Iterable[Given], links: list[Link]) -> None:
    """Raises UserError for a key that a link overwrites, and names the key to set instead."""
    for item in given:
        for sources, target in links:
            wanted = Given(target, None).plain
            if item.plain != wanted and not item.plain.startswith(f"{wanted}."):
                continue
            below = item.key.split(".")[len(wanted.split(".")) + (1 if item.key.split(".")[1] in LEVELS else 0) :]
            if below and below[0] not in PARTS:
                below.insert(0, LEVELS[0])
            use = " and ".join(".".join([source, *below]) for source in sources)
            where = f" in {item.file}" if item.file is not None else ""
            problem = f"has no effect{where}, because {target} is made from {' and '.join(sources)}"
            raise UserError(item.key, problem, f"set {use}")


# ---- keys within lists ----


def names(given: Iterable[Given], above: str, key: str) -> bool:
    """Tells whether a key is written anywhere below another one, in lists too."""
    return any(
        item.plain.rstrip("+").startswith(above) and (item.plain.endswith(f".{key}") or within(item.value, key))
        for item in given
    )


def within(value: Any, key: str) -> bool:
    """Tells whether nested plain values have a key."""
    if isinstance(value, dict):
        return key in value or any(within(v, key) for v in value.values())
    return isinstance(value, list) and any(within(v, key) for v in value)


# ---- flags that something later overrides ----


def overridden(given: list[Given], settings: Namespace) -> list[str]:
    """Returns one line for each flag of the command line whose value a later key replaced.

    Lists are left out: options such as `--trainer.callbacks+=` add to them.
    """
    lines = []
    lists = {g.plain.rstrip("+") for g in given if g.key.endswith("+") or isinstance(g.value, list)}
    for i, flag in enumerate(given):
        if flag.file is not None or any(flag.plain.rstrip("+").startswith(name) for name in lists):
            continue
        later = [g for g in given[i + 1 :] if g.plain == flag.plain or flag.plain.startswith(f"{g.plain}.")]
        by_file = [g for g in later if g.file is not None]
        won = by_file[-1] if by_file else next((g for g in reversed(later) if g.plain == flag.plain), None)
        if won is None:
            continue
        used = found(settings, flag.plain)
        if used is not MISSING and not same(used, flag.value):
            who = f"{won.file}, which comes later, sets {won.key}" if won.file else "the same flag again sets it"
            what = f"--{flag.key} {shown(flag.value)} has no effect: {who} to {shown(won.value)}"
            lines.append(what + ("; write flags after --config" if won.file else ""))
    return lines


def say_overridden(given: list[Given], settings: Namespace) -> None:
    """Prints these lines to stderr."""
    for line in overridden(given, settings):
        print(f"sft-lightning: note: {line}", file=sys.stderr, flush=True)


MISSING = object()


def found(settings: Any, plain: str) -> Any:
    """Returns the value of a plain key in parsed settings, or MISSING."""
    value = settings
    for part in plain.split("."):
        if isinstance(value, Namespace) and part not in value and LEVELS[0] in value:
            value = value[LEVELS[0]]
        if not isinstance(value, Namespace | dict) or part not in value:
            return MISSING
        value = value[part]
    return value


def same(used: Any, written: Any) -> bool:
    """Tells whether a parsed value equals the written one."""
    if isinstance(used, Namespace) and "class_path" in used:
        return str(used["class_path"]).rpartition(".")[2] == str(written).rpartition(".")[2]
    if used == written or str(used) == str(written):
        return True
    if used is None:
        return str(written) in ("None", "null", "~")
    try:
        return float(used) == float(written)
    except (TypeError, ValueError):
        return False


def shown(value: Any) -> str:
    """Writes a value as YAML in one line."""
    return " ".join(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True).replace("...", "").split())
