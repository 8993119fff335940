"""Arms that train nothing: each of their points is chosen on the path between the weights of another arm's run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sft_lightning.after.asked import BATCHNORM, HOW, Asked, alphas_of, margin_of
from sft_lightning.core.errors import UserError, nearest

KEYS = ("of", "how", "margin", "alphas", "batchnorm")
WITH = ("path", "reference")
"""Keys that such an arm may have"""


@dataclass(frozen=True)
class PathOf:
    """A path along the chosen runs of an arm."""

    of: str
    """The arm whose runs' weights are the tuned ends"""
    asked: Asked

    @property
    def words(self) -> str:
        """The arm in one phrase."""
        return f"{self.asked.how} along the runs of {self.of}"

    def says(self, alphas: Sequence[float]) -> str:
        """Why the arm's points are those, in words; `alphas` are the chosen ones, in the order of seeds."""
        margin = self.asked.margin
        rule = "the best target metric" if margin is None else f"what keeps most within {margin:g} of the best"
        chosen = f"; alpha by seed: {', '.join(f'{a:g}' for a in alphas)}" if alphas else ""
        return f"{self.words}, each at its own point: {rule} on validation{chosen}"


def read_path(
    about: Mapping[str, Any], where: str, within: float | None, by: str | None, kept: str | None
) -> PathOf | None:
    """Reads the `path` of an arm's entry; None if it has none. Whether the other arm exists is checked later.

    Args:
        about: The arm's entry in the study file.
        where: Its key, for errors.
        within: The margin by default; None chooses by the target's metric alone.
        by: The study's target metric, if the file names it.
        kept: The study's metric of what is kept, likewise.
    """
    given = about.get("path")
    if given is None:
        return None
    where_path = f"{where}.path"
    if others := [key for key in about if key not in WITH]:
        raise UserError(f"{where}.{others[0]}", "has no effect beside path, which trains nothing", "leave it out")
    if not isinstance(given, Mapping) or not isinstance(given.get("of"), str):
        fix = "write path: {of: plain, how: wise-ft}"
        raise UserError(where_path, f"must name the arm whose runs it goes along, got {given!r}", fix)
    for key in given:
        if key not in KEYS:
            raise UserError(f"{where_path}.{key}", f"unknown key{nearest(str(key), KEYS)}", f"use {', '.join(KEYS)}")
    how, batchnorm = given.get("how", HOW[0]), given.get("batchnorm")
    if how not in HOW:
        raise UserError(f"{where_path}.how", f"there is no {how!r}{nearest(str(how), HOW)}", f"use {' or '.join(HOW)}")
    if batchnorm is not None and batchnorm not in BATCHNORM:
        raise UserError(f"{where_path}.batchnorm", f"got {batchnorm!r}", f"use {' or '.join(BATCHNORM)}")
    alphas = given.get("alphas")
    if alphas is not None and not isinstance(alphas, list):
        raise UserError(f"{where_path}.alphas", f"must be a list, got {alphas!r}", "write [0, 0.5, 1]")
    margin = margin_of(given["margin"], f"{where_path}.margin") if "margin" in given else within
    points = alphas_of(alphas, f"{where_path}.alphas")
    return PathOf(given["of"], Asked(how, points, margin, batchnorm, by, None if margin is None else kept))


def check_paths(arms: Mapping[str, PathOf | None], baseline: str) -> None:
    """Raises UserError if a path goes along an arm that does not exist or is a path itself, or if the baseline is one."""
    trained = [name for name, path in arms.items() if path is None]
    for name, path in arms.items():
        if path is None:
            continue
        where = f"arms.{name}.path.of"
        if path.of not in arms:
            raise UserError(where, f"there is no arm '{path.of}'{nearest(path.of, trained)}", "name another arm")
        if path.of not in trained:
            raise UserError(where, f"'{path.of}' trains nothing itself", f"name one of {', '.join(trained)}")
        if name == baseline:
            raise UserError("baseline", f"'{name}' trains nothing itself", f"name one of {', '.join(trained)}")
