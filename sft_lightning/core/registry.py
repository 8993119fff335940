"""Registries of tasks, networks, data modules and variants: defining a class registers it under its name."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import walk_packages
from typing import Generic, TypeVar, cast

from sft_lightning.core.errors import UserError, nearest

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Holds classes of one kind by name, in the order of their definition.

    Args:
        kind: Name of the kind, for messages.
        key: Key under which a user names a class, for errors; the kind by default.
    """

    def __init__(self, kind: str, key: str | None = None) -> None:
        self.kind, self.key = kind, key or kind
        self._classes: dict[str, type[T]] = {}

    def add(self, name: str, cls: type[T]) -> None:
        """Registers a class. If the same class is defined again, as in a notebook, the new one replaces the old.

        Raises:
            TypeError: Another class has the name.
        """
        known = self._classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{self.kind} '{name}' is defined twice: in {known.__module__} and in {cls.__module__}")
        self._classes[name] = cls

    def add_class(self, cls: type[T]) -> None:
        """Registers a class under its own name, or under its dotted path if another class has that name already."""
        known = self._classes.get(cls.__name__)
        taken = known is not None and known.__module__ != cls.__module__
        self._classes[f"{cls.__module__}.{cls.__qualname__}" if taken else cls.__name__] = cls

    def find(self, name: str) -> type[T]:
        """Returns the class of a name. Raises UserError for an unknown name and suggests the nearest known one."""
        if name not in self._classes:
            raise UserError(self.key, f"no {self.kind} '{name}'{nearest(name, self)}; there are {', '.join(self)}")
        return self._classes[name]

    def load(self, path: str, base: type) -> type[T]:
        """Returns the class of a short name or a dotted path. Raises UserError if there is no such class below `base`."""
        module, _, name = path.rpartition(".")
        if not module:
            return self.find(name)
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise UserError(self.key, f"no class '{path}' ({error}){nearest(name, self)}") from None
        if not (isinstance(found, type) and issubclass(found, base)):
            raise UserError(self.key, f"'{path}' must be a {base.__name__}", f"use one of {', '.join(self)}")
        return cast("type[T]", found)

    def __getitem__(self, name: str) -> type[T]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


def refuse_renamed(cls: type, renamed: Mapping[str, str]) -> None:
    """Raises TypeError if a class defines a method under its old name; `renamed` maps old names to new ones."""
    for old in renamed.keys() & vars(cls).keys():
        raise TypeError(
            f"{cls.__name__}.{old}: this method is now called {renamed[old]}; under the old name it would never be called"
        )


def discover(package: str) -> None:
    """Imports every module of a package and its subpackages, so that their classes are registered."""
    for module in walk_packages(import_module(package).__path__, f"{package}."):
        import_module(module.name)
