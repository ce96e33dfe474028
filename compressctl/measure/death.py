"""How a child process ended, in words."""

from __future__ import annotations

import signal

_RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "tensorrt": "ONNX Runtime, which stands in for TensorRT,",
}


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
