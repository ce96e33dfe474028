"""Latency of several artifacts on one machine: each in a fresh process, in turn, so that drift hits all alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from compressctl.core.backend import Artifact
from compressctl.core.errors import StageError
from compressctl.core.events import Events
from compressctl.core.model import Signature, TensorSpec
from compressctl.core.target import Target
from compressctl.measure.results import Interval, Latency, Memory, Speedup, Verdict

_RUNS_FOR_P99 = 1000
_RESAMPLES = 2000


@dataclass(frozen=True)
class Effort:
    """warm_up_seconds, seconds: least time of each artifact. rounds: blocks that the time is cut into."""

    warm_up_seconds: float = 0.5
    warm_up_runs: int = 10
    seconds: float = 3.0
    runs: int = 100
    rounds: int = 20


STANDARD = Effort()


@dataclass(frozen=True)
class LatencyRun:
    """speedup: against the first artifact of the comparison, None for itself."""

    latency: Latency
    memory: Memory
    speedup: Speedup | None


def compare(
    artifacts: Sequence[Artifact],
    target: Target,
    signature: Signature,
    events: Events | None,
    effort: Effort = STANDARD,
) -> list[LatencyRun]:
    """Time artifacts interleaved (A B, B A, ...), each in its own process with pinned threads.

    Raises StageError when a process cannot load or run its artifact.
    """
    with ExitStack() as stack:
        workers = [stack.enter_context(_Worker(artifact, target, signature)) for artifact in artifacts]
        block_runs = [_warm_up(worker, effort) for worker in workers]
        blocks: list[list[list[float]]] = [[] for _ in workers]
        for round_ in range(effort.rounds):
            order = range(len(workers)) if round_ % 2 == 0 else reversed(range(len(workers)))
            for position in order:
                blocks[position].append(workers[position].run(block_runs[position]))
            if events is not None:
                events.progress("timing", round_ + 1, effort.rounds)
        memories = [worker.memory() for worker in workers]
    times = [[np.array(block) for block in found] for found in blocks]
    return [
        LatencyRun(
            latency=_latency(np.concatenate(found), target),
            memory=memory,
            speedup=None if position == 0 else speedup(times[0], found),
        )
        for position, (found, memory) in enumerate(zip(times, memories, strict=True))
    ]


def speedup(baseline: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> Speedup:
    """Ratio of medians with a 95 % interval from resampling rounds, both artifacts' blocks of a round together.

    baseline, other: seconds per run, one array per round. Source: Efron and Tibshirani 1993, section 13.3 (percentile
    interval); whole rounds, because runs of one block share the machine's state.
    """
    rng = np.random.default_rng(0)
    ratio = float(np.median(np.concatenate(baseline)) / np.median(np.concatenate(other)))
    before = np.array([np.median(block) for block in baseline])
    after = np.array([np.median(block) for block in other])
    drawn = rng.integers(len(before), size=(_RESAMPLES, len(before)))
    ratios = np.median(before[drawn], axis=1) / np.median(after[drawn], axis=1)
    low, high = (float(bound) for bound in np.percentile(ratios, [2.5, 97.5]))
    return Speedup(ratio, Interval(low, high), verdict(low, high))


def verdict(low: float, high: float) -> Verdict:
    if low > 1.0:
        return "faster"
    return "slower" if high < 1.0 else "no measurable change"


def _warm_up(worker: _Worker, effort: Effort) -> int:
    """Runs per block, so that all blocks together last as long as the effort asks."""
    spent, runs = 0.0, 0
    while spent < effort.warm_up_seconds or runs < effort.warm_up_runs:
        times = worker.run(max(1, effort.warm_up_runs // 2))
        spent, runs = spent + sum(times), runs + len(times)
    wanted = max(effort.runs, effort.seconds / (spent / runs))
    return max(1, int(np.ceil(wanted / effort.rounds)))


def _latency(seconds: np.ndarray, target: Target) -> Latency:
    milliseconds = seconds * 1e3
    return Latency(
        runs=len(seconds),
        batch=target.batch,
        threads=target.threads,
        p50_ms=float(np.percentile(milliseconds, 50)),
        p90_ms=float(np.percentile(milliseconds, 90)),
        p99_ms=float(np.percentile(milliseconds, 99)) if len(seconds) >= _RUNS_FOR_P99 else None,
        mean_ms=float(milliseconds.mean()),
        samples_per_second=float(target.batch / np.median(seconds)),
    )


class _Worker:
    """One process that serves one artifact."""

    def __init__(self, artifact: Artifact, target: Target, signature: Signature) -> None:
        threads = target.threads or os.cpu_count() or 1
        limits = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        self._name = artifact.path.name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "compressctl.measure.latency_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **limits},
        )
        self._ask(
            {
                "artifact": {"backend": artifact.backend, "path": str(artifact.path)},
                "target": asdict(target),
                "runtime_module": artifact.backend,
                "cpus": _pinned(threads),
                "inputs": [
                    {"name": spec.name, "dtype": spec.dtype, "shape": concrete(spec, target.batch)}
                    for spec in signature.inputs
                ],
            }
        )

    def run(self, runs: int) -> list[float]:
        seconds: list[float] = self._ask({"runs": runs})["seconds"]
        return seconds

    def memory(self) -> Memory:
        found = self._ask({"memory": True})
        return Memory(found["before"], found["load_peak"], found["run_peak"])

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._process.stdout.readline()
        if not answer:
            said = self._process.communicate()[1].strip().splitlines()
            raise StageError(f"the process that times {self._name} ended: {said[-1] if said else 'it said nothing'}")
        found: dict[str, Any] = json.loads(answer)
        return found


def concrete(spec: TensorSpec, batch: int) -> list[int]:
    """A shape to run with: the batch where the model leaves it open, 1 for every other open axis."""
    first, *rest = spec.shape or (1,)
    return [batch if isinstance(first, str) else first, *(1 if isinstance(axis, str) else axis for axis in rest)]


def _pinned(threads: int) -> list[int]:
    """As many of the processors that this process may use as there are threads; the last ones, which serve fewer interrupts."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))[-threads:]
