"""Reads the constructor arguments of our classes from the source, so that `--help` imports nothing heavy."""

import ast
from pathlib import Path
from typing import Any, NamedTuple

from docstring_parser import DocstringStyle, parse

PACKAGE = Path(__file__).parents[1]
KINDS = {
    "model": ("modules", "SFTModule"),
    "network": ("networks", "Network"),
    "data": ("data", "SFTDataModule"),
}
"""{key: (folder of its classes, their common base class)}"""
NOT_OPTIONS = ("self", "task", "network")


class Argument(NamedTuple):
    """A constructor argument: its description, and its default as help shows it (None if there is none to show)."""

    text: str
    default: str | None


class Classes:
    """The classes of a key (model, network or data), as found in the source."""

    def __init__(self, key: str) -> None:
        folder, self._root = KINDS[key]
        trees = [ast.parse(f.read_bytes()) for f in sorted((PACKAGE / folder).rglob("*.py"))]
        self._found = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}

    @property
    def names(self) -> list[str]:
        """Names that a config may use. Base classes (`class X(…, base=True)`) are left out."""
        bases = {name for name, node in self._found.items() if any(k.arg == "base" for k in node.keywords)}
        return sorted(n for n in self._found.keys() - bases - {self._root} if self._root in self._lineage(n))

    def _lineage(self, name: str) -> list[str]:
        """Returns a class and its bases in this folder, the nearest first."""
        bases = [b.id for b in self._found[name].bases if isinstance(b, ast.Name) and b.id in self._found]
        return [name, *dict.fromkeys(ancestor for base in bases for ancestor in self._lineage(base))]

    def summary(self, name: str) -> str:
        """Returns the first paragraph of a class's docstring, or of its nearest base that has one."""
        texts = [ast.get_docstring(self._found[n]) for n in self._lineage(name)]
        return " ".join(next(filter(None, texts), "").split("\n\n")[0].split())

    def arguments(self, name: str) -> dict[str, Argument]:
        """Returns the class's constructor arguments, with those of the bases to which it passes its `**kwargs`."""
        found: dict[str, Argument] = {}
        for node in map(self._found.__getitem__, self._lineage(name)):
            init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
            if init is None:
                continue
            params = parse(ast.get_docstring(node) or "", style=DocstringStyle.GOOGLE).params
            texts = {p.arg_name: " ".join((p.description or "").split()) for p in params}
            placed = [*init.args.posonlyargs, *init.args.args]
            missing: list[ast.expr | None] = [None] * (len(placed) - len(init.args.defaults))
            pairs = [*zip(placed, [*missing, *init.args.defaults], strict=True)]
            for arg, default in [*pairs, *zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)]:
                if arg.arg not in NOT_OPTIONS:
                    found.setdefault(arg.arg, Argument(texts.get(arg.arg, ""), shown(default)))
            if init.args.kwarg is None:
                break
        return found


def shown(default: ast.expr | None) -> str | None:
    """Turns a default in the source into the text that help shows."""
    if default is None:
        return None
    try:
        return written(ast.literal_eval(default))
    except ValueError:
        return ast.unparse(default)


def written(value: Any) -> str | None:
    """Turns a default into the text that help shows; None for null, which is not shown."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
