"""A hostile case: a command with limits on time and memory, and what holds whatever it was given.

    def test_an_empty_file(case: Case) -> None:
        (case.folder / "empty.onnx").touch()
        case.refuses("inspect", "empty.onnx", code=2, says="empty.onnx")

`case` is a fixture of tests/hostile/conftest.py. A process is a fork that has imported everything (tests/support/warm.py): some 0.1 s.
"""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from support import warm
from support.shell import Finished

LONGEST_MESSAGE = 2000
"""Bytes on stderr, all lines together."""


@dataclass(frozen=True)
class Case:
    """root: a fresh folder. Commands run in `folder`; home, temporary folder and cache are their own and lie beside it."""

    root: Path

    def __post_init__(self) -> None:
        for folder in (self.folder, self.home, self.temporary):
            folder.mkdir()

    @property
    def folder(self) -> Path:
        return self.root / "work"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def environment(self, **more: str) -> dict[str, str]:
        own = {"HOME": str(self.home), "TMPDIR": str(self.temporary), "COMPRESSCTL_CACHE": str(self.cache)}
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
        return {**kept, **own, **more}

    def refuses(
        self,
        *arguments: str,
        code: int,
        says: str | Sequence[str],
        leaves: Sequence[str] = (),
        seconds: float = 60,
        memory_bytes: int = 2 << 30,
        first: Callable[[], None] | None = None,
        **environment: str,
    ) -> Finished:
        """The command ends with that code and a message that says so; see `ends`."""
        done = self.ends(
            *arguments,
            code=code,
            leaves=leaves,
            seconds=seconds,
            memory_bytes=memory_bytes,
            first=first,
            **environment,
        )
        for words in [says] if isinstance(says, str) else says:
            assert words in done.err, done.err
        return done

    def ends(
        self,
        *arguments: str,
        code: int,
        leaves: Sequence[str] = (),
        seconds: float = 60,
        memory_bytes: int = 2 << 30,
        first: Callable[[], None] | None = None,
        **environment: str,
    ) -> Finished:
        """The command ends with that code, within its limits, legibly, and leaves nothing but what is named.

        leaves: names in the folder that may be new. seconds: a bound, generous for a busy machine. memory_bytes: what it may take beside
        what every process has. first: a function of a test module that the process calls before the command.
        """
        before = names(self.folder)
        process = self.start(*arguments, memory_bytes=memory_bytes, first=first, **environment)
        done = self.finish(process, code, seconds)
        self.is_clean(names(self.folder) - before - set(leaves), code)
        return done

    def start(
        self,
        *arguments: str,
        memory_bytes: int = 2 << 30,
        first: Callable[[], None] | None = None,
        **environment: str,
    ) -> warm.Running:
        """The command as it runs, to send signals to or to take folders from; then `finish` it."""
        return warm.start(_limited, (memory_bytes, first, *arguments), self.folder, self.environment(**environment))

    def finish(self, process: warm.Running, code: int, seconds: float = 60) -> Finished:
        """It ends with that code, in time and legibly."""
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.005)
        if process.poll() is None:
            process.kill()
            raise AssertionError(f"still running after {seconds} s: {process.communicate()}")
        out, err = process.communicate()
        done = Finished(process.wait(), out, err)
        assert done.code == code, (done.code, done.err, done.out[-1000:])
        is_legible(done)
        return done

    def is_clean(self, new: set[str], code: int) -> None:
        """Nothing is left: no scratch, no half-written file, nothing in the home or temporary folder (but a bug's traceback)."""
        assert not new, new
        assert not names(self.home), names(self.home)
        assert not {name for name in names(self.temporary) if code != 70 or "error" not in name}, names(self.temporary)
        half_written = [
            path for place in (self.folder, self.cache) for path in place.rglob(".*") if path.name != ".lock"
        ]
        assert not half_written, half_written
        assert not list(self.folder.rglob("scratch"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def is_legible(done: Finished) -> None:
    """No traceback; one short message where it failed; nothing that a terminal or a CI job would obey."""
    for text in (done.out, done.err):
        assert "Traceback" not in text, text[:4000]
        control = {char for char in text if not (char.isprintable() or char in "\n\t")}
        assert not control, (control, text[:4000])
        assert not [line for line in text.splitlines() if line.startswith("::")], text[:4000]
    assert len(done.err.encode()) <= LONGEST_MESSAGE, done.err[:4000]
    assert done.err.strip() or done.code == 0


def _limited(memory_bytes: int, first: Callable[[], None] | None, *arguments: str) -> None:
    """The command line in this process, which may take so much more memory, and which permissions hold for, though it be root's."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _give_up_rights()
    status = Path("/proc/self/status")
    if status.exists():
        taken = (
            int(next(line for line in status.read_text().splitlines() if line.startswith("VmData")).split()[1]) << 10
        )
        resource.setrlimit(resource.RLIMIT_DATA, (taken + memory_bytes,) * 2)
    if first is not None:
        first()
    warm.command_line(*arguments)


def _give_up_rights() -> None:
    """What Linux lets root do in spite of permissions, here and in all that this process starts. Without effect for other users."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(28, 3, 0, 0, 0)  # PR_SET_SECUREBITS: a root that starts a program gets no rights by it
    # CAP_SETFCAP opens no file, and without it root cannot take mounts of its own (_kernel.py).
    header, left = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(1 << 31, 1 << 31)
    libc.capset(header, left)
