"""Boxes as arrays: corners, overlap, and of several that lie on one object the best. Pure functions, float64."""

from __future__ import annotations

import numpy as np

from compressctl.tasks.params import BoxForm


def corners(boxes: np.ndarray, form: BoxForm) -> np.ndarray:
    """(..., 4) x1, y1, x2, y2 of boxes in a form: centre and size, two corners, a corner and the size, two corners with y first."""
    first, second = boxes[..., :2], boxes[..., 2:]
    match form:
        case "cxcywh":
            return np.concatenate([first - second / 2, first + second / 2], axis=-1)
        case "xywh":
            return np.concatenate([first, first + second], axis=-1)
        case "yxyx":
            return np.asarray(boxes[..., [1, 0, 3, 2]])
        case "xyxy":
            return np.asarray(boxes)


def iou(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Intersection over union of each box with each other: (n, 4) and (m, 4) corners to (n, m); 0 where both are empty."""
    a, b = left[:, None, :4].astype(np.float64), right[None, :, :4].astype(np.float64)
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    common = sides[..., 0] * sides[..., 1]
    union = _areas(a) + _areas(b) - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = np.clip(boxes[..., 2:4] - boxes[..., :2], 0, None)
    return np.asarray(sides[..., 0] * sides[..., 1])


def best_first(boxes: np.ndarray) -> np.ndarray:
    """Positions of (k, 6) boxes by falling score; equal scores by class and place, so that the order given does not matter."""
    return np.lexsort((*boxes[:, 3::-1].T, boxes[:, 5], -boxes[:, 4]))


def non_maximum_suppression(
    boxes: np.ndarray, most_iou: float | None, most: int, *, class_agnostic: bool = False
) -> np.ndarray:
    """The (k, 6) boxes that overlap no better one of their class by more than most_iou, best first, `most` of them at most.

    most_iou: None keeps what overlaps. class_agnostic: one class suppresses another.
    """
    boxes = boxes[best_first(boxes)]
    if most_iou is None:
        return boxes[:most]
    kept: list[np.ndarray] = []
    while len(boxes) and len(kept) < most:
        best, boxes = boxes[0], boxes[1:]
        kept.append(best)
        suppressed = iou(best[None], boxes)[0] > most_iou
        boxes = boxes[~(suppressed if class_agnostic else suppressed & (boxes[:, 5] == best[5]))]
    return np.array(kept).reshape(-1, 6)
