"""Segmentation: masks of classes read off scores, mean intersection over union, pixels against the original's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compressctl.core.errors import UsageError
from compressctl.core.tasks import UNLABELLED, Decode
from compressctl.tasks.output_named import output_named
from compressctl.tasks.params import ArgmaxParams
from compressctl.tasks.positions import Positions, counts_by_class


def argmax(params: ArgmaxParams, base: Path) -> Decode:
    """Masks (height, width) of the class with the highest score, or of a single score's side of the threshold; uint8 or uint16."""

    def decode(outputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        scores = output_named(outputs, params.output)
        if scores.ndim != 4:
            raise UsageError(
                f"scores of pixels are (n, classes, height, width), and the output is {list(scores.shape)}",
                hint="name the output in `decode: {use: argmax, output: NAME}`, or write a decoder of your own",
            )
        axis = params.axis % 4
        if scores.shape[axis] == 1:
            masks = np.take(scores, 0, axis=axis) > params.threshold
        else:
            masks = scores.argmax(axis=axis)
        return list(masks.astype(np.uint8 if scores.shape[axis] <= 255 else np.uint16))

    return decode


def mean_iou(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of intersection over union, in percent, all pixels together (Long et al. 2015, section 5).

    outputs, labels: n masks (height, width) of classes; labels of -100 and 255 do not count. NaN where no pixel has a label.
    """
    by_class = iou_by_class(outputs, labels)
    return float(np.mean(list(by_class.values()))) if by_class else np.nan


def iou_by_class(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    """Intersection over union of each class that occurs, in percent."""
    union, common = Counter[int](), Counter[int]()
    for mask, label in zip(outputs, labels, strict=True):
        if mask.shape != label.shape:
            raise ValueError(f"a mask of {list(mask.shape)} cannot be held against labels of {list(label.shape)}")
        counted = ~np.isin(label, UNLABELLED)
        found, wanted = mask[counted].astype(np.int64), label[counted].astype(np.int64)
        if wanted.size and wanted.min() < 0:
            raise ValueError(f"a pixel's label is {wanted.min()}; classes count from 0, -100 and 255 do not count")
        for number, (labelled, both, given) in counts_by_class(found, wanted).items():
            union[number] += labelled + given - both
            common[number] += both
    return {number: 100 * common[number] / union[number] for number in sorted(union)}


PIXELS = Positions("pixels")
