"""Writes a model's answers to the samples of a user's files: in their order, and resumed where a stopped command ended."""

import base64
import codecs
import csv
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sft_lightning import __version__
from sft_lightning.core.errors import UserError, one_line
from sft_lightning.core.redaction import bare
from sft_lightning.core.wording import plural
from sft_lightning.runs.directory import write_atomic
from sft_lightning.serve.answering import Answer, Model, finite
from sft_lightning.serve.files import facts
from sft_lightning.serve.inputs import Inputs, digest_of
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
PANIC = "PanicException"
"""What tokenizers written in Rust raise, which is not an Exception"""
PER_LABEL = ("classification", "multi_label")
"""Tasks whose probabilities are those of their labels; others have one for each word, choice or token"""
LONGEST_STEM = 100
"""Bytes of an image's name that its mask's name begins with; most file systems take 255"""
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


def check_apart(output: Path | None, place: str, kind: str) -> None:
    """Raises UserError if masks would be written among the images of the input, where a resumed command would read them."""
    folder = Path(place).expanduser()
    if output is not None and kind == "masks" and folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            "--output", f"{output} is in the folder of the images, and its masks are images too", "name another"
        )


def predict(model: Model, place: Path, inputs: Inputs, head: str, output: Path | None) -> Counts:
    """Answers all samples, and writes a row for each to `output`, or to standard output if it is None.

    Raises:
        UserError: The model has no such head, or not one sample can be read.
    """
    if head != "new" and "source" not in model.tasks:
        raise UserError("--head", "the model kept no source head", "use new")
    if output is None:
        counts, out = Counts(), bare(sys.stdout)  # the same bytes as in a file: answers are the user's own data
        unicode = codecs.lookup(out.encoding or "utf-8").name == "utf-8"
        for row in rows(model, inputs, head, 0):
            counts.add(row)
            print(json.dumps(row, ensure_ascii=not unicode), file=out, flush=True)
    else:
        counts = resumed(model, inputs, head, output, identity(model, place, inputs, head))
    if not counts.answered:
        raise UserError("--input", f"not one of {plural(len(inputs), 'sample')} can be read; the first: {counts.first}")
    return counts


def identity(model: Model, place: Path, inputs: Inputs, head: str) -> str:
    """Identifies model, samples and head: a command that was stopped is resumed only if all are the same."""
    folder = place / "model" if (place / "run.json").is_file() else place
    weights = [place] if place.is_file() else [*folder.rglob("*.safetensors"), *folder.glob("*.onnx")]
    files = [facts(file) for file in sorted([*weights, *folder.glob("*.json")])]
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
        answers = answers_to(model, items, source=head != "new")
        for number in numbers:
            yield row_of(number, inputs.labels[number], bad.get(number) or answers[number], head)


def answers_to(model: Model, items: Mapping[int, Item], source: bool) -> dict[int, Answer | UserError]:
    """Answers by number. If the network fails, each sample is asked alone, so that one spoils no other's answer."""
    try:
        return dict(zip(items, model.answer([*items.values()], source), strict=True)) if items else {}
    except BaseException as error:
        if isinstance(error, UserError) or not (isinstance(error, Exception) or type(error).__name__ == PANIC):
            raise
        if len(items) > 1:
            return {n: one for number in items for n, one in answers_to(model, {number: items[number]}, source).items()}
        ((number, item),) = items.items()
        why = f"{item.name} cannot be answered: {type(error).__name__}: {one_line(str(error))[:200]}"
        return {number: UserError("data", why)}


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
    with opened(part, output, same, counts) as file:
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
        labels = {name: task.info.labels for name, task in model.tasks.items() if task.info.name in PER_LABEL}
        write_whole(file, output, labels, head)
        part.unlink()
    return counts


def opened(part: Path, output: Path, same: str, counts: Counts) -> BinaryIO:
    """The unfinished file, after its last whole row; begun anew if it is of another model, other samples or another head.

    Raises UserError if another process writes it, or has written the output since the command began.
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
    if output.exists() or not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
        if not os.fstat(file.fileno()).st_size:  # made just now
            part.unlink(missing_ok=True)
        file.close()
        raise UserError("--output", f"another process has written {output}", "name another file")
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
            stem = re.sub(r"\s", "_", Path(str(row.get("file", "image"))).stem)
            stem = stem.encode()[:LONGEST_STEM].decode("utf-8", "ignore")
            name = f"{row['index']:06d}-{stem}{which}.png"
            folder = output.with_name(f"{output.name}-masks")
            folder.mkdir(exist_ok=True)
            write_atomic(folder / name, base64.b64decode(said["mask"]))
            said["mask"] = f"{folder.name}/{name}"


def write_whole(part: BinaryIO, output: Path, labels: Mapping[str, list[str]], head: str) -> None:
    """Writes the finished output from the rows of the unfinished file, whose lock is held: another handle would end it."""
    temporary = output.with_name(f".{output.name}.tmp")
    part.seek(0)
    part.readline()  # whose rows they are
    begin = part.tell()
    try:
        if output.suffix.lower() == ".jsonl":
            with temporary.open("wb") as out:
                out.writelines(part)
        else:
            flat: Callable[[bytes], Row] = lambda line: flattened(json.loads(line), labels, head)  # noqa: E731
            columns = dict.fromkeys(name for line in part for name in flat(line))
            part.seek(begin)
            with temporary.open("w", encoding="utf-8", newline="") as text:
                writer = csv.DictWriter(text, list(columns))
                writer.writeheader()
                writer.writerows(map(flat, part))
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


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
