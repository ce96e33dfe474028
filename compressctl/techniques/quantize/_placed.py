"""quantize.static's `placement: measured`: which of the layers that could compute in integers are faster in float in the target's runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import onnx

from compressctl.core.errors import MissingDependencyError, StageError
from compressctl.core.machine import this_machine
from compressctl.core.model import OnnxModel
from compressctl.core.target import resolve_profile
from compressctl.core.technique import RunContext
from compressctl.graph.sites import Site
from compressctl.graph.tensors import size_bytes
from compressctl.techniques.quantize._placement import Found, Timed, search
from compressctl.techniques.quantize._regions import Placement, Regions, find_regions

REASON = "faster in float where it stands, by the clock"

_MOST_BYTES = 512 << 20
"""Of weights in all files that are open in one go: each session holds a copy."""

_FEWEST, _MOST = 5, 12
"""Files that are timed in one go, two of them the one that the others are compared with."""


@dataclass(frozen=True)
class Placed:
    """floats: nodes that the clock puts in float, with the reason. facts: for the report."""

    floats: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def placed(
    body: onnx.ModelProto,
    sites: Sequence[Site],
    floats: Mapping[str, str],
    rebuild: Callable[[Mapping[str, str]], OnnxModel],
    seconds: float,
    run: RunContext,
) -> Placed:
    """body: the float graph. sites: that may be put in float. floats: nodes that are float already. rebuild: the file with more of them.

    Where this machine is not the target's, everything stays as it is, with a warning. Raises StageError without a clock.
    """
    regions = find_regions(body, sites, floats, run.target.input_shapes)
    if not regions.units:
        return Placed()
    if (other := _other_machine(run)) is not None:
        return _untimed(other, run)
    latency_ms = run.clock()

    def time_all(placements: Sequence[Placement]) -> Sequence[float]:
        return latency_ms([rebuild(dict.fromkeys(regions.ordered(each), REASON)) for each in placements])

    timed = _without_broken(time_all)
    try:
        found = search(
            regions,
            timed,
            seconds,
            _together(body),
            lambda done, total: run.events.progress("timing placements of integers", min(done, total), total),
        )
    except MissingDependencyError as error:
        return _untimed(error.message, run)
    _tell(found, regions, run)
    return Placed(
        dict.fromkeys(regions.ordered(found.placement), REASON), {"placement": _facts(found, regions, seconds, run)}
    )


def _without_broken(time_all: Timed) -> Timed:
    """The same, where a file that the runtime refuses, or crashes on, takes forever (a CrashError is a StageError). Raises what it raises for everything in integers."""
    broken: set[Placement] = set()

    def is_broken(placement: Placement) -> bool:
        try:
            time_all([placement])
        except StageError:
            if not placement:
                raise
            return True
        return False

    def timed(placements: Sequence[Placement]) -> Sequence[float]:
        left = [each for each in placements if each not in broken]
        try:
            found = list(time_all(left))
        except StageError:
            broken.update(each for each in dict.fromkeys(left) if is_broken(each))
            left = [each for each in placements if each not in broken]
            found = list(time_all(left))
        return [inf if each in broken else found.pop(0) for each in placements]

    return timed


def _other_machine(run: RunContext) -> str | None:
    """Why this machine's clock says nothing about the target; None where it does."""
    own = resolve_profile("auto", this_machine(), run.target.backend)
    return None if run.target.profile == own else f"the target is {run.target.profile}, and this machine is {own}"


def _untimed(reason: str, run: RunContext) -> Placed:
    run.events.warn(
        f"placement: measured: no placement is timed, and every layer that can computes in integers: {reason}"
    )
    return Placed({}, {"placement": {"not_timed": reason}})


def _together(body: onnx.ModelProto) -> int:
    size = sum(map(size_bytes, body.graph.initializer))
    return max(_FEWEST, min(_MOST, _MOST_BYTES // max(size, 1)))


def _tell(found: Found, regions: Regions, run: RunContext) -> None:
    if len(found.placement) == len(regions.units):
        run.events.warn(
            "placement: every layer is faster in float on this machine, so that nothing computes in integers"
        )
    if found.is_cut_short:
        run.events.emit("note", message="placement: the time limit ended the search; `placement_time` allows more")


def _facts(found: Found, regions: Regions, seconds: float, run: RunContext) -> dict[str, Any]:
    """What was chosen, what it brings, and what finding it took, ready for JSON."""
    target = run.target
    facts: dict[str, Any] = {
        "could_be_integers": len(regions.units),
        "float_by_the_clock": [_part(regions, nodes, ms, found.integer_ms) for nodes, ms in found.parts],
        "timed_on": {"backend": target.backend, "threads": target.threads, "batch_size": target.batch_size},
        "placements_timed": found.placements_timed,
        "seconds": round(found.seconds, 1),
        "seconds_allowed": seconds,
        "is_cut_short": found.is_cut_short,
        "two_builds_of_one_file_differ_by": round(found.noise, 4),
        "all_integers_ms": round(found.integer_ms, 4),
    }
    if found.ratio is not None:
        facts["speedup_over_all_integers"] = round(found.ratio, 4)
        facts["speedups_opened_anew"] = [round(ratio, 4) for ratio in found.ratios]
    if not found.placement:
        facts["kept"] = "no placement was faster than all integers beyond the noise"
    return facts


def _part(regions: Regions, nodes: Placement, ms: float | None, whole_ms: float) -> dict[str, Any]:
    part: dict[str, Any] = {"layers": regions.ordered(nodes)}
    if ms is not None:
        part |= {"brings_ms": round(ms, 5), "share": round(ms / whole_ms, 4)}
    return part
