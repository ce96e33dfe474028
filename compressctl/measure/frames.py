"""Messages between two processes: one line of JSON, then the bytes of the arrays that it names."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

_LOOK_SECONDS = 2.0


def send(stream: IO[bytes], message: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """message: anything JSON holds, without the key "arrays". Strings travel in the JSON, numbers as bytes."""
    described, blobs = [], []
    for name, array in (arrays or {}).items():
        entry: dict[str, Any] = {"name": name, "dtype": array.dtype.str, "shape": list(array.shape)}
        if array.dtype.kind in "OUS":
            entry |= {"dtype": "O", "strings": [str(value) for value in array.reshape(-1).tolist()]}
        else:
            blobs.append(np.ascontiguousarray(array).tobytes())
        described.append(entry)
    stream.write(json.dumps({**message, "arrays": described}).encode() + b"\n")
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """The next message and its arrays by name; None where the other side has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        return None
    message: dict[str, Any] = json.loads(line)
    arrays = {}
    for entry in message.pop("arrays"):
        shape = tuple(entry["shape"])
        if entry["dtype"] == "O":
            arrays[entry["name"]] = np.array(entry["strings"], dtype=object).reshape(shape)
            continue
        dtype = np.dtype(entry["dtype"])
        data = bytearray(dtype.itemsize * int(np.prod(shape, dtype=np.int64)))
        if stream.readinto(data) != len(data):  # type: ignore[attr-defined]
            return None
        arrays[entry["name"]] = np.frombuffer(data, dtype).reshape(shape)
    return message, arrays


def answers() -> IO[bytes]:
    """The child's channel for answers; what a runtime prints goes to standard error from now on.

    The child ends with its parent, also in the middle of an answer that never comes: a model may loop forever, and whoever asked
    be killed.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return channel


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)
