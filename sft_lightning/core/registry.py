"""Registries: to define a class of a kind (task, network, data module, variant) is to register it."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import walk_packages
from typing import Generic, TypeVar

from sft_lightning.core.errors import UserError, nearest

T = TypeVar("T")


class Registry(Mapping[str, type[T]], Generic[T]):
    """Classes of one kind by name, in the order of their definition.

    Args:
        kind: What they are, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def add(self, name: str, cls: type[T]) -> None:
        """Registers a class. Defining the same class again, as a notebook does, replaces it.

        Raises:
            TypeError: Another class has the name.
        """
        known = self._classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise TypeError(f"{self.kind} '{name}' is defined twice: in {known.__module__} and in {cls.__module__}")
        self._classes[name] = cls

    def add_class(self, cls: type[T]) -> None:
        """Registers a class under its own name; under its dotted path where another class has that name already."""
        known = self._classes.get(cls.__name__)
        taken = known is not None and known.__module__ != cls.__module__
        self._classes[f"{cls.__module__}.{cls.__qualname__}" if taken else cls.__name__] = cls

    def find(self, name: str) -> type[T]:
        """The class that a name stands for. Raises UserError for an unknown one, with the nearest that exists."""
        if name not in self._classes:
            raise UserError(self.kind, f"no {self.kind} '{name}'{nearest(name, self)}; there are {', '.join(self)}")
        return self._classes[name]

    def __getitem__(self, name: str) -> type[T]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


def refuse_renamed(cls: type, renamed: Mapping[str, str]) -> None:
    """Raises TypeError where a class defines a method under the name that an earlier version called it by: old name to new."""
    for old in renamed.keys() & vars(cls).keys():
        raise TypeError(f"{cls.__name__}.{old}: this method is called {renamed[old]} now, and would be passed over")


def discover(package: str) -> None:
    """Imports every module of a package, and of the packages in it, so that what they define is registered."""
    for module in walk_packages(import_module(package).__path__, f"{package}."):
        import_module(module.name)
