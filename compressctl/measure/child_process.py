"""A child process that answers questions, and how it ended, in words, where native code took it along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from compressctl.core.errors import CrashError
from compressctl.measure.frames import receive, send

_RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "ONNX Runtime, which stands in for TensorRT,",
}


class ChildProcess:
    """`python -m module`. It ends with `end`, or when nobody holds it any more."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, **(environment or {})},
        )
        self.end = weakref.finalize(self, _end, self._process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            send(self._process.stdin, question, arrays)

    def hear(self, doing: str, backend: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The answer to the oldest question. doing: what is said to have been going on where the process ended, as in
        "opening m.onnx". Raises CrashError then.
        """
        assert self._process.stdout is not None
        found = receive(self._process.stdout)
        if found is None:
            returncode = self._process.wait()
            self._said.seek(0)
            said = self._said.read().decode(errors="replace")
            self.end()
            raise CrashError(died(returncode, said, doing, backend))
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    """Without waiting for the pipes to end: a runtime's own child process may hold them open."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def died(returncode: int, said: str, doing: str, backend: str) -> str:
    """returncode: as subprocess gives it, negative for a signal. said: its standard error. doing: as in "opening m.onnx".

    A signal is native code's doing: it crashed, or the system killed it.
    """
    who = _RUNTIMES.get(backend, backend)
    if returncode < 0:
        name = signal.Signals(-returncode).name
        if name == "SIGKILL":
            return (
                f"the process was killed (SIGKILL) while {who} was {doing}: most likely the machine ran out of memory"
            )
        return f"{who} crashed ({name}) while {doing}"
    # A traceback's indented lines, and an error's hint, are not what went wrong.
    lines = [line for line in said.splitlines() if line.strip() == line != ""]
    what = lines[-1].removeprefix("compressctl.core.errors.") if lines else f"exit code {returncode}, no message"
    return f"the process ended while {doing}: {what}"
