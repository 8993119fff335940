"""Packages whose own `__init__` waits until something of it is used.

Lightning imports torchmetrics, whose `__init__` imports every metric there is, and with them transformers, torchvision and
scipy.signal where these are installed: a fifth of a command's CPU time before its first step. A run needs its base class and
a few metrics. W&B imports its launcher and its public API at each start, to ask whether a launched job has staged inputs.
Nothing is left out: the first use of any other name runs the `__init__` as it is.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from logging import Logger, getLogger
from threading import RLock
from types import ModuleType
from typing import Any

Homes = Mapping[str, str | Logger]
"""{name: the module that defines it, or its value} of names that do not need the package's `__init__`"""
PACKAGES: dict[str, Homes] = {
    "torchmetrics": {
        "Metric": "torchmetrics.metric",
        "MetricCollection": "torchmetrics.collections",
        "__version__": "torchmetrics.__about__",
        "_logger": getLogger("torchmetrics"),
    },
    "torchmetrics.functional": {},
    "wandb.sdk.launch": {},
}
FIRST = {"torchmetrics": "torchmetrics.utilities"}
"""What must be imported before a module of a package, as its `__init__` would"""
_lock = RLock()


class Waiting(ModuleType):
    """A package before its `__init__` ran."""

    _waits: Loader | None = None
    _homes: Homes = {}

    def __getattr__(self, name: str) -> Any:
        with _lock:
            if name in self.__dict__:  # another thread was first
                return self.__dict__[name]
            if name in self._homes and self._waits is not None:
                return self.__dict__.setdefault(name, self._light(self._homes[name], name))
            if self._waits is None or (name.startswith("__") and name != "__all__"):  # asked of any module, by inspect
                raise AttributeError(f"module '{self.__name__}' has no attribute '{name}'")
            self._begin()
            return getattr(self, name)

    def _light(self, home: str | Logger, name: str) -> Any:
        """Returns a name that does not need the `__init__`."""
        if not isinstance(home, str):
            return home
        import_module(FIRST.get(self.__name__, home))
        return getattr(import_module(home), name)

    def __dir__(self) -> list[str]:
        with _lock:
            self._begin()
        return sorted(self.__dict__)

    def _begin(self) -> None:
        """Runs the package's `__init__`, once."""
        loader, self._waits = self._waits, None
        if loader is None:
            return
        try:
            loader.exec_module(self)
        except BaseException:
            self._waits = loader
            raise


class Waits(Loader):
    """Loads a package without its `__init__`."""

    def __init__(self, loader: Loader, homes: Homes) -> None:
        self.loader, self.homes = loader, homes

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Waiting(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        assert isinstance(module, Waiting) and module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        module._waits, module._homes = self.loader, self.homes


class Finder(MetaPathFinder):
    """Finds these packages, and makes them wait."""

    def __init__(self, packages: Mapping[str, Homes]) -> None:
        self.packages = packages

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = Waits(spec.loader, self.packages[name])
        return spec


def make_wait(packages: Mapping[str, Homes] = PACKAGES) -> None:
    """From now on, imports of these packages do not run their `__init__`. One that is imported already stays as it is."""
    sys.meta_path.insert(0, Finder(packages))
