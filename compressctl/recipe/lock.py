"""Lock files: a resolved recipe with everything that decided a run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from compressctl.core.errors import UsageError
from compressctl.core.regular_files import read_regular
from compressctl.core.secrets import home_folder
from compressctl.recipe.as_yaml import as_yaml
from compressctl.recipe.loader import read
from compressctl.recipe.nodes import MAX_DEPTH
from compressctl.recipe.schema import Recipe
from compressctl.recipe.strict_yaml import MAX_BYTES

_MAX_DEPTH = MAX_DEPTH + 5
"""A recipe, and what the lock has around it."""


def load_lock(
    path: Path, edit: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe, with its relative paths starting where they did and what a clock decided, and the whole lock. Raises UsageError.

    edit: makes another recipe of it; what a clock decided of the old one's files is not said of that.
    """
    lock = read_lock(path)
    content = with_decided(lock["recipe"], lock.get("decided") or {}) if edit is None else edit(dict(lock["recipe"]))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "recipe.lock.yaml"
        written.write_text(as_yaml(_at_home(content)), encoding="utf-8")
        recipe, _ = read(written)  # nobody wrote its old names by hand
    return replace(recipe, base=Path(_at_home(lock["base"]))), lock


def with_decided(content: Mapping[str, Any], decided: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A resolved recipe whose exports say what a clock decided. decided: options by backend, as in Artifact.decided."""
    entries = content.get("export") or []
    if not decided or not isinstance(entries, list):
        return dict(content)
    return {
        **content,
        "export": [
            {**entry, **decided.get(entry["backend"], {})}
            if isinstance(entry, Mapping) and "backend" in entry
            else entry
            for entry in entries
        ],
    }


def _at_home(value: Any) -> Any:
    """Paths with the home folder of whoever reads it, which a lock calls `~`."""
    if isinstance(value, dict):
        return {key: _at_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner) for inner in value]
    home = home_folder()
    return f"{home}{value[1:]}" if home and isinstance(value, str) and re.match(r"~(/|$)", value) else value


def changed_sources(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Model and data are named by their hashes in the lock, so that a changed file explains a changed figure."""
    return [
        f"the {name}'s files are not those of the first run (their hashes differ)"
        for name in ("model", "data")
        if before.get(f"{name}_sha256") != after.get(f"{name}_sha256")
    ]


def read_lock(path: Path) -> dict[str, Any]:
    """The lock as it stands. Raises UsageError."""
    try:
        lock = _loaded(read_regular(path, MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="name a run's folder") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # no text, an impossible date, brackets in brackets
        lock = None
    if (
        not isinstance(lock, dict)
        or not isinstance(lock.get("recipe"), dict)
        or not isinstance(lock.get("base"), str)
        or not _are_options(lock.get("decided", {}))
    ):
        raise UsageError(f"{path} is not a lock file", hint="`compressctl apply` writes one into each run's folder")
    return lock


def _are_options(decided: Any) -> bool:
    return isinstance(decided, dict) and all(isinstance(options, dict) for options in decided.values())


def _loaded(text: str) -> Any:
    """Raises what yaml does, also for aliases, which no lock has and which say in eight lines more than a machine holds."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH or isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError
    return yaml.load(text, Loader=loader)
