"""Latency and energy of several artifacts on one machine: processes of their own, in turn, so that drift hits all alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from compressctl.core.backend import Artifact
from compressctl.core.events import Events
from compressctl.core.model import Signature
from compressctl.core.target import Target
from compressctl.measure.alone import timing_alone
from compressctl.measure.results import Energy, Latency, Memory, Noise, Speedup
from compressctl.measure.samples import Call, Samples, Size
from compressctl.measure.served import Block, Served, threads_of
from compressctl.measure.speed_words import speedup_of
from compressctl.measure.turns import by_input, typical
from compressctl.numerics.ratio import Paired, paired_ratio

_RUNS_FOR_P99 = 1000
_NOISY_SPREAD = 0.10
_NOISY_LOAD = 0.15
_WIDE = 1.15
"""An interval's upper end over its lower end, as far as launches decide it."""

_ALTERNATING = 0.5
"""Calls that alternate in one process, as a share of those back to back."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """launches: times that each artifact's process is started anew; more, up to most_launches, while an interval at the first
    operating point is wider than `_WIDE`, as it is on a noisy machine. rounds: turns of each artifact in a launch.

    seconds, runs: at least that much of each artifact at each operating point, over all launches; but of one that is slow no more
    runs than fit into most_seconds, and one a turn. warm_up_seconds: in each launch and point.
    """

    launches: int = 5
    most_launches: int = 9
    rounds: int = 6
    warm_up_seconds: float = 0.1
    seconds: float = 2.5
    runs: int = 100
    most_seconds: float = math.inf


STANDARD = BenchmarkSettings()
QUICK = BenchmarkSettings(
    launches=3, most_launches=3, rounds=4, warm_up_seconds=0.03, seconds=0.3, runs=30, most_seconds=3.0
)


@dataclass(frozen=True)
class LatencyRun:
    """speed: of time against the first artifact, as the energy's saving is; step: of time against the one before.

    load_ms: from the file to a session in a fresh process, the median of all launches.
    """

    latency: Latency
    memory: Memory
    load_ms: float
    energy: Energy
    speed: Speedup | None
    step: Speedup | None = None


@dataclass(frozen=True)
class TimingPoint:
    """How files are called while they are timed: threads and batch, and the arrays of one call.

    turns: calls that take turns, where what is computed depends on the input; empty: the one call each time.
    """

    target: Target
    call: Call
    turns: tuple[Call, ...] = ()

    def calls(self, signature: Signature) -> list[dict[str, np.ndarray]]:
        """As a model takes them."""
        return [call.for_model(signature) for call in self.turns or (self.call,)]

    @property
    def inputs(self) -> int:
        """How many different ones there are."""
        return max(len(self.turns), 1)


def operating_point(target: Target, samples: Samples, size: Size = "median", turns: int = 1) -> TimingPoint:
    """The target's threads and batch, with a call of that batch; turns: calls of real inputs that take turns, where there are so many.

    Raises UsageError where an open axis has no size.
    """
    call = samples.call(target.batch_size, size)
    return TimingPoint(target, call, samples.calls(target.batch_size, turns) if turns > 1 else ())


@dataclass(frozen=True)
class _Start:
    memory: Memory
    load_ms: float


@dataclass(frozen=True)
class Timing:
    """points: one list per operating point, in it one entry per artifact."""

    points: list[list[LatencyRun]]
    noise: Noise


def compare(
    artifacts: Sequence[Artifact],
    at: Sequence[TimingPoint],
    signature: Signature | Sequence[Signature],
    events: Events | None,
    effort: BenchmarkSettings = STANDARD,
) -> Timing:
    """Time artifacts interleaved (A B, B A, ...), each in processes of its own with pinned threads.

    signature: of all artifacts, or of each where they differ, as when a cast gives a file inputs of another type.
    at: the operating points, that of the report's headline first; they differ in threads, batch and shapes alone.
    Nothing else of ours is timed meanwhile, and jobs of a zoo stand still. Raises StageError when a process cannot load or run
    its artifact.
    """
    with timing_alone():
        return _compare(artifacts, at, signature, events, effort)


def _compare(
    artifacts: Sequence[Artifact],
    at: Sequence[TimingPoint],
    signature: Signature | Sequence[Signature],
    events: Events | None,
    effort: BenchmarkSettings,
) -> Timing:
    signatures = [signature] * len(artifacts) if isinstance(signature, Signature) else signature
    blocks: _Blocks = [[[] for _ in artifacts] for _ in at]
    turns: list[_Turns] = [{pair: ([], []) for pair in _pairs(len(artifacts))} for _ in at]
    memories: list[Memory] = []
    loads: list[list[float]] = [[] for _ in artifacts]
    load = _OtherLoad()
    for launch in range(effort.most_launches):
        if launch >= effort.launches and _is_settled(blocks[0], turns[0], at[0].inputs):
            break
        with ExitStack() as stack:
            most_threads = max(threads_of(point.target) for point in at)
            served = [
                stack.enter_context(Served(artifact, at[0].target.device, most_threads)) for artifact in artifacts
            ]
            # All start at the same time; asking for the meters waits until each has.
            meters = [one.meter() for one in served]
            meter, reason = meters[0]
            for position, point in enumerate(at):
                measured, runs = _launch(served, point, signatures, effort, load)
                for found, block in zip(blocks[position], measured, strict=True):
                    found.append(block)
                if position == 0 and launch == 0:
                    memories = [one.memory() for one in served]
                is_open = list(range(len(served)))
                for (first, second), (before, after) in turns[position].items():
                    # Files whose process is not needed any more would be in memory twice.
                    while is_open[0] < second:
                        served[is_open.pop(0)].close()
                    # As many as the slower of the two is called back to back, or a slow float file would take all the time.
                    share = max(1, round(_ALTERNATING * min(runs[first], runs[second])))
                    share = _whole_rounds(share, point)
                    given = point.calls(signatures[first])
                    medians = served[second].alternate(artifacts[first], point.target, given, effort.rounds, share)
                    before.append(medians[0])
                    after.append(medians[1])
            for one, seconds in zip(served, loads, strict=True):
                seconds.append(one.load_seconds or 0.0)
        if events is not None:
            events.progress("timing", launch + 1, max(effort.launches, launch + 1))
    starts = [_Start(memory, 1e3 * float(np.median(seconds))) for memory, seconds in zip(memories, loads, strict=True)]
    points = [
        _point(point, found, taken, starts, meter, reason)
        for point, found, taken in zip(at, blocks, turns, strict=True)
    ]
    return Timing(points, _noise(blocks[0], at[0].inputs, load.share()))


def _pairs(artifacts: int) -> list[tuple[int, int]]:
    """What is compared: each with the first, and with the one before it."""
    return sorted(
        {pair for later in range(1, artifacts) for pair in ((0, later), (later - 1, later))}, key=lambda pair: pair[1]
    )


def _is_settled(headline: list[list[list[Block]]], turns: _Turns, inputs: int) -> bool:
    """More launches narrow what launches differ by, and nothing else."""
    before = _typical(headline[0], inputs)
    found = (
        paired_ratio(Paired(before, _typical(mine, inputs)), Paired(*turns[0, position]))
        for position, mine in enumerate(headline[1:], 1)
    )
    return all(ratio.between_launches <= _WIDE for ratio in found)


_Turns = dict[tuple[int, int], tuple[list[np.ndarray], list[np.ndarray]]]
"""By pair of artifacts, both by launch and round: the medians of calls that alternate in one process."""

_Blocks = list[list[list[list[Block]]]]
"""By operating point, artifact, launch and round."""


def _launch(
    served: Sequence[Served],
    point: TimingPoint,
    signatures: Sequence[Signature],
    effort: BenchmarkSettings,
    load: _OtherLoad,
) -> tuple[list[list[Block]], list[int]]:
    """Blocks by artifact and round, and how many runs one of each artifact's has."""
    for one, signature in zip(served, signatures, strict=True):
        one.open(point.target, point.calls(signature))
    runs = [_whole_rounds(_warm_up(one, effort), point) for one in served]
    found: list[list[Block]] = [[] for _ in served]
    with load.watch(served):
        for round_ in range(effort.rounds):
            order = list(range(len(served)))
            for position in order if round_ % 2 == 0 else reversed(order):
                found[position].append(served[position].run(runs[position]))
    return found, runs


def _whole_rounds(runs: int, point: TimingPoint) -> int:
    """At least so many that every input has its turn equally often."""
    return -(-runs // point.inputs) * point.inputs


def _warm_up(served: Served, effort: BenchmarkSettings) -> int:
    """Runs per block, so that all blocks together last as long as the effort asks."""
    spent, runs = 0.0, 0
    while spent < effort.warm_up_seconds or runs < 2:
        block = served.run(max(1, min(runs, 50)))
        spent, runs = spent + sum(block.seconds), runs + len(block.seconds)
    each = spent / runs
    wanted = max(min(effort.runs, effort.most_seconds / each), effort.seconds / each)
    return max(1, int(np.ceil(wanted / effort.launches / effort.rounds)))


def _point(
    point: TimingPoint,
    blocks: list[list[list[Block]]],
    turns: _Turns,
    starts: list[_Start],
    meter: str | None,
    reason: str | None,
) -> list[LatencyRun]:
    target = point.target
    if meter is not None and any(_joules(mine, target, meter) is None for mine in blocks):
        # All files by the same measure, or their ratio would compare a counter with an estimate.
        meter, reason = (
            None,
            f"{meter}: the counter did not move in every block of inferences, it is too coarse for them",
        )

    def against(first: int, second: int) -> Speedup | None:
        if first == second or first < 0:
            return None
        alternating = turns.get((first, second))
        before, after = (_typical(blocks[place], point.inputs) for place in (first, second))
        return speedup(before, after, Paired(*alternating) if alternating else None)

    runs = []
    for position, mine in enumerate(blocks):
        runs.append(
            LatencyRun(
                latency=_latency(mine, point),
                memory=starts[position].memory,
                load_ms=starts[position].load_ms,
                energy=_energy(mine, target, meter, reason, None if position == 0 else blocks[0]),
                speed=against(0, position),
                step=against(position - 1, position),
            )
        )
    return runs


def speedup(before: Sequence[np.ndarray], after: Sequence[np.ndarray], alternating: Paired | None = None) -> Speedup:
    """before, after: one array per launch, one figure per round, the smaller the better; see `paired_ratio`."""
    found = paired_ratio(Paired(before, after), alternating)
    return speedup_of(found.value, found.low, found.high, found.alternating)


def _typical(launches: list[list[Block]], inputs: int) -> list[np.ndarray]:
    """By launch and round: see `turns.typical`."""
    return [np.array([typical(block.seconds, inputs) for block in rounds]) for rounds in launches]


def _latency(launches: list[list[Block]], point: TimingPoint) -> Latency:
    target = point.target
    milliseconds = 1e3 * np.concatenate([block.seconds for rounds in launches for block in rounds])
    is_varied = point.inputs > 1
    ends = 1e3 * by_input([b.seconds for rounds in launches for b in rounds], point.inputs) if is_varied else None
    each = (
        1e3 * float(np.median(np.concatenate(_typical(launches, point.inputs))))
        if is_varied
        else np.median(milliseconds)
    )
    return Latency(
        runs=len(milliseconds),
        batch=point.call.samples,
        threads=target.threads,
        p50_ms=float(np.percentile(milliseconds, 50)),
        p90_ms=float(np.percentile(milliseconds, 90)),
        p99_ms=float(np.percentile(milliseconds, 99)) if len(milliseconds) >= _RUNS_FOR_P99 else None,
        mean_ms=float(each) if is_varied else float(milliseconds.mean()),
        samples_per_second=float(point.call.samples / each * 1e3),
        percentiles_ms=tuple(float(value) for value in np.percentile(milliseconds, range(101))),
        shapes=point.call.shapes,
        values="random" if point.call.is_random else "stretched" if point.call.is_stretched else "data",
        sample="all" if is_varied else point.call.size,
        inputs=point.inputs,
        fastest_ms=None if ends is None else float(ends.min()),
        slowest_ms=None if ends is None else float(ends.max()),
    )


def _energy(
    launches: list[list[Block]],
    target: Target,
    meter: str | None,
    reason: str | None,
    baseline: list[list[Block]] | None = None,
) -> Energy:
    joules = _joules(launches, target, meter)
    if joules is None:
        why = f"{reason or f'{meter}: too coarse'}; declare target.watts_per_core for an estimate"
        return Energy(joules=None, provenance="cannot be measured here", source=why)
    before = None if baseline is None else _joules(baseline, target, meter)
    return Energy(
        joules=float(np.median(np.concatenate(joules))),
        provenance="measured" if meter else "estimated",
        source=meter or f"processor seconds x {target.watts_per_core:g} declared watts per core",
        saving=None if before is None else speedup(before, joules),
    )


def _joules(launches: list[list[Block]], target: Target, meter: str | None) -> list[np.ndarray] | None:
    """Joules of one inference, by launch and round; None where they are neither counted nor declared.

    A counter that did not move during a block is too coarse for it: its block counts as not measured.
    """

    def of(block: Block) -> float:
        counted = block.joules or 0.0
        total = counted if meter else block.cpu_seconds * (target.watts_per_core or 0.0)
        return total / len(block.seconds)

    found = [np.array([of(block) for block in rounds]) for rounds in launches]
    return found if all((values > 0).all() for values in found) else None


def _noise(headline: list[list[list[Block]]], inputs: int, other_load: float) -> Noise:
    """How far the same file's medians lie apart, the worst of the artifacts, and what else the machine was doing."""
    spreads = []
    for launches in headline:
        medians = np.concatenate(_typical(launches, inputs))
        low, middle, high = np.percentile(medians, [10, 50, 90])
        spreads.append(float((high - low) / middle))
    spread = max(spreads)
    noisy = spread > _NOISY_SPREAD or other_load > _NOISY_LOAD
    return Noise(spread=spread, other_load=other_load, noisy=noisy)


@dataclass
class _OtherLoad:
    """What share of the processors others used, stolen time included, while artifacts were being timed."""

    busy: float = 0.0
    whole: float = 0.0
    _watched: list[Any] = field(default_factory=list)

    def watch(self, served: Sequence[Served]) -> _OtherLoad:
        self._watched.append(served)
        return self

    def __enter__(self) -> None:
        self._before = (psutil.cpu_times(), self._own())

    def __exit__(self, *_: object) -> None:
        (times, own), now, mine = self._before, psutil.cpu_times(), self._own()
        self._watched.pop()
        whole = float(sum(now) - sum(times)) - (getattr(now, "guest", 0.0) - getattr(times, "guest", 0.0))
        idle = float(now.idle - times.idle) + getattr(now, "iowait", 0.0) - getattr(times, "iowait", 0.0)
        self.whole += whole
        self.busy += max(0.0, whole - idle - (mine - own))

    def share(self) -> float:
        return self.busy / self.whole if self.whole > 0 else 0.0

    def _own(self) -> float:
        this = psutil.Process().cpu_times()
        served: Sequence[Served] = self._watched[-1]
        return float(this.user + this.system) + sum(one.cpu_seconds() for one in served)
