"""Samples that cannot be read: the run fails and names the first, or goes on without them and counts them.

A sample that is skipped is in no loss, no metric and no prediction, as if it were not there; batches keep their places,
so that all ranks do as many steps as without it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sft_lightning.core.errors import UserError
from sft_lightning.data.sampler import Key

if TYPE_CHECKING:
    from sft_lightning.data.base import Samples, Split

OnBadSample = Literal["fail", "skip"]
Skipped = dict[str, dict[str, str]]
"""Split to the samples left out: name to reason."""
SPLITS = ("train", "val", "test", "predict")
SHOWN, SAID = 20, 3  # samples named in run.json, and on the console


class BadSample(UserError):
    """Samples that cannot be read; raised by `Samples.fetch`.

    Args:
        message: One line on the first: which, why, what to do.
        rows: Row number of each, and why it cannot be read.
    """

    def __init__(self, message: object, rows: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.rows = dict(rows or {})

    @classmethod
    def of(cls, samples: "Samples", rows: Mapping[int, str]) -> "BadSample":
        """Names the first of `rows`."""
        row, why = next(iter(rows.items()))
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        return cls(
            f"data: {samples.name(row)} cannot be read: {why}{more}; replace or remove it, or set data.on_bad_sample skip",
            rows,
        )


def fetch_readable(split: "Split", keys: Sequence[Key]) -> tuple[dict[str, Any], list[Key], dict[int, str]]:
    """A batch's network inputs, the keys they are of, and the rows left out.

    Where nothing is left, a sample nearby stands in as a filler.
    """
    samples, left, bad = split.samples, list(keys), dict[int, str]()
    nearby = ((keys[0].position + step) % len(split) for step in range(1, len(split)))
    while True:
        try:
            return samples.fetch([int(split.rows[k.position]) for k in left], left, split.train), left, bad
        except BadSample as error:
            readable = [k for k in left if int(split.rows[k.position]) not in error.rows]
            if not samples.skips or len(readable) == len(left):
                raise UserError(str(error)) from None  # its own class would not come through from a worker
            if any(k.real for k in left):
                bad |= error.rows
            if not readable:
                position = next(nearby, None)
                if position is None:
                    raise UserError(f"data: not one sample of {split.name} can be read; the last: {error}") from None
                readable = [Key(position, keys[0].epoch, real=False)]
            left = readable


def merged(parts: Iterable[Skipped]) -> Skipped:
    """Each sample once, in the order of the names."""
    together: Skipped = {}
    for part in parts:
        for split, samples in part.items():
            together.setdefault(split, {}).update(samples)
    return {
        split: dict(sorted(together[split].items(), key=lambda item: natural(item[0])))
        for split in sorted(together, key=split_order)
    }


def split_order(split: str) -> tuple[int, str]:
    """Sorts splits in their usual order."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts line 9 before line 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def report(skipped: Skipped) -> dict[str, Any]:
    """For run.json: of each split the count, and the first samples with the reasons."""
    return {
        split: {
            "count": len(samples),
            "samples": [{"name": printable(n), "reason": why} for n, why in list(samples.items())[:SHOWN]],
        }
        for split, samples in merged([skipped]).items()
        if samples
    }


def skipped_lines(report: Mapping[str, Any]) -> list[str]:
    """For the console: a line for each split of which samples were skipped, from what `report` gave."""
    lines = []
    for split in sorted(report, key=split_order):
        entry = report[split]
        names = [s["name"] for s in entry["samples"][:SAID]] + (["…"] if entry["count"] > SAID else [])
        plural = "" if entry["count"] == 1 else "s"
        lines.append(f"skipped {entry['count']:,} unreadable sample{plural} of {split}: {', '.join(names)}")
    return lines


def printable(name: str) -> str:
    """A file's name may hold bytes that are no characters."""
    return name.encode("utf-8", "backslashreplace").decode()
