"""Recorded inputs as a dataset for `data: {source: python}`: every sample is a batch of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.data import Batch, SplitName


@dataclass(frozen=True)
class _Part:
    paths: tuple[Path, ...]
    first: int

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for index, path in enumerate(self.paths):
            with np.load(path) as opened:
                inputs = {name: opened[name] for name in opened.files}
            yield Batch(inputs, None, np.array([self.first + index]), is_request=True)


@dataclass(frozen=True)
class Requests:
    """path: a folder of .npz files. The first are for calibration, then come validation and test."""

    path: Path
    calibration: int
    validation: int
    classes = None

    @property
    def fingerprint(self) -> str:
        return str(self.path)

    def split(self, name: SplitName) -> _Part:
        paths = tuple(sorted(self.path.glob("*.npz")))
        ends = (0, self.calibration, self.calibration + self.validation, len(paths))
        starts = {"calibration": 0, "validation": 1, "test": 2}
        if name not in starts:
            return _Part((), 0)
        index = starts[name]
        return _Part(paths[ends[index] : ends[index + 1]], ends[index])


def load(path: str, calibration: int, validation: int) -> Requests:
    return Requests(Path(path), calibration, validation)
