"""Boxes as arrays: corners, overlap, and of several that lie on one object the best. Pure functions, float64."""

from __future__ import annotations

from collections.abc import Iterator

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
    a, b = (np.ascontiguousarray(boxes[:, :4].T, np.float64) for boxes in (left, right))
    common = _shared(a[::2], b[::2]) * _shared(a[1::2], b[1::2])
    union = _areas(left)[:, None] + _areas(right) - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def _shared(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(n, m) lengths that intervals have in common. left, right: (2, n) and (2, m) begins and ends."""
    shared = np.minimum(left[1][:, None], right[1]) - np.maximum(left[0][:, None], right[0])
    return np.asarray(np.maximum(shared, 0, out=shared))


def _areas(boxes: np.ndarray) -> np.ndarray:
    sides = np.clip(boxes[:, 2:4].astype(np.float64) - boxes[:, :2], 0, None)
    return np.asarray(sides[:, 0] * sides[:, 1])


def best_first(boxes: np.ndarray) -> np.ndarray:
    """Positions of (k, 6) boxes by falling score; equal scores by class and place, so that the order given does not matter."""
    return np.lexsort((*boxes[:, 3::-1].T, boxes[:, 5], -boxes[:, 4]))


MOST_CANDIDATES = 30_000
"""Boxes of a sample among which overlapping ones are looked for, the best ones: each is held against those that are kept."""

_PAIRS_AT_ONCE = 1 << 18


def non_maximum_suppression(
    boxes: np.ndarray, most_iou: float | None, most: int, *, class_agnostic: bool = False
) -> np.ndarray:
    """The (k, 6) boxes that overlap no better one of their class by more than most_iou, best first, `most` of them at most.

    most_iou: None keeps what overlaps, as 1 does. class_agnostic: one class suppresses another.
    """
    boxes = boxes[best_first(boxes)]
    if most_iou is None or most_iou >= 1:
        return boxes[:most]
    boxes = boxes[:MOST_CANDIDATES]
    groups = [np.arange(len(boxes))] if class_agnostic else positions_by_class(boxes)
    kept = [group[_unsuppressed(boxes[group], most_iou, most)] for group in groups]
    best: np.ndarray = boxes[np.sort(np.concatenate([np.zeros(0, np.int64), *kept]))[:most]]
    return best


def positions_by_class(boxes: np.ndarray) -> list[np.ndarray]:
    """The positions of each class's boxes, in the order given."""
    order = np.argsort(boxes[:, 5], kind="stable")
    return [group for group in np.split(order, np.flatnonzero(np.diff(boxes[order, 5])) + 1) if len(group)]


def rows_of_iou(left: np.ndarray, right: np.ndarray) -> Iterator[np.ndarray]:
    """`iou` of each box on the left with all on the right, without the whole table in memory."""
    step = max(1, _PAIRS_AT_ONCE // max(1, len(right)))
    for start in range(0, len(left), step):
        yield from iou(left[start : start + step], right)


def _unsuppressed(boxes: np.ndarray, most_iou: float, most: int) -> np.ndarray:
    """Positions of boxes that come best first. Blocks of them are held against what is kept, and then against each other."""
    kept = np.zeros(0, np.int64)
    for start in range(0, len(boxes), _BLOCK):
        if len(kept) >= most:
            break
        block = np.arange(start, min(start + _BLOCK, len(boxes)))
        free = np.array([not row.max(initial=0) > most_iou for row in rows_of_iou(boxes[block], boxes[kept])])
        block = block[free]
        overlaps = iou(boxes[block], boxes[block]) > most_iou
        is_kept = np.ones(len(block), bool)
        for place in range(len(block)):
            if is_kept[place]:
                is_kept[place + 1 :] &= ~overlaps[place, place + 1 :]
        kept = np.concatenate([kept, block[is_kept]])
    return kept[:most]


_BLOCK = 256
