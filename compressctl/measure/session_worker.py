"""The child process of session_host.py: `python -m compressctl.measure.session_worker`.

It opens files, runs them, times them against each other, and says how they are executed. An error of ours goes back as an answer;
the process ends with its standard input.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.backend import Artifact, Backend, Session, backends
from compressctl.core.errors import CompressctlError
from compressctl.core.freed_memory import give_back
from compressctl.core.registry import load
from compressctl.core.target import Target
from compressctl.measure.energy import check_meter
from compressctl.measure.frames import answers, receive, send
from compressctl.measure.quick_latency import joules_in_turn, time_in_turn
from compressctl.measure.turns import unpacked


class _Worker:
    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}
        self._calls: dict[int, Callable[[], object]] = {}
        self._numbers = count()

    def answer(
        self, asked: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if "open" in asked:
            number = next(self._numbers)
            backend, artifact, target = _named(asked["open"], asked["target"])
            self._sessions[number] = backend.open(artifact, target)
            return {"number": number}, {}
        if "run" in asked:
            return {}, self._sessions[asked["run"]].run(arrays)
        if "repeat" in asked:
            session = self._sessions[asked["repeat"]]
            self._calls[asked["repeat"]] = _all([session.repeat(call) for call in unpacked(arrays)])
            return {}, {}
        if "time" in asked:
            return asdict(time_in_turn([self._calls[number] for number in asked["time"]])), {}
        if "count" in asked:
            meter = check_meter(asked["device"])
            return {"joules": joules_in_turn([self._calls[number] for number in asked["count"]], meter.read)}, {}
        if "explain" in asked:
            backend, artifact, target = _named(asked["explain"], asked["target"])
            return {"nodes": [asdict(node) for node in backend.explain(artifact, target, asked["inputs"])]}, {}
        self._sessions.pop(asked["close"], None)
        self._calls.pop(asked["close"], None)
        give_back()
        return {}, {}


def _all(calls: list[Callable[[], object]]) -> Callable[[], object]:
    """One call after the other."""

    def run() -> None:
        for call in calls:
            call()

    return calls[0] if len(calls) == 1 else run


def _named(artifact: dict[str, Any], target: dict[str, Any]) -> tuple[Backend, Artifact, Target]:
    path = Path(artifact["path"])
    shapes = {name: tuple(shape) for name, shape in target["input_shapes"].items()}
    backend: Backend = load(backends.get(artifact["backend"]).implementation)
    return backend, Artifact(artifact["backend"], path, (path,)), Target(**{**target, "input_shapes": shapes})


def main() -> None:
    channel, worker = answers(), _Worker()
    while (found := receive(sys.stdin.buffer)) is not None:
        try:
            message, arrays = worker.answer(*found)
        except CompressctlError as error:
            send(channel, {"error": type(error).__name__, "message": error.message, "hint": error.hint})
        except Exception as error:  # the other side translates it; this process goes on
            send(channel, {"error": "StageError", "message": f"{type(error).__name__}: {error}", "hint": None})
        else:
            send(channel, message, arrays)


if __name__ == "__main__":
    main()
