"""Recognises the split that a file or folder is named after: `Train`, `testing`, `val_images`, `train-00000-of-00002`."""

import re
from collections.abc import Iterable

from sft_lightning.core.errors import UserError

WORDS = {
    "train": ("train", "training", "trn", "trainval"),
    "val": ("val", "valid", "validate", "validation", "dev", "develop", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
FILLERS = ("set", "sets", "split", "splits", "data", "dataset", "images", "image", "imgs", "img", "pictures", "photos")
MORE_FILLERS = ("folder", "dir", "files", "file", "samples", "examples", "subset", "part", "of", "full", "all", "the")
KINDS = {word: kind for kind, words in WORDS.items() for word in words}
KINDS |= {f"{word}{filler}": kind for word, kind in KINDS.items() for filler in FILLERS}


def words_of(name: str) -> list[str]:
    """The words of a name in lower case, numbers left out: `TrainImages_2017` has train and images."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word for word in re.split(r"[\W_\d]+", parted.lower()) if word]


def split_of(name: str) -> str | None:
    """`train`, `val` or `test` if the name means that split and nothing else, in any spelling; otherwise None.

    `test_tube` and `train_test` give None.
    """
    words = words_of(name)
    kinds = {KINDS[word] for word in words if word in KINDS}
    rest = [word for word in words if word not in KINDS and word not in (*FILLERS, *MORE_FILLERS)]
    return kinds.pop() if len(kinds) == 1 and not rest else None


def split_within(name: str) -> str | None:
    """As `split_of`, for a name with further words: `cifar10-train-00000-of-00002`. Raises UserError for two splits."""
    kinds = sorted({KINDS[word] for word in words_of(name) if word in KINDS})
    if len(kinds) > 1:
        raise UserError("data", f"the name {name} has the words of two splits ({', '.join(kinds)})", "rename it")
    return kinds[0] if kinds else None


def splits_of_one(names: Iterable[str]) -> list[str]:
    """Names that differ only in the word of a split, such as `flowers-train` and `flowers-test`; empty if there are none."""
    kinds: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        words = words_of(name)
        rest = tuple(word for word in words if word not in KINDS)
        if len(words) == len(rest) + 1:
            kinds.setdefault(rest, {})[name] = next(KINDS[word] for word in words if word in KINDS)
    return next((list(found) for found in kinds.values() if len(set(found.values())) > 1), [])


def by_kind(names: Iterable[str]) -> dict[str, list[str]]:
    """The names that look like splits, by kind."""
    found: dict[str, list[str]] = {}
    for name in names:
        if (kind := split_of(name)) is not None:
            found.setdefault(kind, []).append(name)
    return found


def one_of(names: Iterable[str], kind: str, advice: str) -> str | None:
    """The name that means a split, or None. Raises UserError, with `advice`, if several do."""
    found = by_kind(names).get(kind, [])
    if len(found) > 1:
        raise UserError("data", f"{', '.join(found)} all look like the {kind} split", advice)
    return found[0] if found else None
