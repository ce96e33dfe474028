"""Functions that a recipe names: "file.py:name" next to the recipe, or "package.module:name"."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from compressctl.core.errors import UsageError, in_short
from compressctl.core.failures import refused_in
from compressctl.core.process_state import process_state_kept
from compressctl.core.regular_files import read_regular
from compressctl.sources.fingerprint import existing


def call_factory(factory: str, args: Mapping[str, Any], base: Path) -> Any:
    """What the named function returns. This runs the recipe author's code: only sources called `python` do it.

    Raises UsageError when the function is not found or fails.
    """
    module_name, name = _split(factory)
    with process_state_kept(), _importable(_folder(module_name, base)):
        function = _function(_import(module_name, base, factory), name, factory)
        try:
            return function(**args)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            given = ", ".join(f"{key}={value!r}" for key, value in args.items())
            said = f"{factory} failed when called as {name}({given})"
            raise refused_in(said, error) or UsageError(f"{said}: {in_short(error)}") from error


def author_function(place: str, base: Path) -> Callable[..., Any]:
    """The named function itself, for what calls it again and again. Importing its file runs the recipe author's code.

    Raises UsageError when it is not found.
    """
    module_name, name = _split(place)
    with process_state_kept(), _importable(_folder(module_name, base)):
        return _function(_import(module_name, base, place), name, place)


def code_files(factory: str, base: Path) -> dict[str, Path]:
    """The file that holds the function and the files it imports from the same place, by name; nothing is executed.

    "The same place" is the file's folder, or the package; an installed package is known by its record. Raises UsageError when there is no such file.
    """
    module_name, _ = _split(factory)
    if _is_file(module_name):
        first = existing(_in(base, module_name), what=f"{factory}: the file")
        return _with_imports(first, first.parent, None)
    package = module_name.partition(".")[0]
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise _no_module(factory, module_name)
    if not spec.origin or not spec.origin.endswith(".py"):
        return {}
    origin = Path(spec.origin)
    root = origin.parent.parent if spec.submodule_search_locations else origin.parent
    found = _module_file(module_name, root)
    if found is None:
        raise _no_module(factory, module_name)
    installed = _record(package, root)
    if installed is not None:
        return {found.name: found, "RECORD": installed}
    return _with_imports(found, root, package)


def _record(package: str, root: Path) -> Path | None:
    """The list of an installed package's files with their hashes: following thousands of imports would take seconds."""
    return next(root.glob(f"{package}-*.dist-info/RECORD"), None)


def _split(factory: str) -> tuple[str, str]:
    module_name, colon, name = factory.rpartition(":")
    if not colon or not module_name or not name.isidentifier():
        raise UsageError(f"{factory!r} does not name a function", hint='write "file.py:name" or "package.module:name"')
    return module_name, name


def _is_file(module_name: str) -> bool:
    return module_name.endswith(".py")


def _in(base: Path, path: str) -> Path:
    try:
        return (base / Path(path).expanduser()).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # no file can have that name, or links go in a circle
        raise UsageError(f"{path!r} is not a path: {error}", hint="check the path in the recipe") from error


def _folder(module_name: str, base: Path) -> Path:
    return _in(base, module_name).parent if _is_file(module_name) else base.resolve()


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Imports find the folder first, as when a script in it is run."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _import(module_name: str, base: Path, factory: str) -> ModuleType:
    if not _is_file(module_name):
        return _import_module(module_name, factory)
    path = existing(_in(base, module_name), what=f"{factory}: the file")
    name = f"compressctl_recipe_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{factory}: {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there while it is being imported
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[name]
        raise UsageError(f"{factory}: importing {path} failed: {in_short(error)}") from error
    return module


def _import_module(module_name: str, factory: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise _no_module(factory, module_name) from error
        raise UsageError(f"{factory}: importing {module_name} failed: {in_short(error)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise UsageError(f"{factory}: importing {module_name} failed: {in_short(error)}") from error


def _no_module(factory: str, module_name: str) -> UsageError:
    return UsageError(
        f"{factory}: there is no module {module_name}",
        hint='install it, or name a file next to the recipe as "file.py:name"',
    )


def _function(module: ModuleType, name: str, factory: str) -> Callable[..., Any]:
    if not hasattr(module, name):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise UsageError(f"{factory}: there is no {name} in it", hint=f"it has {', '.join(public)}" if public else None)
    function: Callable[..., Any] = getattr(module, name)
    if not callable(function):
        raise UsageError(f"{factory}: {name} is a {type(function).__name__}, not a function")
    return function


def _with_imports(first: Path, root: Path, package: str | None) -> dict[str, Path]:
    """The file and all it imports, directly or not, that lies under root (in that package, when one is given)."""
    found: dict[str, Path] = {}
    waiting = [first]
    while waiting:
        path = waiting.pop()
        key = path.relative_to(root).as_posix()
        if key in found:
            continue
        found[key] = path
        for name in _imported(path, root):
            if package is None or name.partition(".")[0] == package:
                waiting.extend(filter(None, [_module_file(name, root)]))
    return found


def _imported(path: Path, root: Path) -> Iterator[str]:
    """Absolute names of the modules that a file imports; for `from a import b` both a and a.b."""
    try:
        tree = ast.parse(read_regular(path))
    except (SyntaxError, ValueError, OSError):
        return
    here = path.relative_to(root).with_suffix("").parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            if origin:
                yield origin
            yield from (".".join(filter(None, [origin, alias.name])) for alias in node.names)


def _module_file(name: str, root: Path) -> Path | None:
    stem = root.joinpath(*name.split("."))
    for path in (stem.with_name(stem.name + ".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None
