"""Registries of models and data sets: one decorator, lazy discovery, entry points for third parties."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from fedrec.errors import UnknownNameError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects of one kind.

    Built-ins are the modules of ``package``: a new file there is found without being listed anywhere.
    Third parties publish theirs under the entry point group ``package``.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._items: dict[str, T] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorate an object so that ``get(name)`` finds it; a name is taken once."""

        def add(item: T) -> T:
            if name in self._items and self._items[name] is not item:
                raise UnknownNameError(f"The {self.kind} name '{name}' is registered twice; rename one of the two.")
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """The object registered as ``name``.

        Raises:
            UnknownNameError: with the closest known name.
        """
        if name not in self._items:
            self._import_module(name)
        if name not in self._items:
            self._import_all()
        if name not in self._items:
            raise UnknownNameError(f"Unknown {self.kind} '{name}'. {did_you_mean(name, self._items)}")
        return self._items[name]

    def names(self) -> list[str]:
        """Every known name, sorted."""
        self._import_all()
        return sorted(self._items)

    def _import_module(self, name: str) -> None:
        """Import the built-in module of that name alone, which keeps start-up quick."""
        module = f"{self.package}.{name.replace('-', '_')}"
        if name.replace("-", "_").isidentifier() and importlib.util.find_spec(module) is not None:
            importlib.import_module(module)

    def _import_all(self) -> None:
        if self._complete:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for point in entry_points(group=self.package):
            self.register(point.name)(point.load())
        self._complete = True


MODELS: Registry[Any] = Registry("model", "fedrec.models")
"""Recommender classes; each carries its config class as ``Config``."""

SOURCES: Registry[Any] = Registry("data set", "fedrec.data.sources")
"""Data sources (`fedrec.data.source.Source`); each carries its config class as ``Config``."""
