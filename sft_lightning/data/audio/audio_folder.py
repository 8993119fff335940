"""A folder of sounds with one label each: a folder for each class, a metadata file, or the lists of Speech Commands."""

from pathlib import Path
from posixpath import normpath
from typing import Any

import numpy as np

from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.audio.base import AudioData
from sft_lightning.data.audio.listed import Listed
from sft_lightning.data.audio.metadata import Metadata, metadata_of
from sft_lightning.data.audio.one_place import sounds_at
from sft_lightning.data.audio.reading import SOUNDS
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.bad_samples import printable
from sft_lightning.data.base import Splits
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.data.vision.layout import class_images, classes_in, layout_of
from sft_lightning.data.vision.walk import LeftOut, folders_in, images_below, is_hidden

LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
"""Files of Speech Commands that list the sounds of a split; all others are to train on"""


class AudioFolder(AudioData):
    """Sounds in a folder, in one of these layouts, which is found and described:

    `CLASS/…` or `train/CLASS/…` with val and test beside train; `metadata.csv` (or .jsonl, .parquet) with the columns
    file_name and label, in the folder or in its train, val and test folders, as audiofolder of datasets has it; folders of
    classes with validation_list.txt and testing_list.txt, as in Speech Commands.

    Args:
        root: The folder.
        predict: A sound file or a folder of them to predict on; predicting needs no training data.
        file_column: Column of the metadata with the files; default file_name.
        label_column: Column of the metadata with the classes; default label.
        only: Rows of the metadata to keep, as values by column, such as {speaker: [jackson, theo]}; null for all.
        group_column: Column of the metadata, such as speaker, whose values are never in two splits that are cut from one.
        max_seconds: Seconds of a sound that are used, from its beginning; default the network's limit, else 30.
        group_by_length: Make batches of sounds of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    def __init__(
        self,
        root: str,
        predict: str | None = None,
        file_column: str | None = None,
        label_column: str | None = None,
        only: dict[str, list[str | int]] | None = None,
        group_column: str | None = None,
        max_seconds: float | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_seconds=max_seconds, group_by_length=group_by_length, **kwargs)
        check_arguments(AudioFolder.__init__, locals())
        self.root, self.predict = root, predict
        self.of_metadata: dict[str, Any] = {
            "file_column": file_column,
            "label_column": label_column,
            "group_column": group_column,
            "only": only,
        }

    def load(self) -> Splits:
        root = folder(self.root, "root")
        if (metadata := metadata_of(root, self.skips, self.of_metadata["file_column"])) is not None:
            return self._listed(metadata)
        for name, value in self.of_metadata.items():
            if value is not None:
                raise UserError(f"data.{name}", f"needs a metadata file, and {root} has none", "leave it out")
        if any((root / name).is_file() for name in LISTS.values()):
            return speech_commands(root)
        layout = layout_of(root, SOUNDS)
        classes = classes_in(layout.splits["train"], LeftOut(SOUNDS))
        found = {split: by_folder(place, classes, layout.left_out) for split, place in layout.splits.items()}
        names = [printable(name) for name in classes]
        notes = [*layout.notes, *layout.left_out.lines()]
        return Splits(found["train"], found.get("val"), found.get("test"), names, notes)

    def _listed(self, metadata: Metadata) -> Splits:
        how = Listed(**self.of_metadata)
        found, classes, notes = how.splits(metadata.tables, metadata.folders)
        notes += metadata.unlisted(found) if self.of_metadata["only"] is None else []
        return Splits(found["train"], found.get("val"), found.get("test"), classes, notes)

    def load_for_prediction(self) -> Sounds | None:
        return None if self.predict is None else sounds_at(self.predict)


def by_folder(root: Path, classes: list[str], left_out: LeftOut) -> Sounds:
    """The sounds of each class folder."""
    found = class_images(root, classes, left_out)
    targets = np.repeat([classes.index(name) for name in found], [len(paths) for paths in found.values()])
    return Sounds([path for paths in found.values() for path in paths], targets.astype(np.int64), root)


def speech_commands(root: Path) -> Splits:
    """Splits by the lists of Speech Commands. Folders that begin with `_`, such as background noise, are left out."""
    left_out = LeftOut(SOUNDS)
    every = folders_in(root, left_out)
    aside = sorted(name for name in every if name.startswith("_"))
    classes = sorted(set(every) - set(aside))
    if not classes:
        raise UserError("data", f"{root} has no class folders", "make one folder per class, with that class's sounds")
    of_split = {split: read_list(root / name) for split, name in LISTS.items() if (root / name).is_file()}
    if twice := sorted(set.intersection(*of_split.values()) if len(of_split) > 1 else ()):
        problem = f"{root}: {twice[0]} is in {' and in '.join(LISTS.values())} ({len(twice):,} such)"
        raise UserError("data", problem, "remove it from one")
    rows: dict[str, list[tuple[Path, int]]] = {"train": [], **{split: [] for split in of_split}}
    for number, name in enumerate(classes):
        for path in images_below(every[name], left_out):
            key = path.relative_to(root).as_posix()
            split = next((split for split, listed in of_split.items() if key in listed), "train")
            rows[split].append((path, number))
    left_out.loose[root.name] += sum(is_sound(path) for path in root.iterdir())
    notes = left_out.lines()
    if aside:
        notes.append(f"left out {plural(len(aside), 'folder')} that begin with _ ({', '.join(aside)})")
    for split, listed in of_split.items():
        if missing := len(listed) - len(rows[split]):
            notes.append(f"{missing:,} of {len(listed):,} sounds that {LISTS[split]} lists are not there")
    found = {
        split: Sounds([path for path, _ in some], np.array([number for _, number in some], dtype=np.int64), root)
        for split, some in rows.items()
    }
    return Splits(found["train"], found.get("val"), found.get("test"), [printable(name) for name in classes], notes)


def is_sound(path: Path) -> bool:
    """Whether it is a visible file with the suffix of a sound."""
    return path.suffix.lower() in SOUNDS.suffixes and not is_hidden(path.name) and path.is_file()


def read_list(path: Path) -> set[str]:
    """The paths in a list, one a line, below its folder."""
    try:
        return {normpath(line.strip()) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("data", f"{path} cannot be read: {error}", "replace it") from None
