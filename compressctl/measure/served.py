"""The parent's side of a process that serves one artifact, see latency_worker.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

from compressctl.core.backend import Artifact
from compressctl.core.errors import StageError
from compressctl.core.model import Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.measure.results import Memory


@dataclass(frozen=True)
class Block:
    """seconds: of each run. cpu_seconds, joules: of all runs together; joules None where there is no meter."""

    seconds: list[float]
    cpu_seconds: float
    joules: float | None


class Served:
    """One process that serves one artifact, at one operating point after another. Raises StageError when it ends.

    load_seconds: how long opening it took the first time, None before that.
    """

    def __init__(self, artifact: Artifact, device: str, most_threads: int) -> None:
        limits = {name: str(most_threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self._name = artifact.path.name
        self.load_seconds: float | None = None
        self._process = subprocess.Popen(
            [sys.executable, "-m", "compressctl.measure.latency_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **limits},
        )
        self._say(
            {
                "backend": artifact.backend,
                "path": str(artifact.path),
                "device": device,
                "runtime_module": artifact.backend,
            }
        )

    def meter(self) -> tuple[str | None, str | None]:
        """What counts energy, or why nothing does. The first answer: it waits until the process has started."""
        started = self._hear()
        return started["meter"], started["reason"]

    def open(self, target: Target, signature: Signature) -> None:
        point = {**_opening(target, signature), "cpus": _pinned(threads_of(target))}
        seconds = float(self._ask({"open": point})["seconds"])
        self.load_seconds = seconds if self.load_seconds is None else self.load_seconds

    def run(self, runs: int) -> Block:
        return Block(**self._ask({"runs": runs}))

    def alternate(
        self, other: Artifact, target: Target, signature: Signature, rounds: int, runs: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Median seconds of the other file's calls and of this one's, by round: both in this process, call by call in turn.

        Opens the other file beside the open one, so that the peaks of memory are asked for before. signature: the other's.
        """
        point = _opening(target, signature)
        place = {"backend": other.backend, "path": str(other.path)}
        found = self._ask({"alternate": {**point, **place, "rounds": rounds, "runs": runs}})
        return np.array(found["before"]), np.array(found["after"])

    def memory(self) -> Memory:
        found = self._ask({"memory": True})
        return Memory(found["before"], found["load_peak"], found["run_peak"])

    def cpu_seconds(self) -> float:
        """Processor time of the process since it started."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        """Without waiting for the pipes to end: a runtime's own child process may hold them open."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        self._say(question)
        return self._hear()

    def _say(self, question: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            # A traceback's indented lines, and an error's hint, are not what went wrong.
            said = [line for line in self._process.communicate()[1].splitlines() if line.strip() == line != ""]
            what = said[-1].removeprefix("compressctl.core.errors.") if said else "it said nothing"
            raise StageError(f"the process that times {self._name} ended: {what}")
        found: dict[str, Any] = json.loads(answer)
        return found


def _opening(target: Target, signature: Signature) -> dict[str, Any]:
    """What a process needs to open a file at an operating point."""
    inputs = [
        {"name": spec.name, "dtype": spec.dtype, "shape": concrete(spec, target.batch)} for spec in signature.inputs
    ]
    return {"target": asdict(target), "inputs": inputs}


def concrete(spec: TensorSpec, batch: int) -> list[int]:
    """A shape to run with: the batch where the model leaves it open, 1 for every other open axis."""
    first, *rest = spec.shape or (1,)
    return [batch if isinstance(first, str) else first, *(1 if isinstance(axis, str) else axis for axis in rest)]


def threads_of(target: Target) -> int:
    """Threads that 0, all, means here: the processors that this process may use."""
    return target.threads or len(_processors()) or os.cpu_count() or 1


def _pinned(threads: int) -> list[int]:
    """As many processors as there are threads; the last ones, which serve fewer interrupts."""
    return _processors()[-threads:]


def _processors() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
