"""The parent's side of a process that serves one artifact, see latency_worker.py."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

from compressctl.core.backend import Artifact
from compressctl.core.machine import usable_cpus
from compressctl.core.target import Target
from compressctl.measure.child_process import ChildProcess
from compressctl.measure.results import Memory
from compressctl.measure.turns import packed


@dataclass(frozen=True)
class Block:
    """seconds: of each run. cpu_seconds, joules: of all runs together; joules None where there is no meter."""

    seconds: list[float]
    cpu_seconds: float
    joules: float | None


class Served:
    """One process that serves one artifact, at one operating point after another. Raises CrashError when it ends.

    load_seconds: how long opening it took the first time, None before that.
    """

    def __init__(self, artifact: Artifact, device: str, most_threads: int) -> None:
        limits = {name: str(most_threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self._name, self._doing, self._backend = artifact.path.name, "loading", artifact.backend
        self.load_seconds: float | None = None
        self._process = ChildProcess("compressctl.measure.latency_worker", limits)
        self._process.tell(
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

    def open(self, target: Target, calls: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Open it at an operating point; calls: what inferences are given from now on, in turn."""
        self._doing = "opening"
        point = {"target": asdict(target), "cpus": _pinned(threads_of(target))}
        seconds = float(self._ask({"open": point})["seconds"])
        self._ask({"inputs": True}, packed(calls))
        self._doing = "running"
        self.load_seconds = seconds if self.load_seconds is None else self.load_seconds

    def run(self, runs: int) -> Block:
        return Block(**self._ask({"runs": runs}))

    def alternate(
        self, other: Artifact, target: Target, calls: Sequence[Mapping[str, np.ndarray]], rounds: int, runs: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Typical seconds of the other file's calls and of this one's, by round: both in this process, call by call in turn.

        Opens the other file beside the open one, so that the peaks of memory are asked for before. calls: the other's; runs: whole rounds of them.
        """
        point = {"target": asdict(target), "backend": other.backend, "path": str(other.path)}
        asked = {**point, "rounds": rounds, "runs": runs, "inputs": len(calls)}
        found = self._ask({"alternate": asked}, packed(calls))
        return np.array(found["before"]), np.array(found["after"])

    def close(self) -> None:
        """Close the file until it is opened again; the process stays."""
        self._ask({"close": True})

    def memory(self) -> Memory:
        return Memory(**self._ask({"memory": True}))

    def cpu_seconds(self) -> float:
        """Processor time of the process since it started."""
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.end()

    def _ask(self, question: dict[str, Any], inputs: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
        self._process.tell(question, inputs)
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        return self._process.hear(f"{self._doing} {self._name} to time it", self._backend)[0]


def threads_of(target: Target) -> int:
    """Threads that 0, all, means here: the processors that this process may use."""
    return target.threads or len(usable_cpus())


def _pinned(threads: int) -> list[int]:
    """As many processors as there are threads; the last ones, which serve fewer interrupts. None where processes cannot be pinned."""
    return usable_cpus()[-threads:] if hasattr(os, "sched_setaffinity") else []
