"""Reads YAML as plain values, and raises an error if a mapping has a key twice."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError


class DoubledKey(ConstructorError):
    """A mapping has a key twice. YAML 1.2 forbids it (section 3.2.1.3); PyYAML would silently keep the last value.

    Args:
        key: The key with all keys above it: `trainer.max_epochs`.
        first: Where the key comes first.
        second: Where it comes again.
    """

    def __init__(self, key: str, first: yaml.Mark, second: yaml.Mark) -> None:
        self.lines = first.line + 1, second.line + 1
        one, other = self.lines
        places = f"both in line {one}" if one == other else f"in lines {one} and {other}"
        self.said = f"key '{key}' is given twice, {places}, and the first value would be lost"
        self.fix = "keep one of them"
        super().__init__(problem=self.said)

    def __str__(self) -> str:
        return f"{self.said}; {self.fix}"


class Strict(yaml.SafeLoader):
    """PyYAML's SafeLoader that raises DoubledKey."""

    def get_single_data(self) -> Any:
        return single_data(self)


class FastStrict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same loader in C, if PyYAML has it: ten times faster, with shorter error messages."""

    def get_single_data(self) -> Any:
        return single_data(self)


def load(text: str) -> Any:
    """Reads a YAML text as plain values.

    Raises:
        DoubledKey: a mapping has a key twice.
        yaml.YAMLError: the text is not YAML, or has a tag that would make an object.
    """
    try:
        return yaml.load(text, FastStrict)
    except yaml.YAMLError:
        return yaml.load(text, Strict)  # for its error, which shows the place


def load_written(text: str) -> Any:
    """Reads a YAML text that this package wrote, in which no key can be given twice."""
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def load_file(path: Path) -> Any:
    """Reads a YAML file in UTF-8. Raises the errors of `load`, OSError and UnicodeDecodeError."""
    return load(path.read_text(encoding="utf-8"))


def dump(content: Any) -> str:
    """Writes plain values as YAML, keys in their order, in C if PyYAML has it."""
    return str(
        yaml.dump(content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, allow_unicode=True)
    )


@lru_cache(maxsize=16)
def _read_only(text: str) -> Any:
    return load(text)


def peek_file(path: Path) -> Any:
    """Reads a YAML file as `load_file` does, once for each content; what it returns must not be changed."""
    return _read_only(path.read_text(encoding="utf-8"))


def check_keys(text: str) -> None:
    """Raises DoubledKey if a text is YAML with a key twice; any other text passes."""
    if ":" not in text:
        return
    try:
        yaml.load(text, FastStrict)
    except DoubledKey:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        return


def single_data(loader: Any) -> Any:
    """Returns what a loader reads as plain values. An error in a value is raised before DoubledKey."""
    node = loader.get_single_node()
    doubled = doubled_key(loader, node)  # before values are made: that step mixes merged keys into the mapping
    value = None if node is None else loader.construct_document(node)
    if doubled is not None:
        raise doubled
    return value


def doubled_key(loader: Any, root: Any) -> DoubledKey | None:
    """Returns the error for the first mapping below a node that has a key twice, or None."""
    for path, mapping in mappings(root):
        seen: dict[Any, Any] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            name = meaning(loader, key)
            if name in seen:
                return DoubledKey(".".join([*path, str(key.value)]), seen[name].start_mark, key.start_mark)
            seen[name] = key
    return None


def mappings(root: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every mapping below a node once, in the order of the file, with the keys above it."""
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if node is None or isinstance(node, yaml.ScalarNode) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield path, node
            below = [
                ((*path, str(key.value)) if isinstance(key, yaml.ScalarNode) else path, v) for key, v in node.value
            ]
        else:
            below = [((*path, str(i)), item) for i, item in enumerate(node.value)]
        waiting += reversed(below)


def meaning(loader: Any, key: Any) -> Any:
    """Returns the value that a key is read as: `1` and `0x1` are one key, as are `on` and `yes` (see config/files.py)."""
    if key.tag == "tag:yaml.org,2002:str":
        text = str(key.value).lower()
        return text if text in ("on", "off") else ("text", str(key.value))
    try:
        value = loader.construct_object(key, deep=True)
    except (yaml.YAMLError, ValueError):
        return key.tag, key.value
    return ("on" if value else "off") if isinstance(value, bool) else value
