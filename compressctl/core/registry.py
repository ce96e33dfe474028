"""Names to objects, imported on first use, open to third parties through entry points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from compressctl.core.errors import UsageError, in_short
from compressctl.core.nearest import suggestion

T = TypeVar("T")


def load(path: str) -> Any:
    """Import `"module:attribute"` and return the attribute."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class Plugin:
    """What another package adds under a name. kind: what the name is of. value: the "module:attribute" that is imported."""

    kind: str
    name: str
    package: str
    version: str
    value: str


def plugins_of(kind: str, group: str) -> list[Plugin]:
    """What installed packages add in a group of entry points, sorted by name. Imports nothing of theirs."""
    from importlib.metadata import entry_points

    return sorted(
        (
            Plugin(kind, entry.name, *((entry.dist.name, entry.dist.version) if entry.dist else ("", "")), entry.value)
            for entry in entry_points(group=group)
        ),
        key=lambda plugin: plugin.name,
    )


class Registry(Generic[T]):
    """A name maps to `"module:attribute"`; the module is imported when the name is first asked for.

    kind: what the names are, for messages ("technique"). group: the entry-point group in which other packages add theirs.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._builtin = dict(builtin)

    def names(self) -> list[str]:
        """Every known name, sorted. Imports nothing but the metadata of installed packages."""
        return sorted({*self._builtin, *self._plugins})

    def __contains__(self, name: str) -> bool:
        return name in self._builtin or name in self._plugins

    def get(self, name: str) -> T:
        """The object of that name. Raises UsageError with the nearest names when there is none, and where a plugin's cannot be imported."""
        if name in self._builtin:
            return cast(T, load(self._builtin[name]))
        if name in self._plugins:
            return self._import(self._plugins[name])
        raise UsageError(f"unknown {self.kind} {name!r}", hint=self.nearest(name))

    def plugins(self) -> list[Plugin]:
        """What other packages add, apart from names that are taken."""
        return [plugin for plugin in plugins_of(self.kind, self.group) if plugin.name not in self._builtin]

    def usable(self) -> tuple[dict[str, T], list[UsageError]]:
        """Every object by its name, and what is wrong with the plugins that cannot be imported: they take no other with them."""
        found: dict[str, T] = {}
        errors = []
        for name in self.names():
            try:
                found[name] = self.get(name)
            except UsageError as error:
                errors.append(error)
        return found, errors

    def _import(self, entry: Any) -> T:
        try:
            return cast(T, entry.load())
        except Exception as error:
            package = f" of the package {entry.dist.name}" if entry.dist else ""
            words = f"the {self.kind} {entry.name}{package} cannot be imported ({entry.value}): {in_short(error)}"
            raise UsageError(words, hint="mend or uninstall that package") from error

    def nearest(self, name: str) -> str:
        """A hint that names the closest entry, or all of them when none is close."""
        return suggestion(name, self.names())

    @cached_property
    def _plugins(self) -> Mapping[str, Any]:
        from importlib.metadata import entry_points

        return {entry.name: entry for entry in entry_points(group=self.group)}
