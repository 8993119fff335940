"""Images that a table lists: one file in each row."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.data.vision.image_folder import FileImages, folder
from sft_lightning.data.vision.walk import SUFFIXES, LeftOut, images_below

FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_path", "path", "img")


class ListedImages(FileImages):
    """Images in files that a table or a file of annotations lists.

    Args:
        root: Folder below which the files lie; the names in fingerprints are relative to it.
        paths: One file for each row.
        targets: `[rows]` values, or `[rows, C]` for several values or labels each; None without labels.
        bad: Rows that cannot be used, and why.
        groups: `[rows]` group numbers, such as patients; None for independent rows.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[Path],
        targets: np.ndarray | None,
        bad: Mapping[int, str] | None = None,
        groups: np.ndarray | None = None,
    ) -> None:
        super().__init__(root, list(paths), targets)
        self._bad, self._groups = dict(bad or {}), groups

    def bad_rows(self) -> dict[int, str]:
        return self._bad

    def groups(self) -> np.ndarray | None:
        return self._groups

    def name(self, row: int) -> str:
        return super().name(row) if self.paths[row].name else f"sample {row}"

    def key(self, row: int) -> str:
        return f"left out {row}" if row in self._bad else super().key(row)


def images_at(path: str, argument: str) -> FileImages:
    """One image file, or all images below a folder, without labels; `argument` is the key that names it."""
    one, left_out = Path(path).expanduser(), LeftOut()
    if one.is_file():
        return FileImages(one.parent, [one], None)
    root = folder(path, argument)
    if not (paths := images_below(root, left_out)):
        raise UserError(f"data.{argument}", f"{root} has no images ({', '.join(SUFFIXES)})", "use another folder")
    return FileImages(root, paths, None, left_out.lines())
