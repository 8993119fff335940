"""Refuses a key that no class and no option has, before anything heavy is imported.

Names are read from the source. Only what is clear is refused here, with the parser's own message: a key that the parser might
accept, or of which it would say something else, is left to it.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sft_lightning.cli.signatures import KINDS, PACKAGE
from sft_lightning.config import given
from sft_lightning.config.files import check_yaml
from sft_lightning.config.options import OPTIONS, underscored
from sft_lightning.core.errors import UserError, nearest

ELSEWHERE = ("--import", "--run", "--resume", "--help", "--help-all", "-h", "--print_config", "--print_shtab")
"""Options with which a command knows more names, or does something else"""
FOLDERS = {**{key: folder for key, (folder, _) in KINDS.items()}, "retention": KINDS["data"][0]}
"""{key: the folder of its classes}"""
TOPS = ("config", "help", "print_config", "seed_everything", "trainer", *FOLDERS)
OF_TRAINER = ("ckpt_path", "weights_only", "return_predictions", "verbose")
"""Arguments of Trainer's methods"""
WITH_HELP = (
    *FOLDERS,
    *(f"trainer.{n}" for n in ("accelerator", "callbacks", "logger", "plugins", "profiler", "strategy")),
)
ENDS = ("ABC", "Generic", "LightningDataModule", "LightningModule", "Module", "Protocol")
"""Base classes whose constructors take no options"""


def refuse_unknown(arguments: list[str]) -> None:
    """Raises UserError for the first key of fit, validate, test or predict that is certainly unknown.

    Args:
        arguments: The command line, the command's name first.
    """
    words = [underscored(word) for word in arguments[1:]]
    if "--" in words or any(word.partition("=")[0] in ELSEWHERE for word in words):
        return
    for word, after in zip(words, [*words[1:], ""], strict=False):
        if (word in ("--config", "-c") and after) or word.startswith("--config="):
            check_yaml(Path(word.partition("=")[2] or after))
    items = list(given.from_arguments(words))
    for item in items:
        if item.value is None or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", item.key):
            continue
        if (error := of_option(item, words) or of_class(item, items)) is not None:
            raise error


def of_option(item: given.Given, words: list[str]) -> UserError | None:
    """The error of a key that is no option's, and below no option that has more names."""
    top, *below = item.key.split(".")
    keys = known_keys()
    tops = {key.partition(".")[0] for key in keys}
    if item.file is None:
        written = any(word.partition("=")[0] == f"--{item.key}" for word in words)
        if not written or any(key.startswith(item.key) for key in keys):  # the parser completes flags
            return None
    if top not in tops:
        return UserError(item.key, f"there is no key '{top}'{nearest(top, tops)}")
    if top == "trainer" and len(below) == 1 and trainer_arguments() and item.key not in keys:
        return UserError(item.key, f"there is no such option{nearest(item.key, keys)}")
    return None


def of_class(item: given.Given, items: list[given.Given]) -> UserError | None:
    """The error of an argument that the class of its block does not have."""
    block, *below = item.key.split(".")
    if below[:1] == ["init_args"]:
        below = below[1:]
    if block not in FOLDERS or len(below) != 1 or below[0] in (*given.PARTS, "help"):
        return None
    named = {str(other.value) for other in items if other.plain == block}
    if len(named) != 1:
        return None
    module, _, name = named.pop().rpartition(".")
    if module and module.partition(".")[0] != PACKAGE.name:
        return None
    taken = arguments_of(FOLDERS[block], name)
    if taken is None or below[0] in taken:
        return None
    return UserError(block, f"{name} has no argument '{below[0]}'{nearest(below[0], taken)}")


# ---- names ----


@cache
def known_keys() -> frozenset[str]:
    """The dotted names of all options of these commands."""
    own = [*TOPS, *OF_TRAINER, *(name for name, *_ in OPTIONS), *(["print_shtab"] if find_spec("shtab") else [])]
    return frozenset([*own, *(f"{key}.help" for key in WITH_HELP), *(f"trainer.{n}" for n in trainer_arguments())])


@cache
def trainer_arguments() -> tuple[str, ...]:
    """The names of Trainer's arguments; empty if its source is not found."""
    package = find_spec("lightning")
    file = Path(package.origin).parent / "pytorch/trainer/trainer.py" if package and package.origin else None
    if file is None or not file.is_file():
        return ()
    found = next((c for c in classes_in(file) if c.name == "Trainer"), None)
    init = None if found is None else constructor(found)
    return () if init is None or init.args.kwarg or init.args.vararg else tuple(named_by(init))


@cache
def homes(folder: str) -> dict[str, list[Path]]:
    """{class: the files of a folder of this package that define it}."""
    found: dict[str, list[Path]] = {}
    for file in sorted((PACKAGE / folder).rglob("*.py")):
        for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.M):
            found.setdefault(name, []).append(file)
    return found


@cache
def classes_in(file: Path) -> list[ast.ClassDef]:
    """The classes that a file defines."""
    return [node for node in ast.parse(file.read_bytes()).body if isinstance(node, ast.ClassDef)]


def constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    """A class's own constructor."""
    return next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)


def named_by(init: ast.FunctionDef) -> Iterator[str]:
    """Names of a constructor's arguments, `self` left out."""
    yield from (arg.arg for arg in [*init.args.posonlyargs, *init.args.args][1:] + init.args.kwonlyargs)


def arguments_of(folder: str, name: str) -> list[str] | None:
    """The arguments of a class and of all bases that they may be passed on to; None if the source does not tell."""
    files = homes(folder).get(name, [])
    if len(files) != 1:
        return None
    found = [node for node in classes_in(files[0]) if node.name == name]
    if len(found) != 1 or found[0].decorator_list:
        return None
    init, names = constructor(found[0]), list[str]()
    if init is not None:
        if init.decorator_list or init.args.vararg:
            return None
        names += named_by(init)
        if init.args.kwarg is None:
            return names
    for base in found[0].bases:
        base = base.value if isinstance(base, ast.Subscript) else base
        called = base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""
        if called not in homes(folder) and called in ENDS:
            continue
        more = arguments_of(folder, called)
        if more is None:
            return None
        names += more
    return names
