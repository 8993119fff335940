"""Opens text files as UTF-8, and names the first byte that is not UTF-8."""

import codecs
import re
from pathlib import Path
from typing import TextIO

from sft_lightning.core.errors import UserError

NO_TEXT = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as they are read if bad rows are left out
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
CHUNK = 1 << 20


def open_text(path: Path, strict: bool) -> TextIO:
    """Opens a file, line ends as they are, without a byte order mark. Unless `strict`, `NO_TEXT` finds other bytes."""
    with path.open("rb") as file:
        start = file.read(4)
    if (coding := next((name for mark, name in MARKS.items() if start.startswith(mark)), None)) is not None:
        raise UserError("data", f"{path} is {coding}, not UTF-8", f"convert it (iconv -f {coding} -t UTF-8)")
    return path.open(encoding="utf-8-sig", newline="", errors="strict" if strict else "surrogateescape")


def not_utf8(path: Path) -> UserError:
    """The error for a file with bytes that are not UTF-8: the first one's place in the file, and what it may be."""
    decoder, read, lines = codecs.getincrementaldecoder("utf-8")(), 0, 1
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                at = error.start - pending  # in this chunk
                lines += chunk[: max(0, at)].count(b"\n")
                byte = error.object[error.start]
                letter = bytes([byte]).decode("cp1252", "ignore")
                latin = f", {letter!r} in Windows-1252" if letter.isprintable() and letter else ""
                return UserError(
                    "data",
                    f"{path} is not UTF-8 at byte {read + at}, line {lines} (0x{byte:02x}{latin})",
                    "convert it (iconv -f WINDOWS-1252 -t UTF-8), or save it as UTF-8",
                )
            read, lines = read + len(chunk), lines + chunk.count(b"\n")
    problem = f"{path} is not UTF-8: its last character is cut off at byte {read}, line {lines}"
    return UserError("data", problem, "write the file again")
