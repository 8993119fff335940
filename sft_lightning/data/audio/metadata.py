"""Finds the metadata files of a folder of sounds, as audiofolder of datasets lays them out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.audio.listed import FILE_COLUMNS, below
from sft_lightning.data.audio.reading import SOUNDS
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.split_column import chosen
from sft_lightning.data.split_column import named as has_splits
from sft_lightning.data.split_names import by_kind, split_of
from sft_lightning.data.text.cells import missing
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.vision.walk import LeftOut, folders_in, images_below

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass
class Metadata:
    """Tables that list the sounds of each split, and the folders that they are relative to."""

    tables: dict[str, Table]
    folders: dict[str, Path]
    root: Path

    def unlisted(self, found: Mapping[str, Sounds]) -> list[str]:
        """A note of the sounds below the root that no table lists; empty if there are none."""
        listed = {path for sounds in found.values() for path in sounds.paths}
        here = set(images_below(self.root, LeftOut(SOUNDS)))
        more = len(here - listed)
        return [f"left out {plural(more, 'sound')} that the metadata does not list"] if more else []


def metadata_of(root: Path, skip: bool, file_column: str | None = None) -> Metadata | None:
    """The metadata in split folders of `root`, or in `root` itself; None if there is none.

    In `root` itself, files (of `file_column`, or of the first known column) that all lie in folders named as splits
    (`train/a.wav`) belong to these splits.
    """
    own = metadata_file(root)
    inner = {name: path for name, path in folders_in(root, LeftOut(SOUNDS)).items() if metadata_file(path) is not None}
    if own is not None:
        return by_first_folder(read_table(own, "data.root", skip), root, file_column)
    if not inner:
        return None
    kinds = by_kind(inner)
    for kind, names in kinds.items():
        if len(names) > 1:
            problem = f"{root}: the folders {', '.join(names)} all look like the {kind} split"
            raise UserError("data", problem, "merge or rename them")
    if "train" not in kinds:
        raise UserError("data", f"{root} has {', '.join(inner)} with metadata, but no train", "name a folder train")
    folders = {kind: inner[names[0]] for kind, names in kinds.items()}
    tables = {}
    for kind, place in folders.items():
        file = metadata_file(place)
        assert file is not None
        tables[kind] = read_table(file, "data.root", skip)
    return Metadata(tables, folders, root)


def metadata_file(folder: Path) -> Path | None:
    """The metadata file in a folder, or None. Raises UserError if there are several."""
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    if len(found) > 1:
        raise UserError("data", f"{folder} has {found[0].name} and {found[1].name}", "keep one")
    return found[0] if found else None


def by_first_folder(table: Table, root: Path, file_column: str | None = None) -> Metadata:
    """The rows of one table by the split that their file's first folder names; one split if no folder names train.

    A row without a file is of train. Raises UserError if some folders name train and another split, and some neither,
    because samples to test on might be trained on. A column `split` decides then.
    """
    column = next((name for name in (file_column, *FILE_COLUMNS) if name in table.columns), None)
    files = [] if column is None else [None if missing(v) else below(root, str(v)) for v in table.columns[column]]
    kinds = ["train" if f is None else split_of(f.partition("/")[0]) if "/" in f else None for f in files]
    by_folder = any(file is not None and kind == "train" for file, kind in zip(files, kinds, strict=True))
    if not by_folder or None in kinds:
        others = sorted({kind for kind in kinds if kind and kind != "train"})
        if by_folder and others and not has_splits(table):
            row = kinds.index(None)
            problem = (
                f"{table.name(row)}: {files[row]} is in no folder of a split, but others are in {' and '.join(others)}"
            )
            raise UserError("data", problem, "move it, or add a column split (train, validation or test)")
        return Metadata({"train": table}, {"train": root}, root)
    tables = {}
    for kind in dict.fromkeys(kinds):
        tables[str(kind)] = chosen(table, [row for row, one in enumerate(kinds) if one == kind])
    return Metadata(tables, dict.fromkeys(tables, root), root)
