"""Reads masks: images whose pixels are the classes of another image's pixels, in any of the usual codings.

- Palettes: the index. Grey of 1 to 16 bits: the value. Colour whose channels are equal: the value of one.
- Other colours: by a table of the classes' colours alone.
- A mask is turned upright by its own EXIF orientation, as its image is by its own: one without is taken to be upright.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageColor, ImageOps

from sft_lightning.core.errors import UserError
from sft_lightning.tasks.region_scores import UNLABELLED

__all__ = [
    "MOST_CLASSES",
    "PNG",
    "UNLABELLED",
    "MaskRule",
    "UnknownValue",
    "changed_by_jpeg",
    "raw_values",
    "rule_of_table",
    "rule_of_values",
    "values_in",
    "with_note",
]

MOST_CLASSES = 255
SMOOTHED = 250
"""Highest value from which masks without names of classes are taken for smoothed masks of 0 and 255"""
FEW_BITS = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies the values of grey of 2 and 4 bits with"""
Values = Mapping[str, int | str | Sequence[int]]
"""Each class's value in masks: a number, or a colour as '#rrggbb', a colour's name or [red, green, blue]"""
FIX = "name the values in data.init_args.mask_values, or set data.init_args.unknown_values ignore"


JPEG = b"\xff\xd8\xff"
"""Begins each JPEG"""
PNG = "save masks as PNG with 8 or 16 bits of grey, or with a palette"


class UnknownValue(ValueError):
    """A mask has values that are no class's."""

    fix = PNG


class InColour(UnknownValue):
    """A mask is in colour where values are expected."""

    fix = "name the classes' colours in data.init_args.mask_values, such as {road: '#804080'}"


@dataclass(frozen=True)
class MaskRule:
    """How the values of masks are the classes' numbers."""

    labels: list[str]
    values: dict[int, int]
    """Value (of colours, 65536·red + 256·green + blue) to class number, or to UNLABELLED"""
    colours: bool = False
    """Whether values are colours"""
    ignores_others: bool = False
    """Whether pixels of other values have no label"""
    note: str = ""
    """What was taken for what, for the user"""

    def classes(self, raw: np.ndarray) -> np.ndarray:
        """Class numbers, uint8 `[H, W]`, of raw values `[H, W]`. Raises UnknownValue."""
        known = np.array(sorted(self.values), dtype=np.int64)
        numbers = np.array([self.values[int(v)] for v in known], dtype=np.uint8)
        at = np.searchsorted(known, raw).clip(max=len(known) - 1)
        found = numbers[at]
        wrong = known[at] != raw
        if wrong.any():
            if not self.ignores_others:
                raise UnknownValue(
                    f"its mask has {spelled(np.unique(raw[wrong]), self.colours)}, which is no class's value"
                )
            found = np.where(wrong, np.uint8(UNLABELLED), found)
        return np.asarray(found, dtype=np.uint8)


def raw_values(file: BinaryIO, colours: bool) -> np.ndarray:
    """Values `[H, W]` int64 of a mask. Raises ValueError for colours where values are expected."""
    with Image.open(file) as opened:
        scale = scale_of(opened)  # not known once pixels are decoded
        image = ImageOps.exif_transpose(opened)
        if colours:
            red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")).astype(np.int64), -1, 0)
            return np.asarray(65536 * red + 256 * green + blue)
        if image.mode in ("RGB", "RGBA", "LA"):
            channels = np.asarray(image)[..., : len(image.mode.rstrip("A"))]
            if (channels != channels[..., :1]).any():
                raise InColour("its mask is in colour, and no colours of classes are named")
            return channels[..., 0].astype(np.int64)
        if image.mode not in ("P", "L", "1", "I") and not image.mode.startswith("I;16"):
            raise UnknownValue(f"its mask has pixels of type {image.mode}, not palette, grey or colour")
        return np.asarray(image).astype(np.int64) // scale


def changed_by_jpeg(file: BinaryIO) -> bool:
    """Whether a mask is a JPEG, whose compression changes values."""
    found = file.read(len(JPEG)) == JPEG
    file.seek(0)
    return found


def values_in(raw: np.ndarray) -> set[int]:
    """The values that occur in a mask."""
    if raw.size and raw.min() >= 0 and raw.max() < 1 << 16:  # counting is much faster than sorting
        return set(np.flatnonzero(np.bincount(raw.ravel())).tolist())
    return set(np.unique(raw).tolist())


def scale_of(image: Image.Image) -> int:
    """What Pillow will multiply the values of an image with that is not decoded yet."""
    for *_, stored in getattr(image, "tile", ()):
        return FEW_BITS.get(str(stored[0] if isinstance(stored, tuple) and stored else stored), 1)
    return 1


# ---- finding the rule ----


def rule_of_table(table: Values, ignore_index: int | None, unknown: str) -> MaskRule:
    """The rule that a table of the classes' values gives. Raises UserError if it is wrong."""
    key = "data.mask_values"
    if not 2 <= len(table) <= MOST_CLASSES:
        raise UserError(key, f"must name 2 to {MOST_CLASSES} classes, got {len(table)}")
    colours = not all(isinstance(v, int) and not isinstance(v, bool) for v in table.values())
    values: dict[int, int] = {}
    for number, (label, value) in enumerate(table.items()):
        code = colour_code(label, value) if colours else int(value)  # type: ignore[arg-type]
        if code in values:
            raise UserError(key, f"{list(table)[values[code]]} and {label} have the same value {value}")
        values[code] = number
    if colours and ignore_index is not None:
        raise UserError(
            "data.ignore_index", "has no effect on masks in colour", "leave it out, or set data.unknown_values ignore"
        )
    ignore = 255 if ignore_index is None and not colours else ignore_index
    if ignore is not None and ignore_index is not None and ignore in values:
        raise UserError("data.ignore_index", f"{ignore} is the value of {list(table)[values[ignore]]} in mask_values")
    if ignore is not None:
        values.setdefault(ignore, UNLABELLED)
    return MaskRule(list(table), values, colours, unknown == "ignore")


def colour_code(label: str, value: Any) -> int:
    """65536·red + 256·green + blue. Raises UserError for what is no colour."""
    try:
        rgb = ImageColor.getrgb(value) if isinstance(value, str) else tuple(int(v) for v in value)
        fine = len(rgb) == 3 and all(0 <= v <= 255 for v in rgb)
    except (ValueError, TypeError):
        fine = False
    if not fine:
        raise UserError(
            "data.mask_values",
            f"{label}: {value!r} must be a colour, as some values are",
            "give '#rrggbb', a colour's name, or [red, green, blue]",
        )
    return 65536 * rgb[0] + 256 * rgb[1] + rgb[2]


def rule_of_values(
    found: Iterable[int], labels: Sequence[str] | None, ignore_index: int | None, unknown: str
) -> MaskRule:
    """The rule for values of training masks: 0 to K − 1, or 0 and 255 for two classes. Raises UserError for others."""
    values = sorted(set(found))
    if ignore_index is None and values == [0, 255]:
        names = named(labels, 2)
        note = f"masks have 0 and 255: 0 is {names[0]}, 255 is {names[1]}"
        return MaskRule(names, {0: 0, 255: 1}, ignores_others=unknown == "ignore", note=note)
    ignore = 255 if ignore_index is None else ignore_index
    classes = [v for v in values if v != ignore]
    count = len(labels) if labels is not None else (classes[-1] + 1 if classes else 0)
    beyond = [v for v in classes if v >= count]
    gaps = count - len(classes)
    if labels is None and (count > MOST_CLASSES or (gaps > len(classes) and count > 3)):
        raise UserError(
            "data",
            f"the training masks have {spelled(np.array(classes), False)}, not 0 to {max(1, len(classes) - 1)}",
            "name the classes' values in data.init_args.mask_values",
        )
    if beyond and unknown != "ignore":
        raise UserError(
            "data.labels",
            f"names {count} classes, but the training masks have {spelled(np.array(beyond), False)} too",
            FIX,
        )
    if labels is None and ignore in values and classes and classes[-1] >= SMOOTHED:
        raise UserError(
            "data",
            f"the training masks have {len(values)} values up to 255, as masks that were smoothed, or saved as JPEG, have",
            "save masks as PNG and resize them to the nearest, or name the classes in data.labels",
        )
    here = [v for v in classes if 0 <= v < count]
    if len(here) < 2:
        raise one_class([str(v) for v in here], values, False)
    told = f"masks have values {classes[0]} to {classes[-1]}" if classes else "masks have no labels"
    note = f"{told}, as class numbers" + (f"; {ignore} is unlabelled" if ignore in values else "")
    table, names = {v: v for v in range(count)} | {ignore: UNLABELLED}, named(labels, count)
    if nobody := [names[v] for v in range(count) if v not in classes and v != ignore]:
        note += f"; {nowhere(nobody)}"
    return MaskRule(names, table, ignores_others=unknown == "ignore", note=note)


def one_class(here: Sequence[str], found: Iterable[int], colours: bool) -> UserError:
    """The error of masks whose values are fewer than two classes."""
    values = np.array(sorted(found))
    told = f", and {spelled(values, colours)}" if len(values) else ""
    return UserError(
        "data",
        f"the training masks have one class ({', '.join(here) or 'none'}){told}",
        "use masks of 2, or name other values in data.init_args.mask_values",
    )


def nowhere(labels: Sequence[str]) -> str:
    """Says that no mask has some classes."""
    more = f" and {len(labels) - 4} more" if len(labels) > 4 else ""
    return f"no training mask has {', '.join(labels[:4])}{more}"


def with_note(rule: MaskRule, found: Collection[int], every: bool) -> MaskRule:
    """The rule of a table, with a note of classes that have none of the values found; `every` if all masks were looked at.
    Raises UserError if fewer than two have one.
    """
    numbers = {rule.values[value] for value in found if value in rule.values}
    here = [label for number, label in enumerate(rule.labels) if number in numbers]
    if len(here) < 2:
        raise one_class(here, found, rule.colours)
    nobody = [label for label in rule.labels if label not in here]
    return replace(rule, note=nowhere(nobody)) if nobody and every else rule


def named(labels: Sequence[str] | None, count: int) -> list[str]:
    """The classes' names, or their numbers. Raises UserError for another number of names, or a name that is there twice."""
    if labels is None:
        return [str(i) for i in range(count)]
    if len(labels) != count:
        raise UserError("data.labels", f"names {len(labels)} classes, and the masks have {count}")
    return list(labels)


def spelled(values: np.ndarray, colours: bool) -> str:
    """Some values in words: `the value 7`, `the values 7, 9 and 3 more`, colours as #rrggbb."""
    each = [f"#{int(v):06x}" if colours else str(int(v)) for v in values[:4]]
    more = f" and {len(values) - 4} more" if len(values) > 4 else ""
    return f"the {'colour' if colours else 'value'}{'s' if len(values) > 1 else ''} {', '.join(each)}{more}"
