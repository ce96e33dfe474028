"""A fresh process that serves one artifact: `python -m compressctl.measure.latency_worker`, see child_process.py.

It loads nothing but the runtime, so that its memory is the runtime's. The first message names the artifact. Each further one
asks for one thing: {"open": {...}} opens it at an operating point and gives the seconds that took; {"inputs": true} brings what
inferences are given from now on, one or several that take turns; {"runs": n} runs n timed inferences and gives their seconds, the processor seconds and the joules that
they took together; {"alternate": {...}} opens another file beside this one and gives both median seconds, by round, of calls that
take turns; {"close": true} closes it until it is opened again; {"memory": true} gives the peaks so far.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.measure.frames import answers, receive, send
from compressctl.measure.peak import peak_bytes
from compressctl.measure.turns import typical, unpacked


def main() -> None:
    channel = answers()
    job = _asked()[0]
    from compressctl.core.backend import Artifact, backends
    from compressctl.core.freed_memory import give_back
    from compressctl.core.registry import load
    from compressctl.core.target import Target
    from compressctl.measure.energy import Meter, find_meter

    backend = load(backends.get(job["backend"]).implementation)
    backend.probe()
    __import__(job["runtime_module"])
    with suppress(Exception):
        # Brings in all code that opening needs, so that what is timed later is the file.
        backend.open(Artifact(job["backend"], Path("absent"), ()), Target(job["backend"]))
    before = loaded = peak_bytes()
    path = Path(job["path"])
    artifact = Artifact(job["backend"], path, (path,))
    meter = find_meter(job["device"])
    send(channel, {"meter": getattr(meter, "source", None), "reason": getattr(meter, "reason", None)})
    session: Any = None
    call: Callable[[], object] = dict
    is_first = True
    while True:
        asked, inputs = _asked()
        if "open" in asked:
            point = asked["open"]
            session, call = None, dict
            give_back()
            if point["cpus"] and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, point["cpus"])
            started = time.perf_counter()
            session = backend.open(artifact, Target(**point["target"]))
            seconds = time.perf_counter() - started
            loaded = peak_bytes() if is_first else loaded
            is_first = False
            send(channel, {"seconds": seconds})
        elif "inputs" in asked:
            call = _in_turn(session, inputs)
            send(channel, {})
        elif "runs" in asked:
            send(channel, _block(call, asked["runs"], meter.read if isinstance(meter, Meter) else None))
        elif "alternate" in asked:
            with_ = asked["alternate"]
            send(channel, _alternate((_opened(with_, inputs), call), with_["rounds"], with_["runs"], with_["inputs"]))
        elif "close" in asked:
            session, call = None, dict
            give_back()
            send(channel, {})
        else:
            send(channel, {"before_bytes": before, "load_peak_bytes": loaded, "run_peak_bytes": peak_bytes()})


def _block(call: Callable[[], object], runs: int, joules: Any) -> dict[str, Any]:
    """One run goes untimed: it fetches back what the other process's turn pushed out of the caches."""
    call()
    if isinstance(call, _Turns):
        call.restart()  # so that every block begins with the same input
    seconds = []
    energy, cpu = joules() if joules else None, time.process_time()
    for _ in range(runs):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "joules": None if joules is None else joules() - energy,
    }


def _opened(point: dict[str, Any], inputs: dict[str, np.ndarray]) -> Callable[[], object]:
    """The call of another file, on inputs of its own."""
    from compressctl.core.backend import Artifact, backends
    from compressctl.core.registry import load
    from compressctl.core.target import Target

    path = Path(point["path"])
    artifact = Artifact(point["backend"], path, (path,))
    session = load(backends.get(point["backend"]).implementation).open(artifact, Target(**point["target"]))
    return _in_turn(session, inputs)


def _in_turn(session: Any, inputs: dict[str, np.ndarray]) -> Callable[[], object]:
    """The session's call; of several inputs the next one's each time."""
    calls = [session.repeat(one) for one in unpacked(inputs)]
    return calls[0] if len(calls) == 1 else _Turns(calls)


class _Turns:
    """Calls that follow each other, round and round."""

    def __init__(self, calls: list[Callable[[], object]]) -> None:
        self._calls = calls
        self.restart()

    def restart(self) -> None:
        """The first is the next."""
        self._next = cycle(self._calls)

    def __call__(self) -> object:
        return next(self._next)()


def _alternate(
    calls: tuple[Callable[[], object], Callable[[], object]], rounds: int, runs: int, inputs: int
) -> dict[str, list[float]]:
    """Calls of two files, one by one in turn, so that each finds in the caches what the other left. The first pair goes untimed."""
    found: dict[str, list[float]] = {"before": [], "after": []}
    for _ in range(rounds):
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs + 1):
            for call, taken in zip(calls, seconds, strict=True):
                started = time.perf_counter()
                call()
                taken.append(time.perf_counter() - started)
        for name, taken in zip(found, seconds, strict=True):
            found[name].append(typical(taken[1:], inputs))
    return found


def _asked() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The next message, with its arrays. Ends the process where there is none."""
    return receive(sys.stdin.buffer) or sys.exit()


if __name__ == "__main__":
    main()
