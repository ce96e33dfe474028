"""Libraries of operators that ONNX Runtime does not bring. Every session of a run knows those that its recipe names, in child
processes too, which inherit the environment. A file never names one: a library is code."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressctl.core.errors import MissingDependencyError, UsageError

VARIABLE = "COMPRESSCTL_CUSTOM_OPS"
EXTENSIONS = "onnxruntime-extensions"
"""The library of the package of that name, wherever it is installed."""


def library(name: str, base: Path) -> Path:
    """The file that `custom_ops` names. Raises UsageError, and MissingDependencyError without onnxruntime-extensions."""
    if name == EXTENSIONS:
        try:
            from onnxruntime_extensions import get_library_path
        except ImportError:
            raise MissingDependencyError("custom_ops", EXTENSIONS, f"pip install {EXTENSIONS}") from None
        return Path(get_library_path())
    path = base / name
    if not path.is_file():
        raise UsageError(f"the library {path} {'is not a file' if path.exists() else 'does not exist'}", hint=_HINT)
    return path.resolve()


_HINT = "custom_ops lists libraries, relative to the recipe, or onnxruntime-extensions"


def name_of(path: str) -> str:
    """As a recipe would name it."""
    return EXTENSIONS if "onnxruntime_extensions" in path else Path(path).name


def known() -> list[str]:
    """The libraries of now."""
    return [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]


@contextmanager
def using(libraries: Sequence[Path]) -> Iterator[None]:
    """Whatever is opened within knows their operators too."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*known(), *map(str, libraries)]))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def register(options: Any) -> Any:
    """The session options, which know the libraries of now. Raises UsageError when one cannot be loaded."""
    for path in known():
        try:
            options.register_custom_ops_library(path)
        except Exception as error:
            reason = str(error).partition("with error: ")[2] or str(error)
            raise UsageError(f"the library {path} cannot be loaded: {reason}", hint=_HINT) from error
    return options
