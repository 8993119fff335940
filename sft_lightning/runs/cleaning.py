"""What may be removed from finished and failed runs, and its removal."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.runs.directory import RunDirectory
from sft_lightning.runs.lock import RunLock
from sft_lightning.runs.status import FAILED, is_finished


@dataclass(frozen=True)
class Spare:
    """A file or folder that may be removed."""

    path: Path
    why: str
    bytes: int


def spare_of(path: Path, record: dict[str, Any], study: bool) -> list[Spare]:
    """What may go of one run: all of it if it failed; of a finished run, the checkpoints that were not chosen.

    A failed run stays if a model was exported from it before. Checkpoints that lie elsewhere, behind a link, stay.
    best.ckpt stays, with which `validate`, `test` and `predict` work. A run that was interrupted keeps everything, because it
    can be resumed, and failed points of a study stay, because the study counts them.
    """
    run = RunDirectory(path)
    if record.get("status") == FAILED and not study:
        exported = any(path.glob("export/*/parity.json"))
        return [] if exported else [Spare(path, "failed", size_of(path))]
    if run.checkpoints.is_symlink() or not is_finished(record.get("status")) or not run.best.is_file():
        return []
    chosen = run.best.stat()
    found = []
    for file in sorted(run.checkpoints.glob("*.ckpt")):
        held = file.stat()
        if file.is_symlink() or file == run.best or (held.st_dev, held.st_ino) == (chosen.st_dev, chosen.st_ino):
            continue
        found.append(Spare(file, "not chosen", held.st_size if held.st_nlink == 1 else 0))
    return found


def within(folder: Path, runs: Sequence[Path]) -> list[Path]:
    """The real places of runs, each once, without those that links lead to outside of a folder."""
    places = dict.fromkeys(run.resolve() for run in runs)
    return [place for place in places if place.is_relative_to(folder.resolve())]


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder; a file with several names counts once."""
    stats = [file.lstat() for file in folder.rglob("*") if not file.is_symlink() and file.is_file()]
    return sum({(s.st_dev, s.st_ino): s.st_size for s in stats}.values())


def remove(spare: Spare, run: Path) -> None:
    """Removes it while the run is locked. Raises UserError if another process works in the run."""
    lock = RunLock(run)
    lock.take()
    try:
        if spare.path.is_dir() and not spare.path.is_symlink():
            shutil.rmtree(spare.path)
        else:
            spare.path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(spare.path, f"cannot be removed: {error.strerror}") from None
    finally:
        lock.release()
