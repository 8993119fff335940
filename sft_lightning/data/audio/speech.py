"""Speech with transcripts: an audiofolder with a column of texts, LibriSpeech's layout, or tables such as JSONL manifests."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.structures import InputSpec, InputView
from sft_lightning.data.arguments import NonNegativeInt, Range, check_arguments
from sft_lightning.data.audio.base import AudioData
from sft_lightning.data.audio.librispeech import librispeech_tables
from sft_lightning.data.audio.listed import file_column_of, files_of, groups_of, kept_rows
from sft_lightning.data.audio.metadata import Metadata, metadata_of
from sft_lightning.data.audio.one_place import sounds_at
from sft_lightning.data.audio.transcribed import SpeechTask, Transcribed
from sft_lightning.data.base import Samples, Splits
from sft_lightning.data.split_column import by_split
from sft_lightning.data.text.files import Table, read_table
from sft_lightning.data.vision.image_folder import folder
from sft_lightning.tasks.error_rates import ERROR_RATES

TEXT_COLUMNS = ("transcription", "text", "transcript", "sentence")
OF_TOKENS = ("perplexity", "token_accuracy")


class Speech(AudioData):
    """Sounds with transcripts: a folder, or tables with a file and a text in each row (.csv, .tsv, .json, .jsonl, .parquet).

    A folder has a metadata file with the columns file_name and transcription (or text), alone or in its train, val and test
    folders; or LibriSpeech's layout, whose folders are named as splits. A JSONL manifest has audio_filepath and text; a sound
    that lasts longer than its `duration` there says, or begins at an `offset`, is refused.

    Args:
        root: The folder; null for tables.
        train: Table of the training sounds; a column `split` (train, validation, test) divides it, if it is the only table.
        val: Table of the validation sounds; default a share of the training sounds.
        test: Table of the test sounds.
        predict: A sound file or a folder of them to write down; predicting needs no training data.
        task: How the network writes: seq2seq one token after another, as Whisper does, or ctc frame by frame, as wav2vec2.
        file_column: Column with the files; default the first of file_name, file, audio_filepath, path, audio, filename.
        text_column: Column with the transcripts; default the first of transcription, text, transcript, sentence.
        audio_root: Folder in which the files of tables lie; default that of each table.
        only: Rows to keep, as values by column, such as {speaker: [jackson, theo]}; null for all.
        group_column: Column, such as speaker, whose values are never in two splits that are cut from one table.
        letter_case: Change the letters of transcripts, for networks that write one case: keep, lower or upper.
        unknown_characters: What to do with characters that the network cannot write: fail, or drop and count them.
        metrics: Error rates: wer, cer, and wer_plain, cer_plain without letter case and punctuation; default wer and cer.
        generate_samples: With seq2seq, validation sounds that are written down and scored, drawn evenly; testing does it for
            all; 0 for none.
        max_seconds: Seconds of a sound that are used, from its beginning; default the network's limit, else 30.
        group_by_length: Make batches of sounds of similar length, to save padding.
        **kwargs: Subset, split, batches; see Digits.
    """

    kind = "speech"

    def __init__(
        self,
        root: str | None = None,
        train: str | None = None,
        val: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        task: SpeechTask = "seq2seq",
        file_column: str | None = None,
        text_column: str | None = None,
        audio_root: str | None = None,
        only: dict[str, list[str | int]] | None = None,
        group_column: str | None = None,
        letter_case: Literal["keep", "lower", "upper"] = "keep",
        unknown_characters: Literal["fail", "drop"] = "fail",
        metrics: list[str] | None = None,
        generate_samples: NonNegativeInt = 100,
        max_seconds: Annotated[float, Range(0, open_below=True)] | None = None,
        group_by_length: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_seconds=max_seconds, group_by_length=group_by_length, **kwargs)
        check_arguments(Speech.__init__, locals())
        self.root, self.files, self.predict = root, {"train": train, "val": val, "test": test}, predict
        self.task_name = self.speech_task = task
        self.columns, self.audio_root, self.only = (file_column, text_column, group_column), audio_root, only
        self.letter_case, self.unknown_characters = letter_case, unknown_characters
        self.generate_samples = generate_samples if task == "seq2seq" else 0
        self.metrics = rates_of(metrics, task, generate_samples)
        for option in ("classes", "shots_per_class"):
            if getattr(self, option) is not None:
                raise UserError(f"data.{option}", "needs classes, and transcripts have none", "use data.train_fraction")

    def load(self) -> Splits:
        if (self.root is None) == (self.files["train"] is None):
            raise UserError("data", "Speech needs one of root (a folder) and train (a table)", "set one of them")
        metadata = None if self.root is None else self._folder(folder(self.root, "root"))
        tables, folders = self._tables() if metadata is None else (metadata.tables, metadata.folders)
        kept, folders = by_split({split: kept_rows(t, self.only) for split, t in tables.items()}, folders, self.only)
        found = {split: self._rows(table, folders[split]) for split, table in kept.items()}
        notes = list(dict.fromkeys(note for table in kept.values() for note in table.notes))
        if metadata is not None and self.only is None:
            notes += metadata.unlisted(found)
        if self.letter_case != "keep":
            notes.append(f"transcripts are turned into {self.letter_case} case")
        return Splits(found["train"], found.get("val"), found.get("test"), [], notes)

    def _tables(self) -> tuple[dict[str, Table], dict[str, Path]]:
        named = {split: Path(file).expanduser() for split, file in self.files.items() if file is not None}
        root = None if self.audio_root is None else folder(self.audio_root, "audio_root")
        tables = {split: read_table(file, f"data.{split}", self.skips) for split, file in named.items()}
        return tables, {split: root or file.parent for split, file in named.items()}

    def _folder(self, root: Path) -> Metadata:
        if self.audio_root is not None:
            raise UserError("data.audio_root", "has no effect with data.root", "leave it out")
        if (metadata := metadata_of(root, self.skips, self.columns[0])) is not None:
            return metadata
        if (tables := librispeech_tables(root, self.skips)) is not None:
            return Metadata(tables, dict.fromkeys(tables, root), root)
        problem = f"{root} has neither a metadata file with transcripts nor LibriSpeech's .trans.txt files"
        raise UserError("data.root", problem, "add metadata.csv with the columns file_name and transcription")

    def _rows(self, table: Table, place: Path) -> Transcribed:
        file_column, text_column, group_column = self.columns
        for row, offset in enumerate(table.columns.get("offset", [])):
            if offset not in (None, "", 0, "0", 0.0, "0.0"):
                problem = f"{table.name(row)}: a part of a sound (offset {offset}) cannot be read"
                table.refuse(row, UserError("data", problem, "cut the sound into files of one transcript each"))
        option = "data.audio_root" if self.root is None else ""
        paths = files_of(table, file_column_of(table, file_column), place, option)
        column = text_column or next((name for name in TEXT_COLUMNS if name in table.columns), TEXT_COLUMNS[0])
        texts = table.texts(column, "data.text_column")
        cased = [{"lower": text.lower(), "upper": text.upper()}.get(self.letter_case, text).strip() for text in texts]
        groups = groups_of(table, group_column)
        return Transcribed(paths, cased, place, self.speech_task, table.bad, groups, durations_of(table))

    def load_for_prediction(self) -> Samples | None:
        if self.predict is None:
            return None
        if self.speech_task == "seq2seq" and not self.generate_samples:
            raise UserError("data.generate_samples", "is 0, so nothing would be predicted", "set it to 1 or more")
        found = sounds_at(self.predict)
        return Transcribed(found.paths, None, found.root, self.speech_task)

    def count_outputs(self, labels: list[str], loaded: Splits) -> int:
        """Returns 0: the network knows its tokens."""
        return 0

    def prepare(self, spec: InputSpec) -> InputView:
        """Fits the sounds, and writes the targets."""
        view = super().prepare(spec)
        for name, split in self.splits.items():
            samples = split.samples
            assert isinstance(samples, Transcribed)
            samples.write(spec, self.unknown_characters == "drop")
            bad = [row for row in split.rows.tolist() if row in samples.too_short]
            if bad and not self.skips:
                raise UserError(
                    "data",
                    f"{samples.name(bad[0])}: {samples.too_short[bad[0]]} ({len(bad):,} such in {name})",
                    "remove them, or set data.on_bad_sample skip",
                )
        return view

    def describe(self) -> str:
        """Adds characters that were dropped, and the share of transcripts that were cut."""
        parts, dropped = [super().describe()], dict[str, int]()
        for name, split in self.splits.items():
            samples = split.samples
            assert isinstance(samples, Transcribed)
            dropped |= {c: max(count, dropped.get(c, 0)) for c, count in samples.left_out.items()}
            if len(samples.cut_targets) and (share := float(np.mean(samples.cut_targets[split.rows]))):
                parts.append(f"transcripts cut: {share:.1%} of {name}")
        if dropped:
            parts.append("characters dropped: " + ", ".join(f"{c!r} in {n:,}" for c, n in sorted(dropped.items())))
        return "; ".join(parts)


def durations_of(table: Table) -> dict[int, float]:
    """Seconds of each row's sound, where a column `duration` has them."""
    found = {}
    for row, value in enumerate(table.columns.get("duration", [])):
        with suppress(TypeError, ValueError):
            if 0 < (seconds := float(value)) < float("inf"):
                found[row] = seconds
    return found


def rates_of(metrics: list[str] | None, task: SpeechTask, generate_samples: int) -> tuple[str, ...]:
    """The metrics to measure; those of tokens come first with seq2seq."""
    named = list(metrics) if metrics is not None else ["wer", "cer"]
    for name in named:
        if name not in ERROR_RATES:
            known = ", ".join(ERROR_RATES)
            raise UserError("data.metrics", f"'{name}' is unknown{nearest(name, ERROR_RATES)}", f"use one of {known}")
    if task == "ctc":
        return tuple(dict.fromkeys(named))
    if not generate_samples:
        if metrics is not None and named:
            raise UserError(
                "data.metrics", f"{named[0]} scores texts, and data.generate_samples is 0", "set that higher"
            )
        return OF_TOKENS
    return tuple(dict.fromkeys([*OF_TOKENS, *named]))
