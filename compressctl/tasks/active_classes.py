"""The classes that are active in each frame, any number at once: notes of music, sounds of a scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compressctl.core.errors import UsageError
from compressctl.core.objects import as_objects
from compressctl.core.tasks import Decode, Tally
from compressctl.tasks.output_named import output_named
from compressctl.tasks.params import ActiveParams


def decoder(params: ActiveParams, base: Path) -> Decode:
    """(frames, classes) of bool: whether the class's score is above its output's threshold, the outputs' classes side by side."""

    def decode(outputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        named = params.outputs or {next(iter(outputs)): params.threshold}
        parts = [
            _frames_first(output_named(outputs, name), params.axis) > threshold for name, threshold in named.items()
        ]
        if len({part.shape[:2] for part in parts}) > 1:
            shapes = ", ".join(f"{name} {list(outputs[name].shape)}" for name in named)
            raise UsageError(f"outputs that are decoded side by side have the same frames; these have {shapes}")
        return list(np.concatenate(parts, axis=2))

    return decode


def _frames_first(scores: np.ndarray, axis: int) -> np.ndarray:
    if scores.ndim != 3:
        raise UsageError(
            f"scores of several classes in each frame are (n, frames, classes), and the output is {list(scores.shape)}",
            hint="name the outputs in `decode: {use: active, outputs: {NAME: THRESHOLD}}`, or write a decoder of your own",
        )
    return np.moveaxis(scores, axis, 2)


def equal_frames(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Percent of frames whose active classes are all those of the labels and no others. NaN where there is no frame."""
    equal = [(found == wanted).all(axis=1) for found, wanted in _pairs(outputs, labels)]
    frames = np.concatenate(equal) if equal else np.zeros(0)
    return float(100 * frames.mean()) if frames.size else np.nan


def f1(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Harmonic mean of precision and recall over all frames and classes, in percent; NaN where nothing is active."""
    counts = _counts(outputs, labels).sum(axis=0)
    return float(200 * counts[1] / (counts[0] + counts[2])) if counts[0] + counts[2] else np.nan


def f1_by_class(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """F1 of each class that is active anywhere, in percent."""
    return {
        number: float(200 * common / (wanted + found))
        for number, (wanted, common, found) in enumerate(_counts(outputs, labels))
        if wanted + found
    }


def _counts(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(classes, 3): frames in which a class is active in the labels, in both, in the outputs."""
    counts = [
        np.stack([wanted.sum(axis=0), (wanted & found).sum(axis=0), found.sum(axis=0)], axis=1)
        for found, wanted in _pairs(outputs, labels)
    ]
    return np.sum(counts, axis=0) if counts else np.zeros((0, 3), np.int64)


def _pairs(outputs: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Raises ValueError where labels are not (frames, classes) as the results are."""
    pairs = [(np.asarray(found) != 0, np.asarray(wanted) != 0) for found, wanted in zip(outputs, labels, strict=True)]
    for found, wanted in pairs:
        if found.ndim != 2 or found.shape != wanted.shape:
            raise ValueError(
                f"{list(found.shape)} frames and classes cannot be held against labels of {list(wanted.shape)}"
            )
    return pairs


class ActiveClasses:
    """Results against the original's: what is counted is a class in a frame, where it is active."""

    unit = "active classes of frames"
    rule = "active in the same frame"

    def as_labels(self, results: np.ndarray) -> np.ndarray:
        return as_objects([np.asarray(row, np.int64) for row in results])

    def tally(self, before: np.ndarray, after: np.ndarray) -> Tally:
        fitting = [old.shape == new.shape for old, new in zip(before, after, strict=True)]
        compared = np.asarray(fitting, bool)
        counts = _counts(after[compared], before[compared])
        lost = sum(int((old != 0).sum()) for old in before[~compared])
        reference, kept, found = (int(total) for total in counts.sum(axis=0))
        equal = sum(
            bool(((old != 0) == (new != 0)).all()) for old, new in zip(before[compared], after[compared], strict=True)
        )
        by_class = {
            number: (int(was), int(common), int(now - common))
            for number, (was, common, now) in enumerate(counts)
            if was + now
        }
        return Tally(reference + lost, kept, found - kept, equal, by_class)


ACTIVE = ActiveClasses()
