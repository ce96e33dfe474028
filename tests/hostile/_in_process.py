"""Hostile input for a command or a reader in this process, where a process of its own is not the point: what holds for each of them."""

import io
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hostile._case import LONGEST_MESSAGE, is_legible, names
from support.shell import Finished
from typer.testing import CliRunner

from compressctl.cli.main import app
from compressctl.core.errors import CompressctlError, ExitCode

MOST_MEMORY, MOST_SECONDS = 512 << 20, 60


def refuses(folder: Path, *arguments: str, says: str, code: int = 2) -> Finished:
    """The command, run in the folder, ends with that code and one message that says so, and leaves nothing."""
    done = ends(folder, *arguments, code=code)
    assert says in done.err, (done.err, done.out)
    return done


def ends(folder: Path, *arguments: str, code: int = 0) -> Finished:
    """The command ends with that code, within bounds, legibly, and leaves nothing. folder: the current one."""
    before = names(folder)
    with bounded():
        result = CliRunner().invoke(app, list(arguments))
    done = Finished(result.exit_code, result.stdout, result.stderr)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert done.code == code, (done.code, done.err, done.out)
    is_legible(done)
    assert names(folder) == before
    return done


def refused(read: Callable[[], object], says: str) -> None:
    """A reader refuses: with one of our own errors, exit code 2, a short message and no memory."""
    error: CompressctlError | None = None
    with bounded():
        try:
            read()
        except CompressctlError as caught:
            error = caught
    assert error is not None
    assert error.exit_code == ExitCode.USAGE
    assert says in str(error)
    assert len(str(error).encode(errors="backslashreplace")) <= LONGEST_MESSAGE


@contextmanager
def bounded() -> Iterator[None]:
    """In time and memory."""

    def too_slow(*_: object) -> None:
        raise AssertionError(f"still reading after {MOST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(MOST_SECONDS)
    limit = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/status")
    if status.exists():
        # What is refused here ends as MemoryError, and so with another exit code.
        taken = next(line for line in status.read_text().splitlines() if line.startswith("VmSize")).split()[1]
        resource.setrlimit(resource.RLIMIT_AS, ((int(taken) << 10) + MOST_MEMORY, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def stored(**arrays: bytes) -> bytes:
    """An archive of such members."""
    import zipfile

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()
