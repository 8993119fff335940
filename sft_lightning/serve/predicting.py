"""Writes a model's answers to the samples of a user's files: in their order, and resumed where a stopped command ended."""

import base64
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sft_lightning import __version__
from sft_lightning.core.errors import UserError
from sft_lightning.core.wording import plural
from sft_lightning.runs.directory import write_atomic
from sft_lightning.serve.answering import Answer, Model, finite
from sft_lightning.serve.files import Inputs, digest_of, facts
from sft_lightning.serve.items import Item

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

SUFFIXES = (".jsonl", ".csv")
CHUNK = {"texts": 256, "images": 32, "sounds": 32}
"""Samples that are read and answered together: what is lost if the command is stopped"""
EVERY_S = 10.0
"""Seconds between two lines about progress"""
Row = dict[str, Any]


@dataclass
class Counts:
    """What was done."""

    answered: int = 0
    unreadable: int = 0
    resumed: int = 0
    """Samples that an earlier command had answered"""
    first: str = ""
    """Why the first unreadable sample cannot be read"""

    def add(self, row: Row) -> None:
        """Counts one row of the output."""
        if "error" in row:
            self.unreadable, self.first = self.unreadable + 1, self.first or str(row["error"])
        else:
            self.answered += 1


def check_output(output: Path | None) -> None:
    """Raises UserError for a file that cannot be written, before a model is loaded."""
    if output is None:
        return
    if output.suffix.lower() not in SUFFIXES:
        raise UserError("--output", f"{output} must end with {' or '.join(SUFFIXES)}")
    if output.exists():
        raise UserError("--output", f"{output} exists already", "remove it, or name another file")
    if not output.parent.is_dir():
        raise UserError("--output", f"the folder {output.parent} does not exist", "make it, or name another file")


def predict(model: Model, place: Path, inputs: Inputs, head: str, output: Path | None) -> Counts:
    """Answers all samples, and writes a row for each to `output`, or to standard output if it is None.

    Raises:
        UserError: The model has no such head, or not one sample can be read.
    """
    if head != "new" and "source" not in model.tasks:
        raise UserError("--head", "the model kept no source head", "use new")
    if output is None:
        counts = Counts()
        for row in rows(model, inputs, head, 0):
            counts.add(row)
            print(json.dumps(row, ensure_ascii=False), flush=True)
    else:
        counts = resumed(model, inputs, head, output, identity(model, place, inputs, head))
    if not counts.answered:
        raise UserError("--input", f"not one of {plural(len(inputs), 'sample')} can be read; the first: {counts.first}")
    return counts


def identity(model: Model, place: Path, inputs: Inputs, head: str) -> str:
    """Identifies model, samples and head: a command that was stopped is resumed only if all are the same."""
    folder = place / "model" if (place / "run.json").is_file() else place
    files = [facts(file) for file in sorted(folder.glob("*.safetensors"))]
    return digest_of([__version__, files, model.half, str(model.network.task), inputs.digest, len(inputs), head])


# ---- rows ----


def rows(model: Model, inputs: Inputs, head: str, start: int) -> Iterator[Row]:
    """The rows of samples from number `start` on, in order."""
    size = CHUNK[model.reader.takes]
    for begin in range(start, len(inputs), size):
        numbers = range(begin, min(begin + size, len(inputs)))
        items: dict[int, Item] = {}
        bad: dict[int, UserError] = {}
        for number in numbers:
            try:
                item = inputs.item(number)
                model.reader.check(item)
                items[number] = item
            except UserError as error:
                bad[number] = error
        answers = dict(zip(items, model.answer([*items.values()], source=head != "new"), strict=True)) if items else {}
        for number in numbers:
            yield row_of(number, inputs.labels[number], bad.get(number) or answers[number], head)


def row_of(number: int, label: Mapping[str, Any], answer: Answer | UserError, head: str) -> Row:
    """A sample's row: the values that its head says, or both heads' under their names, or why it cannot be read."""
    about: Row = {"index": number, **label}
    if isinstance(answer, UserError):
        return {**about, "error": answer.problem or str(answer)}
    if not finite(answer):
        return {**about, "error": "the answer is not a finite number"}
    said = {name: answer[name] for name in ("new", "source")} if head == "both" else dict(answer[head])
    return {**about, **said, **({"truncated": True} if answer.get("truncated") else {})}


# ---- files ----


def resumed(model: Model, inputs: Inputs, head: str, output: Path, same: str) -> Counts:
    """Writes rows to a file beside the output, which gets its place when all are there."""
    part, counts = output.with_name(f"{output.name}.part"), Counts()
    with opened(part, same, counts) as file:
        counts.resumed = counts.answered + counts.unreadable
        if counts.resumed:
            print(f"predict  resumes: {counts.resumed:,} of {plural(len(inputs), 'sample')} are done", file=sys.stderr)
        told = time.monotonic()
        for row in rows(model, inputs, head, counts.resumed):
            counts.add(row)
            with_files(row, output)
            file.write(line_of(row))
            file.flush()
            if time.monotonic() - told > EVERY_S:
                told, done = time.monotonic(), counts.answered + counts.unreadable
                print(f"predict  {done:,} of {plural(len(inputs), 'sample')}", file=sys.stderr, flush=True)
    write_whole(part, output, {name: task.info.labels for name, task in model.tasks.items()}, head)
    part.unlink()
    return counts


def opened(part: Path, same: str, counts: Counts) -> BinaryIO:
    """The unfinished file, after its last whole row; begun anew if it is of another model, other samples or another head.

    Raises UserError if another process writes it.
    """
    file = part.open("a+b")
    try:
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise UserError("--output", f"another process writes {part}", "wait, or name another file") from None
    except OSError:
        pass  # a file system without locks
    file.seek(0)
    first, kept = file.readline(), 0
    if loaded(first) == {"predicts": same}:
        kept = len(first)
        for line in file:
            row = loaded(line)
            if row is None or not line.endswith(b"\n"):
                break
            counts.add(row)
            kept += len(line)
    elif first:
        print(f"predict  begins anew: {part} is of another model, input or head", file=sys.stderr)
    file.truncate(kept)
    if not kept:
        file.write(line_of({"predicts": same}))
    return file


def line_of(row: Row) -> bytes:
    """A row as one line of JSON."""
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def loaded(line: bytes) -> Row | None:
    """A line's object; None if it is damaged."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def with_files(row: Row, output: Path) -> None:
    """Writes masks to files beside the output, and names them in the row."""
    for said in (row, row.get("new"), row.get("source")):
        if isinstance(said, dict) and isinstance(said.get("mask"), str):
            which = "" if said is row else "-source" if said is row.get("source") else "-new"
            name = f"{row['index']:06d}-{Path(str(row.get('file', 'image'))).stem}{which}.png".replace(" ", "_")
            folder = output.with_name(f"{output.stem}-masks")
            folder.mkdir(exist_ok=True)
            write_atomic(folder / name, base64.b64decode(said["mask"]))
            said["mask"] = f"{folder.name}/{name}"


def write_whole(part: Path, output: Path, labels: Mapping[str, list[str]], head: str) -> None:
    """Writes the finished output from the rows of the unfinished file."""
    temporary = output.with_name(f".{output.name}.tmp")
    with part.open(encoding="utf-8") as file:
        next(file)  # whose rows they are
        if output.suffix.lower() == ".jsonl":
            with temporary.open("w", encoding="utf-8", newline="\n") as out:
                out.writelines(file)
        else:
            flat: Callable[[Row], Row] = lambda row: flattened(row, labels, head)  # noqa: E731
            columns = dict.fromkeys(name for line in file for name in flat(json.loads(line)))
            file.seek(0)
            next(file)
            with temporary.open("w", encoding="utf-8", newline="") as out:
                writer = csv.DictWriter(out, list(columns))
                writer.writeheader()
                writer.writerows(flat(json.loads(line)) for line in file)
    temporary.replace(output)


def flattened(row: Row, labels: Mapping[str, list[str]], head: str) -> Row:
    """A row for CSV: `probability_LABEL` for each class, `new_` and `source_` before values of two heads, JSON for lists."""
    found: Row = {}
    for name, value in row.items():
        if head == "both" and name in ("new", "source"):
            found |= {f"{name}_{key}": held for key, held in flattened(value, labels, name).items()}
        elif name == "probabilities" and len(of := labels.get(head) or []) == len(value):
            found |= {f"probability_{label}": one for label, one in zip(of, value, strict=True)}
        else:
            found[name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
    return found
