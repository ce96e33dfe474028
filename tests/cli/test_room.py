"""A machine without room for numpy: one message, and an exit code that nothing else has."""

import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from compressctl.cli import room
from compressctl.core.errors import ExitCode, MachineError


@pytest.mark.parametrize(
    ("megabytes", "command"),
    [
        (100, "inspect model.onnx"),
        (160, "inspect model.onnx"),
        (250, "inspect model.onnx"),
        (500, "apply builtin:quickstart"),
        (1000, "apply builtin:quickstart"),
    ],
)
def test_too_little_address_space_is_the_machines(megabytes: int, command: str, tmp_path: Path) -> None:
    """OpenBLAS would end the process with 1, with more room send it SIGINT or try forever, and torch would crash."""
    most = (megabytes << 20, megabytes << 20)
    done = subprocess.run(
        [sys.executable, "-m", "compressctl", *command.split()],
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, most),
        capture_output=True,
        text=True,
    )
    assert done.returncode == ExitCode.MACHINE
    assert "ulimit -v" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_no_threads_for_numpy_is_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(MachineError, match="no more threads"):
        room._check_threads()


def test_what_needs_no_numpy_works_in_little_space() -> None:
    most = (100 << 20, 100 << 20)
    done = subprocess.run(
        [sys.executable, "-m", "compressctl", "--help"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, most),
        capture_output=True,
    )
    assert done.returncode == 0
