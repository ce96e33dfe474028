"""Room for native libraries, asked for before the first of them is loaded: where there is none, OpenBLAS ends the process with 1, or
sends it SIGINT as Ctrl-C does, and neither can be told from what these say of a run."""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from compressctl.core.errors import MachineError

_NUMPY_BYTES = 256 << 20
_MOST_THREADS = 64
"""So many OpenBLAS starts at most, as numpy's wheels are built."""


def ask_for_room_before_numpy() -> None:
    """The first import of numpy in this process raises MachineError where it would not survive it."""
    sys.meta_path.insert(0, _BeforeNumpy())


class _BeforeNumpy(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds nothing: the next one does."""
        if fullname == "numpy":
            sys.meta_path.remove(self)
            _check_room()
        return None


def _check_room() -> None:
    """With all threads at once, whose stacks are part of it. Nothing of it is written to."""
    end = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(min(os.cpu_count() or 1, _MOST_THREADS)):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
        mmap.mmap(-1, _NUMPY_BYTES).close()
    except RuntimeError:
        raise MachineError(
            "no more threads can be started, or there is no memory for them",
            hint="raise the limit (`ulimit -a` shows it), or close other programs",
        ) from None
    except OSError:
        raise MachineError(
            f"less than {_NUMPY_BYTES >> 20} MB of address space are left, which numpy alone needs",
            hint="raise the limit (`ulimit -v`), or close other programs",
        ) from None
    finally:
        end.set()
        for thread in started:
            thread.join()
