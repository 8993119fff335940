"""Reads LibriSpeech's layout: folders by speaker and chapter, each with sounds and a `.trans.txt` of their transcripts."""

from collections.abc import Iterator
from pathlib import Path

from sft_lightning.core.errors import UserError
from sft_lightning.data.audio.reading import SUFFIXES
from sft_lightning.data.split_names import split_within
from sft_lightning.data.text.files import Table

PATTERN = "*.trans.txt"


def librispeech_tables(root: Path, skip: bool) -> dict[str, Table] | None:
    """Tables with file_name (below `root`), text and speaker of each split; None if `root` has no such transcripts.

    Folders named as splits (`train-clean-100`, `dev-clean`, `test-other`) give the splits, at any depth, since archives hold
    them in a folder `LibriSpeech`; without any, all are `train`.
    """
    lists = sorted(root.rglob(PATTERN))
    if not lists:
        return None
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for path in lists:
        folders = path.relative_to(root).parts[:-1]
        split = next(filter(None, map(split_within, folders)), "train")
        rows.setdefault(split, []).extend(transcripts_in(path, root))
    if "train" not in rows:
        raise UserError("data.root", f"{root} has {', '.join(rows)}, but no train", "name a folder train")
    return {
        split: Table(
            f"{root} ({split})",
            {name: [row[at] for row in some] for at, name in enumerate(("file_name", "text", "speaker"))},
            bad={} if skip else None,
        )
        for split, some in rows.items()
    }


def transcripts_in(path: Path, root: Path) -> Iterator[tuple[str, str, str]]:
    """(file below `root`, text, speaker) of each line `SPEAKER-CHAPTER-NUMBER TEXT`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("data.root", f"{path} cannot be read: {error}", "replace it") from None
    here = {file.stem: file for file in path.parent.iterdir() if file.suffix.lower() in SUFFIXES}
    for line in filter(str.strip, lines):
        name, _, text = line.partition(" ")
        file = here.get(name, path.parent / f"{name}.flac")
        yield file.relative_to(root).as_posix(), text.strip(), name.partition("-")[0]
