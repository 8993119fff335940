"""Reads the configs of a study's points once for each structure: points that differ in numbers alone share what was parsed.

A third of a short fit is the parser's, which checks a hundred keys against signatures. The configs of a study's points were
written by that parser already, so a number of the same type in the same place cannot become invalid. All else, such as another
word, another list or a number below `network`, which the parser hands to the model, is parsed as usual. Only the workers of a
study do this.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from sft_lightning.config.options import NOT_SAVED
from sft_lightning.core import cache, plain_yaml

NAMES = ("--runs_dir", "--experiment", "--run_id")
"""Options beside --config whose values are texts that the parser takes as they are"""
LINKED = "network"
"""A block that the parser copies to another place"""
Place = tuple[str | int, ...]


class Known:
    """What the parser made of the first config of a structure."""

    def __init__(self, content: Any, parsed: Namespace) -> None:
        self.content, self.parsed = content, parsed
        self.plain: dict[str, Any] | None = None
        """The same as config.yaml has it"""


class ReadOnce:
    """The settings of one command.

    Args:
        arguments: The command line, with the command first.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.known: Known | None = None
        self._numbers: dict[Place, tuple[Any, Any]] = {}  # before and now
        self._texts: dict[str, str] = {}
        self._file = self._key = ""
        self._content: Any = None
        if cache.CONFIGS.on:
            self._look(list(arguments))

    def _look(self, arguments: list[str]) -> None:
        """Finds the structure of what is asked; nothing if it is not what a study's worker asks."""
        command, names, values = arguments[0], arguments[1::2], arguments[2::2]
        if len(arguments) % 2 == 0 or len(set(names)) < len(names) or not {"--config", "--experiment"} <= {*names}:
            return
        given = dict(zip(names, values, strict=True))
        self._file = given.pop("--config")
        self._texts = {name.lstrip("-"): given.pop(name) for name in NAMES if name in given}
        self._content = plain_yaml.peek_file(Path(self._file))
        if isinstance(self._content, dict) and all(is_word(text) for text in self._texts.values()):
            self._key = repr([command, given, sorted(self._texts), without_numbers(self._content)])

    def parsed(self, parse: Callable[[], Namespace]) -> Namespace:
        """The parsed settings, of the sub-command too; `parse` calls the parser."""
        if not self._key:
            return parse()
        made: list[Namespace] = []

        def known() -> Known:
            made.append(parse())
            return Known(self._content, copied(made[0]))

        self.known = cache.CONFIGS.get(self._key, known, lambda _: 1)
        if made:
            return made[0]
        settings = copied(self.known.parsed)
        part = settings[settings.subcommand]
        self._numbers = dict(changed(self.known.content, self._content))
        if not all(put(part, place, old, new) for place, (old, new) in self._numbers.items()):
            self.known = None
            return parse()
        part.config = [type(path)(self._file, mode=path.mode) for path in part.config]
        for name, text in self._texts.items():
            part[name] = text
        return settings

    def plain(self, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The settings, which must be as they were parsed, as config.yaml has them; `compute` makes them."""
        if self.known is None:
            return compute()
        if self.known.plain is None:
            found = compute()
            if self.known.content is self._content:
                self.known.plain = copied(found)
            return found
        settings: dict[str, Any] = copied(self.known.plain)
        if not all(put(settings, place, old, new) for place, (old, new) in self._numbers.items()):
            return compute()
        return settings | {name: text for name, text in self._texts.items() if name not in NOT_SAVED}


def is_word(text: str) -> bool:
    """Whether the parser takes a text as it is: a name or a path, which nothing reads as another value."""
    return plain_yaml.load(text) == text if text.isprintable() and not set(text) & set("!&*{}[]:#'\"") else False


def is_number(value: Any) -> bool:
    """Whether it is a finite number, not true or false."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def without_numbers(content: Any, kept: bool = False) -> Any:
    """The content with the type of each number in its place, but below `network`."""
    if isinstance(content, dict):
        return {k: without_numbers(v, kept or k == LINKED) for k, v in content.items()}
    if isinstance(content, list):
        return [without_numbers(v, kept) for v in content]
    return content if kept or not is_number(content) else type(content)


def changed(old: Any, new: Any, place: Place = ()) -> Iterator[tuple[Place, tuple[Any, Any]]]:
    """(place, (number before, number now)) of each number that differs between two contents of one structure."""
    if isinstance(old, dict | list):
        pairs = old.items() if isinstance(old, dict) else enumerate(old)
        for key, value in pairs:
            yield from changed(value, new[key], (*place, key))
    elif old != new:
        yield place, (old, new)


def put(settings: Any, place: Place, old: Any, new: Any) -> bool:
    """Sets the number at a place, if it is the old one there, as an integer or a float as it is. Tells whether it was."""
    held = settings
    for part in place[:-1]:
        held = below(held, part)
    value = below(held, place[-1])
    if type(value) not in (int, float) or value != old:
        return False
    if isinstance(held, Namespace):
        vars(held)[str(place[-1])] = type(value)(new)
    else:
        held[place[-1]] = type(value)(new)
    return True


def below(held: Any, part: str | int) -> Any:
    """What lies below a key or index; None if nothing does."""
    if isinstance(held, Namespace):
        return vars(held).get(str(part))
    if isinstance(held, dict):
        return held.get(part)
    return held[part] if isinstance(held, list) and isinstance(part, int) and part < len(held) else None


def copied(value: Any) -> Any:
    """A copy of nested settings, whose values are shared."""
    if isinstance(value, Namespace):
        made = type(value)()
        vars(made).update({name: copied(held) for name, held in vars(value).items()})
        return made
    if isinstance(value, dict):
        return {name: copied(held) for name, held in value.items()}
    return [copied(held) for held in value] if isinstance(value, list) else value
