"""Reads plain text files as documents: separated by blank lines, one a line, or the whole file."""

from pathlib import Path
from typing import Literal

from sft_lightning.core.errors import UserError, nearest
from sft_lightning.core.wording import plural
from sft_lightning.data.text.files import Bad, Table
from sft_lightning.data.text.utf8 import NO_TEXT, not_utf8, open_text

Division = Literal["blank_lines", "lines", "file"]
SAID = {"blank_lines": "separated by blank lines", "lines": "one a line", "file": "the whole file"}


def read_documents(path: str, key: str, division: Division, skip: bool = False) -> Table:
    """Reads a UTF-8 file, with or without a byte order mark, as a table with a column `text`.

    Line ends CR LF become LF, as do those of a file that has CR alone. With `skip`, documents that are not UTF-8 are left out.

    Args:
        path: The file.
        key: The option that names it, for messages.
        division: How it is divided.
        skip: Whether to leave out what cannot be read.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        raise UserError(key, f"{path} is a folder", "name a file in it")
    if not place.is_file():
        here = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise UserError(key, f"{path} does not exist{nearest(place.name, here)}")
    try:
        with open_text(place, strict=not skip) as file:
            text = file.read()
    except UnicodeDecodeError:
        raise not_utf8(place) from None
    except OSError as error:
        raise UserError("data", f"{path} cannot be read: {error}") from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise UserError(
            "data",
            f"{path} line {line} has a NUL character, so it is binary, or UTF-16 without a byte order mark",
            "give a file of plain text in UTF-8",
        )
    end, named = ("\r\n", "CR LF") if "\n" in text else ("\r", "CR")
    returns = text.count(end)
    documents, lines = divided(text.replace(end, "\n"), division)
    if not documents:
        raise UserError(key, f"{path} has no text", "use another file")
    bad: Bad = {row: "not UTF-8" for row, one in enumerate(documents) if NO_TEXT.search(one)} if skip else None
    notes = [f"{path} has {plural(len(documents), 'document')}, {SAID[division]} (data.documents)"]
    if returns:
        notes.append(f"{path}: {plural(returns, 'line end')} {named} read as LF")
    return Table(path, {"text": documents}, lines=lines, bad=bad, notes=notes)


def divided(text: str, division: Division) -> tuple[list[str], list[int]]:
    """(documents, the line on which each begins). The lines between documents belong to none of them."""
    if division == "file":
        return ([text], [1]) if text.strip() else ([], [])
    documents: list[list[str]] = []
    lines: list[int] = []
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            inside = False
            continue
        if not inside:
            documents.append([])
            lines.append(number)
        documents[-1].append(line)
        inside = division == "blank_lines"
    return ["\n".join(one) for one in documents], lines
