"""Sounds that a table lists, with one label each."""

from pathlib import Path
from typing import Any

from sft_lightning.core.errors import UserError
from sft_lightning.data.arguments import check_arguments
from sft_lightning.data.audio.base import AudioData
from sft_lightning.data.audio.listed import Listed
from sft_lightning.data.audio.one_place import sounds_at
from sft_lightning.data.audio.sounds import Sounds
from sft_lightning.data.base import Splits
from sft_lightning.data.text.files import read_table


class AudioTable(AudioData):
    """Sounds that tables list (.csv, .tsv, .json, .jsonl, .parquet): a file and a label in each row.

    Args:
        train: Table of the training sounds; a column `split` (train, validation, test) divides it, if it is the only table.
        val: Table of the validation sounds; default a share of the training sounds.
        test: Table of the test sounds.
        predict: A sound file or a folder of them to predict on; predicting needs no training data.
        file_column: Column with the files; default the first of file_name, file, audio_filepath, path, audio, filename.
        label_column: Column with the classes.
        audio_root: Folder in which the files lie; default that of each table.
        labels: All classes in order; default those of the training table, sorted.
        only: Rows to keep, as values by column, such as {speaker: [jackson, theo]}; null for all.
        group_column: Column, such as speaker, whose values are never in two splits that are cut from one table.
        max_seconds: Seconds of a sound that are used, from its beginning; default the network's limit, else 30.
        group_by_length: Make batches of sounds of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        file_column: str | None = None,
        label_column: str = "label",
        audio_root: str | None = None,
        labels: list[str] | None = None,
        only: dict[str, list[str | int]] | None = None,
        group_column: str | None = None,
        max_seconds: float | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_seconds=max_seconds, group_by_length=group_by_length, **kwargs)
        check_arguments(AudioTable.__init__, locals())
        self.files, self.predict, self.audio_root = {"train": train, "val": val, "test": test}, predict, audio_root
        self.columns, self.only, self.labels = (file_column, label_column, group_column), only, labels
        if audio_root is not None and not Path(audio_root).expanduser().is_dir():
            raise UserError("data.audio_root", f"{audio_root} is not a folder", "set it to an existing folder")

    def load(self) -> Splits:
        if self.files["train"] is None:
            raise UserError("data", "AudioTable needs train, a table of sounds", "set it")
        named = {split: Path(file).expanduser() for split, file in self.files.items() if file is not None}
        tables = {split: read_table(file, f"data.{split}", self.skips) for split, file in named.items()}
        root = None if self.audio_root is None else Path(self.audio_root).expanduser()
        folders = {split: root or file.parent for split, file in named.items()}
        found, classes, notes = Listed(*self.columns, self.only, self.labels, "data.audio_root").splits(tables, folders)
        return Splits(found["train"], found.get("val"), found.get("test"), classes, notes)

    def load_for_prediction(self) -> Sounds | None:
        return None if self.predict is None else sounds_at(self.predict)
