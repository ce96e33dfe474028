"""Timings that stages decide by, kept beside their outputs: the same layers on the same processor and runtime are timed once.

A kept timing is of models that were timed in turn, since only such medians can be held against each other. It is found again by the structures of
all of them, the shapes that they were given, the target, the processor and the runtime's version, so that other models with equal layers, other
recipes and, through a shared cache, other machines of the same kind profit. What a busy machine measured is not kept.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.cache import Cache
from compressctl.core.machine import installed_version, this_machine
from compressctl.core.model import OnnxModel
from compressctl.core.regular_files import NotRegularError, read_regular
from compressctl.core.target import Target
from compressctl.graph.structure import structure_digest
from compressctl.measure.quick_latency import Timing

_MEASURED_AS = 1
"""Raise when a timing comes to mean something else."""

_STEADY = 0.05
"""Half the distance of the quartiles of the rounds, against their median, up to which a timing is kept."""

_FILE = "timing.json"
_MOST_BYTES = 1 << 20

Inputs = Sequence[Mapping[str, np.ndarray]]


def timed(
    graphs: Sequence[OnnxModel], inputs: Inputs, target: Target, cache: Cache | None, measure: Callable[[], Timing]
) -> tuple[float, ...]:
    """Medians in milliseconds of each model, kept ones where there are any, else measured now. cache: None keeps nothing."""
    if cache is None:
        return measure().ms
    key = key_of(graphs, inputs, target)
    if (known := _read(cache, key, len(graphs))) is not None:
        return known
    found = measure()
    if found.spread <= _STEADY:
        _write(cache, key, found)
    return found.ms


def key_of(graphs: Sequence[OnnxModel], inputs: Inputs, target: Target) -> str:
    """Of everything that decides how long they take."""
    machine = this_machine()
    about: list[Any] = [
        "timing",
        _MEASURED_AS,
        [structure_digest(graph) for graph in graphs],
        [{name: [list(array.shape), str(array.dtype)] for name, array in given.items()} for given in inputs],
        asdict(target),
        [machine.cpu, sorted(machine.cpu_flags), machine.logical_cpus],
        [installed_version(name) for name in ("compressctl", target.backend)],
    ]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()


def _read(cache: Cache, key: str, count: int) -> tuple[float, ...] | None:
    """None where nothing is kept, or what is kept is no timing of so many models."""
    if key not in cache or (folder := cache.read(key)) is None:
        return None
    try:
        ms = [float(value) for value in json.loads(read_regular(folder / _FILE, _MOST_BYTES))["ms"]]
    except (OSError, NotRegularError, ValueError, LookupError, TypeError, RecursionError):
        return None
    is_whole = len(ms) == count and all(math.isfinite(value) and value > 0 for value in ms)
    return tuple(ms) if is_whole else None


def _write(cache: Cache, key: str, found: Timing) -> None:
    def fill(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps({"ms": found.ms, "spread": found.spread, "cpu": this_machine().cpu}))

    try:
        cache.write(key, fill)
    except OSError:
        return  # a place that takes nothing: it is measured again
