"""A class for each token, or each frame: read off scores, scored, compared with the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compressctl.core.errors import UsageError
from compressctl.core.tasks import Decode
from compressctl.tasks.output_named import output_named
from compressctl.tasks.params import SequenceParams
from compressctl.tasks.positions import Positions, counts_by_class

IGNORED = -100


def decoder(params: SequenceParams, base: Path) -> Decode:
    """(positions,) uint16: the class with the highest score at each token or frame, or a single score's side of the threshold."""

    def decode(outputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        scores = output_named(outputs, params.output)
        if scores.ndim == 2 or (scores.ndim == 3 and scores.shape[params.axis] == 1):
            single = scores if scores.ndim == 2 else np.take(scores, 0, axis=params.axis)
            return list((single > params.threshold).astype(np.uint16))
        if scores.ndim != 3:
            raise UsageError(
                f"scores of tokens or frames are (n, positions, classes), or (n, positions) of a single one; the output is {list(scores.shape)}",
                hint="name the output in `decode: {output: NAME}`, or write a decoder of your own",
            )
        return list(scores.argmax(axis=params.axis).astype(np.uint16))

    return decode


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Percent of positions with a label that are given it. outputs, labels: n rows of classes. NaN where nothing has a label."""
    found, wanted = _counted(outputs, labels)
    return float(100 * np.mean(found == wanted)) if wanted.size else np.nan


def f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Harmonic mean of precision and recall over all positions of classes other than 0, the class of what is nothing, in percent.

    NaN where neither the labels nor the outputs have such a class.
    """
    found, wanted = _counted(outputs, labels)
    right = np.sum((found == wanted) & (wanted != 0))
    total = np.sum(found != 0) + np.sum(wanted != 0)
    return float(100 * 2 * right / total) if total else np.nan


def f1_by_class(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """F1 of each class that occurs, in percent."""
    counts = counts_by_class(*_counted(outputs, labels))
    return {number: 200 * both / (labelled + given) for number, (labelled, both, given) in sorted(counts.items())}


def _counted(outputs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All positions that have a label, one after the other."""
    for found, wanted in zip(outputs, labels, strict=True):
        if found.shape != wanted.shape:
            raise ValueError(f"{list(found.shape)} classes cannot be held against {list(wanted.shape)} labels")
    if not len(outputs):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    found, wanted = (np.concatenate([np.asarray(row, np.int64) for row in rows]) for rows in (outputs, labels))
    counted = wanted != IGNORED
    return found[counted], wanted[counted]


TOKENS = Positions("tokens")
FRAMES = Positions("frames")
