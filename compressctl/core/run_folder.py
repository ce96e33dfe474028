"""Where a run's files go: `runs/<name>/<time>-<hash>/`, or the folder that the user named."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

from compressctl.core.errors import UsageError
from compressctl.core.failures import refusal
from compressctl.core.regular_files import open_regular
from compressctl.core.secrets import without_secrets

_MARK = "events.jsonl"
"""What every run folder holds from its first moment on."""

_LEFT = (
    "artifacts",
    "scratch",
    "temporary",
    "recipe.lock.yaml",
    "recipe.pinned.yaml",
    *(f"report.{ending}" for ending in ("html", "json", "junit.xml", "md", "sarif")),
    _MARK,
)


def make_run_folder(
    output: Path | None, name: str, digest: str, reads: Iterable[Path] = (), recipe_file: Path | None = None
) -> Path:
    """Create the folder and return it. Of an earlier run of the same recipe that lies in the named one, nothing stays: what
    a run leaves is its own. reads: what the run will read, which must not lie there. recipe_file: which must not be what an earlier run left.

    Raises UsageError when the named one holds something else, or what the run reads, MachineError where nothing may be written.
    """
    if output is None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        folder = Path("runs") / name / f"{stamp}-{digest[:8]}"
        while folder.exists():
            folder = folder.with_name(folder.name + "x")
    else:
        folder = output
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file", hint="name a new or empty folder for --output")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).exists():
            raise UsageError(f"{folder} is not empty and holds no run", hint="name a new or empty folder for --output")
        other = _recipe_in(folder)
        if other not in (None, without_secrets(name)):
            raise UsageError(
                f"{folder} holds a run of the recipe {other}, and this one is {name}",
                hint="name a new folder for --output, or remove that one",
            )
        for path in reads if folder.is_dir() else ():
            if folder.resolve() in path.resolve().parents:
                raise UsageError(
                    f"the recipe reads {path}, which lies in the folder of this run", hint="name another --output"
                )
        if recipe_file is not None and recipe_file.name in _LEFT and _lies_in(recipe_file, folder):
            raise UsageError(
                f"{recipe_file} belongs to the run in this folder, which a new one replaces",
                hint="name another --output",
            )
        _clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise refusal(error) or UsageError(
            f"cannot write to {folder}: {error.strerror}", hint="choose another --output"
        ) from error
    return folder


def below(path: Path, folder: Path) -> str:
    """The path relative to the folder, where it lies inside."""
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _lies_in(path: Path, folder: Path) -> bool:
    return path.is_file() and folder.is_dir() and path.parent.samefile(folder)


def _recipe_in(folder: Path) -> str | None:
    """The name of the recipe whose run lies there."""
    try:
        with open_regular(folder / _MARK) as events:
            first = events.readline(1 << 20)
        return str(json.loads(first)["name"]) if first else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _clear(folder: Path) -> None:
    """Take what an earlier run left. Files that somebody put beside it stay."""
    for entry in _LEFT:
        path = folder / entry
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
