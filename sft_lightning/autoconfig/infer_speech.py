"""Infers a data block from sounds with transcripts: a folder with metadata, LibriSpeech's layout, or manifests."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sft_lightning.autoconfig.data_plan import DataPlan, Overrides, fits
from sft_lightning.autoconfig.infer_audio import sound_folder
from sft_lightning.autoconfig.infer_table import files_of
from sft_lightning.autoconfig.network_plan import NetworkPlan, network_errors
from sft_lightning.autoconfig.one_load import load_as_fit_does
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.data.audio.librispeech import PATTERN
from sft_lightning.data.audio.listed import FILE_COLUMNS
from sft_lightning.data.audio.metadata import metadata_of
from sft_lightning.data.audio.reading import SUFFIXES
from sft_lightning.data.audio.speech import TEXT_COLUMNS, Speech
from sft_lightning.data.audio.transcribed import Transcribed
from sft_lightning.data.text.files import FORMATS, Table, read_table

TASKS = {"speech": "seq2seq", "ctc": "ctc"}
"""Task by kind"""


def transcripts_at(where: Path, kinds: tuple[str, ...], said: Overrides) -> dict[str, str] | None:
    """Arguments of `Speech` for a folder or table of sounds with transcripts; None for other data.

    Sounds that have labels as well are to be classified, unless `--task` or `--text_column` asks for the transcripts. Tables
    are looked at for networks that write transcripts alone: for others their texts are texts.
    """
    asked, writes = said.task in TASKS.values() or said.text_column is not None, set(TASKS) & set(kinds)
    if where.is_dir() and sound_folder(where):
        if (metadata := metadata_of(where, skip=True)) is not None:
            columns = metadata.tables["train"].columns
            labelled = (said.label_column or "label") in columns
            return {"root": str(where)} if text_column(columns, said) and (asked or not labelled) else None
        if any(where.rglob(PATTERN)):
            return {"root": str(where)}
    if not writes or (where.is_file() and where.suffix.lower() not in FORMATS):
        return None
    try:
        files = files_of(where)
    except UserError:
        return None
    table = read_table(files["train"], "--data", skip=True)
    return {n: str(f) for n, f in files.items()} if names_sounds(table) and text_column(table.columns, said) else None


def text_column(columns: Any, said: Overrides) -> str | None:
    """The column of transcripts, as `Speech` finds it."""
    names = (said.text_column,) if said.text_column is not None else TEXT_COLUMNS
    return next((name for name in names if name in columns), None)


def names_sounds(table: Table) -> bool:
    """Whether a table has a column of files whose first value is a sound."""
    column = next((name for name in FILE_COLUMNS if name in table.columns), None)
    return column is not None and str(next(iter(table.columns[column]), "")).lower().endswith(SUFFIXES)


def speech_plan(path: str, found: dict[str, str], kinds: tuple[str, ...], network: str, said: Overrides) -> DataPlan:
    """Plans `Speech` data. Raises UserError for the errors of `fit`."""
    fix = "choose a Whisper model or one saved with CTC outputs, or --label_column to classify the sounds"
    fits(kinds, tuple(TASKS), network, f"{path} is sounds with transcripts", fix)
    kind = next(kind for kind in TASKS if kind in kinds)
    if said.task not in (None, TASKS[kind]):
        raise UserError("--task", f"{network} writes transcripts by {TASKS[kind]}, not {said.task}", "leave it out")
    if said.label_column is not None:
        raise UserError("--label_column", f"has no effect on the transcripts of {path}", "leave it out")
    init: dict[str, Any] = dict(found) | ({"task": "ctc"} if kind == "ctc" else {})
    init |= {} if said.text_column is None else {"text_column": said.text_column}
    plan = DataPlan(kind, TASKS[kind], {"class_path": "Speech", "init_args": init}, 0)
    train = load_as_fit_does(plan, Speech, said).train
    assert isinstance(train, Transcribed) and train.transcripts is not None
    plan.texts = list(train.transcripts)
    seconds = sum(header.samples / header.rate for header in train.headers() if header is not None)
    plan.lines.insert(0, f"{path}: {plural(plan.train, 'sound')} with transcripts, {seconds / 60:.1f} minutes")
    return plan


def fit_characters(net: NetworkPlan, plan: DataPlan, said: Overrides) -> None:
    """Chooses the letter case that a CTC network writes, and drops the characters that it cannot write, with a line on each."""
    if plan.kind != "ctc":
        return
    from transformers import AutoTokenizer

    from sft_lightning.networks.transcripts import CharacterWriter
    from sft_lightning.networks.weights import resolve

    name = net.blocks["ctc"]["init_args"]["pretrained"]
    source, init = resolve(name), plan.block["init_args"]
    with network_errors(f"{name}: its tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source.hub or str(source.folder), trust_remote_code=False)
    writer, unknown = CharacterWriter(tokenizer), dict[str, Counter[str]]()
    cases: dict[str, Callable[[str], str]] = {"keep": str, "lower": str.lower, "upper": str.upper}
    for case in [said.settings["letter_case"]] if "letter_case" in said.settings else cases:
        texts = [cases.get(case, str)(text) for text in plan.texts]
        unknown[case] = Counter(c for text in texts for c in writer.unknown(text))
    case = min(unknown, key=lambda case: unknown[case].total())
    if case != "keep" and "letter_case" not in said.settings:
        init["letter_case"] = case
        plan.lines.append(f"transcripts are turned into {case} case, which the network writes (--set data.letter_case)")
    if unknown[case] and "unknown_characters" not in said.settings:
        init["unknown_characters"] = "drop"
        some = ", ".join(f"{c!r} in {n:,}" for c, n in unknown[case].most_common(6))
        plan.lines.append(f"characters that the network cannot write are dropped: {some} transcripts")
