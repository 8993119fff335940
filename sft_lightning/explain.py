"""jsonargparse's errors, in one line: what, where, and the nearest name."""

import re
from collections.abc import Iterable
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from sft_lightning.errors import nearest


def explain(error: object, keys: Iterable[str] = ()) -> str:
    """What a parser's error means; `keys` are the dotted names of all options, for the nearest one."""
    text = str(getattr(error, "message", None) or error)
    return _reason(text.strip(), "", list(keys))


def _reason(text: str, where: str, keys: list[str]) -> str:
    if match := re.match(r'Parser key "([^"]+)":\s*(.*)', text, re.S):
        key = match[1] if not where else f"{where}.{match[1]}"
        return _reason(match[2], key, keys)
    if "Does not validate against any of the" in text:
        given = re.search(r"Given value: (.*)", text)
        reasons = [r for r in _listed(text) if "NoneType" not in r.split("\n")[0]]
        if reasons and all(re.match(r"Expected an? <class '\w+'>", r) for r in reasons) and given:
            kinds = " or ".join(dict.fromkeys(_kind(r) for r in reasons))
            return f"{where}: must be {kinds}, got {given[1].strip()}"
        best = max(reasons, key=lambda r: "given class_path" in r, default=text)
        return _reason(best, where, keys)
    if match := re.match(r"Problem with given class_path '([^']+)':\s*(.*)", text, re.S):
        return _in_class(match[1], match[2].strip(), where, keys)
    if match := re.match(r"Expected a dot import path string: (\S+)", text):
        known = class_names(where)
        there = f"; there are {', '.join(known)}" if known else ""
        return f"{where}: no class '{match[1]}'{nearest(match[1], known)}{there}"
    if match := re.match(r"Expected an? (?:typing\.)?Literal\[(.*?)\]\.? Got value: (.*)", text, re.S):
        choices = [c.strip(" '\"") for c in match[1].split(",")]
        return (
            f"{where}: '{match[2].split()[0]}' is none of {', '.join(choices)}{nearest(match[2].split()[0], choices)}"
        )
    if match := re.match(r"Expected an? <class '(\w+)'>\.? Got value: (.*)", text, re.S):
        return f"{where}: must be {_kind(text)}, got {match[2].strip()}"
    if match := re.search(r"arguments are required: (.*)", text):
        names = [n.strip().partition(".")[2] or n.strip() for n in match[1].split(",")]
        return f"{' and '.join(names)} must be given: --config FILE, or --{names[0]} NAME"
    if match := re.search(r"does not accept (?:nested key|option) '([^']+)'", text):
        return _unknown(match[1], keys)
    if match := re.search(r"[Uu]nrecognized arguments: --(\S+)", text):
        return _unknown(match[1].partition("=")[0], keys)
    return f"{where}: {text}" if where else text


def _in_class(path: str, text: str, where: str, keys: list[str]) -> str:
    name = path.rpartition(".")[2]
    if match := re.match(r"Option '([^']+)' is not accepted", text):
        return f"{where}: {name} has no argument '{match[1]}'{nearest(match[1], arguments_of(path))}"
    if match := re.match(r"No module named '([^']+)'", text):
        return f"{where}: no module '{match[1]}' to take {path} from; is it on the path, or needs --import?"
    if re.match(r"(Not a valid|Import path|module .* has no attribute)", text):
        return f"{where}: {path}: {text.splitlines()[0]}"
    return _reason(text, f"{where}.init_args" if where else where, keys)


def _listed(text: str) -> list[str]:
    """The reasons a Union lists, each with what is indented below it."""
    body = text.partition("Errors:")[2].partition("\nGiven value type:")[0]
    return [r.strip() for r in re.split(r"\n\s{0,4}- ", "\n" + body.strip("\n")) if r.strip()]


def _kind(text: str) -> str:
    kinds = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "list": "a list"}
    match = re.search(r"<class '(\w+)'>", text)
    return kinds.get(match[1], match[1]) if match else "something else"


def _unknown(name: str, keys: list[str]) -> str:
    top = name.partition(".")[0]
    tops = {k.partition(".")[0] for k in keys}
    if top not in tops:
        return f"no key '{top}'{nearest(top, tops)}"
    return f"no option '{name}'{nearest(name, keys)}"


def class_names(where: str) -> list[str]:
    """Short names of what may stand at a key."""
    homes = {"model": "modules", "network": "networks", "data": "data", "retention": "data"}
    home = homes.get(where.rpartition(".")[2]) or homes.get(where)
    if home is None:
        return []
    module = import_module(f"sft_lightning.{home}")
    names = [n for n in module.__all__ if isinstance(getattr(module, n), type)]
    hidden = {
        "SFTModule",
        "SFTDataModule",
        "Network",
        "InputSpec",
        "Output",
        "Splits",
        "Samples",
        "ImageData",
        "TextData",
    }
    return [n for n in names if n not in hidden]


def arguments_of(path: str) -> list[str]:
    """Names of a class's constructor arguments, those behind **kwargs too."""
    module, _, name = path.rpartition(".")
    try:
        cls: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return []
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        parameters = list(signature(base.__init__).parameters.values())[1:]
        names |= {p.name: None for p in parameters if p.kind not in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL)}
        if not any(p.kind == Parameter.VAR_KEYWORD for p in parameters):
            break
    return list(names)
