"""Room for native libraries, asked for before they are loaded. Where there is none, OpenBLAS ends the process with 1, sends it SIGINT
as Ctrl-C does, or tries forever, and torch crashes: none of it can be told from what these say of a run."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from compressctl.core.errors import MachineError

_MOST_THREADS = 64
"""So many OpenBLAS starts at most, as numpy's wheels are built."""

_THREADS = min(os.cpu_count() or 1, _MOST_THREADS)
_OPENBLAS = (256 << 20) + _THREADS * (16 << 20)
_NEEDS = {"numpy": _OPENBLAS, "scipy": _OPENBLAS, "torch": 1400 << 20}
"""Bytes of address space, to load it and to do a little with it: at 1 GB torch crashes now and then while it exports a small network.
numpy and scipy have an OpenBLAS each."""


def ask_for_room_before_libraries() -> None:
    """The first import of one in this process raises MachineError where it would not survive it."""
    sys.meta_path.insert(0, _BeforeLibraries())


class _BeforeLibraries(MetaPathFinder):
    def __init__(self) -> None:
        self._waiting = dict(_NEEDS)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds nothing: the next one does."""
        needed = self._waiting.pop(fullname, None)
        if needed is not None:
            _check_room(fullname, needed)
        return None


def _check_room(library: str, needed: int) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit - _taken() < needed:
        raise MachineError(
            f"{max(0, limit - _taken()) >> 20} MB of address space are left, and {library} needs {needed >> 20} MB",
            hint="raise the limit (`ulimit -v`)",
        )
    if library == "numpy":
        _check_threads()


def _taken() -> int:
    """Bytes of this process's address space."""
    import psutil

    return int(psutil.Process().memory_info().vms)


def _check_threads() -> None:
    """As many as OpenBLAS starts, all at once."""
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(_THREADS):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise MachineError(
            "no more threads can be started, or there is no memory for them",
            hint="raise the limit (`ulimit -a` shows it), or close other programs",
        ) from None
    finally:
        end.set()
        for thread in started:
            thread.join()
