"""Turns jsonargparse's errors into UserErrors: which key, what is wrong, and the nearest known name."""

import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from inspect import Parameter, signature
from typing import Any

from sft_lightning.config.given import without_value
from sft_lightning.core.errors import UserError, nearest


def explain(error: object, keys: Iterable[str] = (), arguments: Sequence[str] = ()) -> UserError:
    """Returns the UserError for a parser's error.

    Args:
        error: The parser's error.
        keys: The dotted names of all options, for suggestions.
        arguments: The command line. The parser names only the option of a flag without a value: `--model` for `--model.lr`.
    """
    text = str(getattr(error, "message", None) or error).strip()
    if match := re.match(r"argument (?:-\w/)?(--\S+): expected one argument", text):
        return UserError(without_value(arguments, match[1]), "needs a value", "add one")
    found = _reason(text, "", list(keys))
    return found if found.key else found.at("--config")


def _reason(text: str, where: str, keys: list[str]) -> UserError:
    if match := re.match(r'Parser key "([^"]+)":\s*(.*)', text, re.S):
        key = match[1] if not where else f"{where}.{match[1]}"
        return _reason(match[2], key, keys)
    if match := re.match(r"Problem with given class_path '([^']+)':\s*(.*)", text, re.S):
        return _in_class(match[1], match[2].strip(), where, keys)
    if "Does not validate against any of the" in text:
        return _of_union(text, where, keys)
    if match := re.match(r"Expected a dot import path string:\s*(.*)", text, re.S):
        return UserError(where, f"no class '{match[1]}'{nearest(match[1], class_names(where))}", _choices(where))
    if match := re.match(r"Expected an? (?:typing\.)?Literal\[(.*?)\]\.? Got value: (.*)", text, re.S):
        choices = [c.strip(" '\"") for c in match[1].split(",")]
        value = match[2].split()[0]
        return UserError(where, f"'{value}' must be one of {', '.join(choices)}{nearest(value, choices)}")
    if match := re.match(r"Expected an? (.*?)\.? Got value:(.*)", text, re.S):
        return UserError(where, f"must be {_kinds(match[1])}, got {_value(match[2])}")
    if match := re.search(r"arguments are required: (.*)", text):
        names = [n.strip().partition(".")[2] or n.strip() for n in match[1].split(",")]
        return UserError(" and ".join(names), "must be given", f"add --config FILE, or --{names[0]} NAME")
    if match := re.match(r"Group '([^']+)' does not accept option '([^']+)'", text):
        return _unknown(f"{match[1]}.{match[2]}", keys)
    if match := re.search(r"does not accept (?:nested key|option) '([^']+)'|^Option '([^']+)' is not accepted", text):
        return _unknown(match[1] or match[2], keys)
    if text.startswith("Empty nested key"):
        return UserError("--config", "a part of a key is empty", "write a name on each side of a dot")
    if match := re.match(r"Key must be a string, got: (.*?)\.?$", text):
        return UserError("--config", f"a key must be text, got {_value(match[1])}", "quote it")
    if match := re.match(r"Unable to load config '(.*?)'", text, re.S):
        problem = f"must be a readable file or a mapping, got {_value(match[1])}"
        return UserError(where or "--config", problem)
    if match := re.search(r"[Uu]nrecognized arguments: --(\S+)", text):
        return _unknown(match[1].partition("=")[0], keys)
    if match := re.search(r"[Uu]nrecognized arguments: (.*)", text, re.S):
        problem = f"'{_value(match[1])}' comes where an option is expected"
        return UserError("command line", problem, "begin options with --")
    if where and re.search(r"'\w+' (object )?(has no attribute|is not \w+)|of type '\w+' is|unhashable type", text):
        return UserError(where, "cannot be read as a class", "give its name, or class_path and init_args")
    text = text.removeprefix("--config: ")  # of config/files.py, which cannot know the key
    return UserError(where or "--config", text) if where or "--" not in text else UserError("command line", text)


def _of_union(text: str, where: str, keys: list[str]) -> UserError:
    """Explains why a value fits none of several types: by the error of the type that was meant, else by naming the types."""
    head, _, body = text.partition("Errors:\n")
    body = body.strip("\n")
    indent = len(body) - len(body.lstrip())
    body, _, given = body.partition("\n" + " " * max(0, indent - 2) + "Given value type:")
    reasons = [r.strip() for r in re.split(rf"(?:^|\n) {{{indent}}}- ", body) if r.strip()]
    value = _value(given.partition("Given value:")[2])
    for start in ("Problem with given class_path", "Parser key", "Expected a dot import path"):
        if found := next((r for r in reasons if r.startswith(start)), None):
            return _reason(found, where, keys)
    if found := next((r for r in reasons if r.startswith("Import path does not correspond")), None):
        return UserError(where, f"{value} is not a {found.rpartition(' ')[2]}", _choices(where))
    if found := next((r for r in reasons if not re.match(r"Expected an? |Not a valid |Does not validate ", r)), None):
        return _reason(found.splitlines()[0], where, keys)  # the message of a constructor
    kinds = re.search(r"Subtypes: \[(.*)\]", head)
    return UserError(where, f"must be {_kinds(kinds[1]) if kinds else 'something else'}, got {value}")


def _choices(where: str) -> str:
    known = class_names(where)
    return f"choose {', '.join(known)}, or a class of your own" if known else ""


def _value(text: str) -> str:
    """Shows a value as the user wrote it, at most one line of it."""
    found = " ".join(text.split())
    shown = {"": "nothing", "None": "null", "True": "true", "False": "false"}.get(found, found)
    if match := re.match(r"NestedArg\(key='([^']*)'", shown):
        return f"a key '{match[1]}'"
    return shown if len(shown) <= 120 else f"{shown[:100]}…"


LOGGERS = {"TensorBoardLogger": "tensorboard", "MLFlowLogger": "mlflow"}
"""Lightning's loggers that need an extra, which has the package's name"""


def _in_class(path: str, text: str, where: str, keys: list[str]) -> UserError:
    name = path.rpartition(".")[2]
    if match := re.match(r"Option '([^']+)' is not accepted", text):
        return UserError(where, f"{name} has no argument '{match[1]}'{nearest(match[1], arguments_of(path))}")
    if match := re.match(r"No module named '([^']+)'", text):
        problem = f"{path} cannot be imported: there is no module '{match[1]}'"
        return UserError(where, problem, "put the module on Python's path")
    if re.match(r"(Not a valid|Import path|module .* has no attribute)", text):
        return UserError(where, f"{path}: {text.splitlines()[0]}")
    if (package := LOGGERS.get(name)) is not None and "pip install" in text:
        return UserError(where, f"{name} needs the package {package}", f"pip install 'sft-lightning[{package}]'")
    if match := re.match(r"the following arguments are required: (.*)", text):
        return UserError(where, f"{name} needs {match[1].strip()}", f"set it in {where}.init_args")
    if re.match(r"'\w+' object (has no attribute|is not)", text):
        return UserError(f"{where}.init_args", f"must be a mapping of arguments of {name}")
    return _reason(text, f"{where}.init_args" if where else where, keys)


KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "tuple": "a list",
    "Any": "anything",
    "NoneType": "null",
    "timedelta": "a time",
}
SEVERAL = {"int": "whole numbers", "float": "numbers", "str": "texts", "str | int": "texts or whole numbers"}
RANGED = r"(?:typing\.)?Annotated\[(\w+), (?:in [\[(][^\[\]()]*[\])]|[^\[\]]*)\]"
"""A number with the range that `data/arguments.py` checks; its own error names the range"""
LISTS = ("list", "Sequence", "Iterable", "tuple", "set")


def _kinds(types: str) -> str:
    """Puts types as Python writes them into words: `list[str], <class 'NoneType'>` is a list of texts."""
    plain = re.sub(RANGED, r"\1", types)
    parts = [p.strip() for p in re.split(r",(?![^\[(]*[\])])|(?<=[\]>\w])\s+\|\s+(?![^\[]*\])", plain)]
    words = dict.fromkeys(_kind(p) for p in parts if "NoneType" not in p and p != "None")
    return " or ".join(words) or "null"


def _kind(written: str) -> str:
    """Puts one type into words."""
    if match := re.match(r"(?:typing\.)?Literal\[(.*)\]", written):
        return ", ".join(choice.strip(" '\"") for choice in match[1].split(","))
    match = re.match(r"(?:<class ')?([\w.]+)(?:\[(.*)\])?", written)
    if match is None:
        return "something else"
    name = match[1].rpartition(".")[2]
    if name in LISTS and (match[2] or "").removeprefix("typing.").startswith("Literal["):
        return f"a list of {_kind(match[2])}"
    if name in LISTS:
        return f"a list of {SEVERAL[match[2]]}" if match[2] in SEVERAL else "a list"
    return KINDS.get(name, f"class_path and init_args of a {name}")


def _unknown(name: str, keys: list[str]) -> UserError:
    if name in keys:
        return UserError(name, "cannot be set in a config file, or does not apply to this command", "leave it out")
    if not all(name.split(".")):
        return UserError(name or "--config", "a part of the key is empty", "write a name on each side of a dot")
    top = name.partition(".")[0]
    tops = {k.partition(".")[0] for k in keys}
    if top not in tops:
        return UserError(name, f"there is no key '{top}'{nearest(top, tops)}")
    return UserError(name, f"there is no such option{nearest(name, keys)}")


def class_names(where: str) -> list[str]:
    """Returns the short names of the classes that a key may name."""
    homes = {
        "model": ("modules", "VARIANTS"),
        "network": ("networks", "NETWORKS"),
        "data": ("data", "DATA_MODULES"),
        "retention": ("data", "DATA_MODULES"),
    }
    home = homes.get(where.rpartition(".")[2]) or homes.get(where)
    if home is None:
        return []
    registered = getattr(import_module(f"sft_lightning.{home[0]}"), home[1])
    return [name for name in registered if "." not in name]


def arguments_of(path: str) -> list[str]:
    """Returns the names of a class's constructor arguments, including those that **kwargs passes to its bases."""
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


def kind_of(wanted: Any) -> str:
    """Puts a type into words."""
    return _kinds(f"<class '{wanted.__name__}'>" if isinstance(wanted, type) else str(wanted))
