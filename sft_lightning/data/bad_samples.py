"""Handles samples that cannot be read: the run fails and names the first, or skips and counts them.

A skipped sample is in no loss, no metric and no prediction. Batches keep their places, so that all ranks do the same
number of steps.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch.distributed as dist

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.samples import Samples

OnBadSample = Literal["fail", "skip"]
Skipped = dict[str, dict[str, str]]
"""Samples left out, by split: name to reason."""
SPLITS = ("train", "val", "test", "predict")
OR_SKIP = ", or set data.on_bad_sample skip"
"""The part of a fix that does not apply to samples that are skipped already"""
SHOWN, SAID = 20, 3  # samples named in run.json, and on the console


class BadSample(UserError):
    """Samples that cannot be read; raised by `Samples.fetch`.

    Args:
        key, problem, fix: As in UserError, about the first sample.
        rows: Row numbers, with the reasons why they cannot be read.
    """

    def __init__(
        self, key: object, problem: object = None, fix: object = "", rows: Mapping[int, str] | None = None
    ) -> None:
        super().__init__(key, problem, fix)
        self.rows = dict(rows or {})

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.key, self.problem, self.fix, self.rows)

    @classmethod
    def of(cls, samples: Samples, rows: Mapping[int, str]) -> "BadSample":
        """Names the first of `rows`."""
        row, why = next(iter(rows.items()))
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        problem = f"{samples.name(row)} cannot be read: {why}{more}"
        return cls("data", problem, f"replace or remove it{'' if samples.skips else OR_SKIP}", rows)


class LeftOut:
    """Collects the samples that a run left out: `found` has those of this process or, after `gather`, of all ranks."""

    def __init__(self) -> None:
        self.found: Skipped = {}
        self._warned = False

    def note(self, split: str, samples: Mapping[str, str], warn: bool = True) -> None:
        """Adds samples (name to reason). Each process warns once, of the first sample."""
        known = self.found.setdefault(split, {})
        new = {name: why for name, why in samples.items() if name not in known}
        known.update(new)
        if not new or self._warned or not warn:
            return
        self._warned = True
        name, why = next(iter(new.items()))
        more = f" and {len(new) - 1} more" if len(new) > 1 else ""
        print(
            f"sft-lightning: warning: data: {printable(name)}{more} of {split} left out, since data.on_bad_sample is skip "
            f"({why}); all are counted in run.json",
            file=sys.stderr,
            flush=True,
        )

    def gather(self) -> Skipped:
        """Merges `found` of all ranks, which must all call this."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, self.found)
            self.found = merged(parts)
        return self.found

    def take_over(self, before: Skipped) -> None:
        """Adds the samples left out before a resume; each sample still counts once."""
        self.found = merged([before, self.found])


def merged(parts: Iterable[Skipped]) -> Skipped:
    """Merges them: each sample once, sorted by name."""
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
    """Summary for run.json: for each split the count, and the first samples with the reasons."""
    return {
        split: {
            "count": len(samples),
            "samples": [{"name": printable(n), "reason": why} for n, why in list(samples.items())[:SHOWN]],
        }
        for split, samples in merged([skipped]).items()
        if samples
    }


def skipped_lines(report: Mapping[str, Any]) -> list[str]:
    """Turns a summary by `report` into lines for the console, one for each split with skipped samples."""
    lines = []
    for split in sorted(report, key=split_order):
        entry = report[split]
        names = [s["name"] for s in entry["samples"][:SAID]] + (["…"] if entry["count"] > SAID else [])
        lines.append(f"skipped {plural(entry['count'], 'unreadable sample')} of {split}: {', '.join(names)}")
    return lines


def printable(name: str) -> str:
    """Escapes the bytes of a file's name that are not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
