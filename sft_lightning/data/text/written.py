"""Reads lists and objects that a cell writes as text, as JSON, Python and numpy do."""

import ast
import json
import re
from typing import Any

QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
STRING = re.compile(rf"[bBrRuUfF]{{0,2}}(?:{QUOTED})", re.DOTALL)
WHOLE = r"-?(?:0|[1-9]\d*)\.?"
NUMPY = re.compile(rf"\[\s*(?:(?:{QUOTED})(?:\s+(?:{QUOTED}))*|{WHOLE}(?:\s+{WHOLE})*)\s*\]", re.DOTALL)
"""An array of numpy's, which pandas writes into CSV: `['a' 'b']`, `[0 1]`, on several lines if it is long"""
ITEM = re.compile(rf"{QUOTED}|{WHOLE}", re.DOTALL)
ARRAY = re.compile(rf"({QUOTED})|\barray\((?=\s*\[)|(?<=\])(?:,\s*dtype=[\w'<>|]+)?\s*\)", re.DOTALL)
"""What numpy writes around a list within an object, `array([…], dtype=object)`, or a text, which stays"""
UNQUOTED = re.compile(r"\[[^\[\]\"']*,[^\[\]\"']*\]")


def written(text: str) -> Any:
    """The value that a text writes. Raises ValueError if it writes none, or if two texts without a comma between could be one
    or two (`['a' 'b', 'c']`): Python would join them.
    """
    text = text.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    array = NUMPY.fullmatch(text)
    if not array and re.search(r"\0\s*\0", STRING.sub("\0", text)):
        raise ValueError("a comma is missing between two texts")
    try:
        if array:
            return [ast.literal_eval(item.removesuffix(".")) for item in ITEM.findall(text)]
        return ast.literal_eval(ARRAY.sub(lambda found: found[1] or "", text) if "array(" in text else text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from None


def is_unquoted(text: str) -> bool:
    """Whether a text looks like a list whose texts lack quotes, `[a, b]`, which no library writes or reads."""
    return bool(UNQUOTED.fullmatch(text.strip()))
