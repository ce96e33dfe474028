"""Random values in declared shapes and ranges: for sizes and speed where there is no data. They judge nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from compressctl.core.data import Dataset
from compressctl.core.errors import MachineError, UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.params import RandomInput, RandomParams
from compressctl.sources.splits import choose

VERSION = 1


@dataclass(frozen=True)
class RandomDataset(SplitDataset):
    """is_random: figures that come from its samples are marked so."""

    is_random: bool = True


def load(params: RandomParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Sample i is the same whatever batch it is read in: its values come from the seed and i."""

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], None]:
        inputs = {}
        for number, (name, spec) in enumerate(params.inputs.items()):
            if spec.shared:
                inputs[name] = _values(spec, np.random.default_rng([seed, number]))
            else:
                drawn = [_values(spec, np.random.default_rng([seed, number, int(at)])) for at in positions]
                inputs[name] = np.stack(drawn)
        return inputs, None

    for name, spec in params.inputs.items():
        if spec.low >= spec.high:
            raise UsageError(f"data.inputs.{name}: low {spec.low:g} is not below high {spec.high:g}")
        _check_size(name, spec)
    return RandomDataset(
        classes=None,
        splits=choose(params.samples, sizes, seed),
        read=read,
        constants=frozenset(name for name, spec in params.inputs.items() if spec.shared),
    )


def fingerprint(params: RandomParams, base: Path) -> str:
    return source_fingerprint("random", VERSION, params, {})


def _check_size(name: str, spec: RandomInput) -> None:
    """Raises UsageError for values that the type does not have, MachineError for a sample that is larger than the memory."""
    if np.dtype(spec.dtype).kind in "iu":
        least, most = np.iinfo(spec.dtype).min, min(np.iinfo(spec.dtype).max, np.iinfo(np.int64).max)
        if spec.low < least or spec.high > most + 1:
            raise UsageError(
                f"data.inputs.{name}: {spec.dtype} does not have all values from {spec.low:g} to {spec.high:g}",
                hint=f"draw from {least} to {most}",
            )
    # Numbers are drawn in 8 bytes each, whatever they are stored in.
    size = 8 * math.prod(spec.shape)
    if size > psutil.virtual_memory().available:
        raise MachineError(f"data.inputs.{name}: one sample takes {size:,} bytes, more than this machine has left")


def _values(spec: RandomInput, rng: np.random.Generator) -> np.ndarray:
    """Floats evenly from low to high; integers from low up to, but not with, high."""
    if spec.dtype.startswith("float"):
        return np.asarray(rng.uniform(spec.low, spec.high, spec.shape)).astype(spec.dtype)
    if spec.dtype == "bool":
        return np.asarray(rng.integers(0, 2, spec.shape)).astype(bool)
    return np.asarray(rng.integers(int(spec.low), int(spec.high), spec.shape)).astype(spec.dtype)
