"""Finds the image files, or others, below a folder: follows links, and leaves out and counts hidden folders and files."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Wanted:
    """The kind of files that a walk looks for.

    Args:
        one: Its name in messages, as of one file.
        suffixes: Ends of the files' names, in lower case.
    """

    one: str
    suffixes: tuple[str, ...]


IMAGES = Wanted("image", SUFFIXES)
SYSTEM = ("__macosx", "@eadir", "$recycle.bin", "system volume information", "__pycache__", "thumbs.db", "desktop.ini")
"""Names, in lower case, of copies, previews and notes that systems make"""


@dataclass
class LeftOut:
    """Files and folders that a walk left out, for the notes."""

    wanted: Wanted = IMAGES

    hidden: Counter[str] = field(default_factory=Counter)
    """Files by the hidden folder (or the hidden file's own name) that they are in"""
    loops: list[str] = field(default_factory=list)
    """Links to a folder that they are in"""
    broken: list[str] = field(default_factory=list)
    """Broken links that are not named like those wanted"""
    loose: Counter[str] = field(default_factory=Counter)
    """Files that are in no class folder, by the folder that they are in"""

    def lines(self) -> list[str]:
        """One line for each kind; empty if nothing was left out."""
        said = []
        if count := sum(self.hidden.values()):
            said.append(f"left out {plural(count, f'hidden {self.wanted.one}')} ({some(list(self.hidden))})")
        if self.loops:
            said.append(f"did not follow {plural(len(self.loops), 'link')} to a folder around it ({some(self.loops)})")
        if self.broken:
            said.append(f"left out {plural(len(self.broken), 'broken link')} ({some(self.broken)})")
        if count := sum(self.loose.values()):
            said.append(
                f"left out {plural(count, self.wanted.one)} beside the class folders ({some(list(self.loose))})"
            )
        return said


def images_below(root: Path, left_out: LeftOut | None = None) -> list[Path]:
    """Image files (or those that `left_out` wants) at any depth, sorted by path. Folders that are links are entered, unless
    they lead back to themselves.
    """
    found: list[Path] = []
    around = {place for top in (root.absolute(), root.resolve()) for place in (top, *top.parents)}
    walk(root, tuple(map(identity, around)), found, left_out if left_out is not None else LeftOut(), None)
    return sorted(found)


def walk(folder: Path, above: tuple[tuple[int, int], ...], found: list[Path], out: LeftOut, hidden: str | None) -> None:
    """Adds a folder's files to `found`, or, below a hidden folder, to the count of what is left out."""
    with opened(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            within = hidden or (entry.name if is_hidden(entry.name) else None)
            if os.path.isdir(path) if entry.is_symlink() else entry.is_dir():
                me, before = identity(path), len(found)
                if me in above:
                    out.loops.append(str(path))
                    continue
                walk(path, (*above, me), found, out, within)
                if within is None and entry.name.lower().endswith(out.wanted.suffixes) and len(found) == before:
                    found.append(path)  # a folder named like an image: reading it will raise the error
            elif not entry.name.lower().endswith(out.wanted.suffixes):
                if entry.is_symlink() and within is None and not path.exists():
                    out.broken.append(str(path))
            elif within is not None:
                out.hidden[within] += 1
            else:
                found.append(path)


def opened(folder: Path) -> Any:
    """The folder's entries. Raises UserError if they cannot be listed."""
    try:
        return os.scandir(folder)
    except OSError as error:
        raise UserError("data", f"folder {folder} cannot be read: {error.strerror}", "change its permissions") from None


def holds_images(folder: Path, wanted: Wanted = IMAGES) -> bool:
    """Whether there is a visible image (or another file wanted) at any depth; looks no further than the first."""
    seen = {identity(folder)}
    for here, folders, files in os.walk(folder, followlinks=True):
        if any(name.lower().endswith(wanted.suffixes) and not is_hidden(name) for name in files):
            return True
        new = {name: identity(Path(here, name)) for name in folders if not is_hidden(name)}
        folders[:] = [name for name, me in new.items() if me not in seen]
        seen |= set(new.values())
    return False


def is_hidden(name: str) -> bool:
    """Whether a program, not the user, made a file or folder: `.ipynb_checkpoints`, `__MACOSX`, `Thumbs.db`."""
    return name.startswith(".") or name.lower() in SYSTEM


def identity(folder: Path) -> tuple[int, int]:
    """Identifies a folder under all its names."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def folders_in(root: Path, left_out: LeftOut) -> dict[str, Path]:
    """The visible folders directly below, by name, sorted; images in the others are counted as left out."""
    found = {}
    for path in sorted(root.iterdir()):
        if path.is_dir() and not is_hidden(path.name):
            found[path.name] = path
        elif path.is_dir():
            walk(path, (identity(root), identity(path)), [], left_out, path.name)
        elif path.is_symlink() and not path.exists() and not is_hidden(path.name):
            left_out.broken.append(str(path))
    return found


def some(names: list[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
