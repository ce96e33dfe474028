"""Detection: average precision by COCO's rules, and boxes against the original's. A result is (k, 6): x1, y1, x2, y2, score, class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from compressctl.core.errors import MissingDependencyError
from compressctl.core.objects import as_objects
from compressctl.core.tasks import Tally
from compressctl.tasks.boxes import best_first, positions_by_class, rows_of_iou
from compressctl.tasks.metric_specs import BOX_EVALUATOR

_MATCH = 0.5
"""Intersection over union from which on a box counts as the original's."""

_MOST = 100
"""Boxes of an image that count, the best ones: COCO's rule."""

_LARGEST_CLASS = 1 << 53
"""Up to which float64 tells whole numbers apart."""

_MOST_CLASSES = 20_000
"""With labels: the evaluator keeps a curve for each of them, and at each threshold."""

_COCO = tuple(0.5 + 0.05 * step for step in range(10))


def average_precision(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Mean over IoU 0.50 to 0.95 and over the classes with labels, in percent; NaN where no sample has a label.

    outputs: n of (k, 6). labels: n of (k, 5) x1, y1, x2, y2, class; a sixth number of 1 marks a crowd, boxes in which do not count.
    """
    return _mean(_by_class(outputs, labels, _COCO))


def average_precision_50(outputs: np.ndarray, labels: np.ndarray) -> float:
    return _mean(_by_class(outputs, labels, (0.5,)))


def average_precision_75(outputs: np.ndarray, labels: np.ndarray) -> float:
    return _mean(_by_class(outputs, labels, (0.75,)))


def by_class(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    return _by_class(outputs, labels, _COCO)


def by_class_50(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    return _by_class(outputs, labels, (0.5,))


def by_class_75(outputs: np.ndarray, labels: np.ndarray) -> dict[int, float]:
    return _by_class(outputs, labels, (0.75,))


def _mean(classes: dict[int, float]) -> float:
    return float(np.mean(list(classes.values()))) if classes else np.nan


def _by_class(outputs: np.ndarray, labels: np.ndarray, least_iou: Sequence[float]) -> dict[int, float]:
    """Raises ValueError where labels or results are no boxes."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingDependencyError("average precision of boxes", *BOX_EVALUATOR) from error
    if len(outputs) != len(labels):
        raise ValueError(f"{len(outputs)} results for {len(labels)} samples with labels")
    wanted = [_checked(label, (5, 6), "labels") for label in labels]
    found = [_checked(output, (6,), "a result") for output in outputs]
    classes = sorted({int(number) for label in wanted for number in label[:, 4]})
    if not classes:
        return {}
    if len(classes) > _MOST_CLASSES:
        raise ValueError(f"labels are of {len(classes):,} classes; {_MOST_CLASSES:,} are scored")
    truth = [row for number, label in enumerate(wanted) for row in _labels(number, label)]
    given = [row for number, output in enumerate(found) for row in _results(number, output, classes)]
    sets = []
    for boxes in (truth, given):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(len(wanted))],
            "categories": [{"id": number} for number in classes],
            "annotations": [{**box, "id": place} for place, box in enumerate(boxes, 1)],  # an id of 0 means none
        }
        coco.createIndex()
        sets.append(coco)
    evaluated = COCOeval_faster(*sets, "bbox", print_function=lambda *words: None)
    evaluated.params.maxDets, evaluated.params.iouThrs = [_MOST], np.array(least_iou)
    evaluated.params.areaRng, evaluated.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluated.evaluate()
    evaluated.accumulate()
    precision = evaluated.eval["precision"].reshape(len(least_iou), -1, len(classes))
    means = precision.mean(axis=(0, 1))
    # -1 marks a class that has nothing but crowds.
    return {number: float(100 * mean) for number, mean in zip(classes, means, strict=True) if mean > -1}


def _checked(boxes: np.ndarray, widths: tuple[int, ...], what: str) -> np.ndarray:
    boxes = np.asarray(boxes)
    if boxes.size == 0 and boxes.ndim < 2:  # as an empty list is
        return np.zeros((0, widths[0]))
    if boxes.ndim != 2 or boxes.shape[1] not in widths or boxes.dtype.kind not in "iuf":
        form = "x1, y1, x2, y2, class" if 5 in widths else "x1, y1, x2, y2, score, class"
        raise ValueError(f"{what} of a sample should be (boxes, {widths[0]}): {form}; found {list(boxes.shape)}")
    if not np.isfinite(boxes).all():
        raise ValueError(f"{what} of a sample holds a number that is not finite")
    if boxes.size and np.abs(boxes[:, widths[0] - 1]).max() > _LARGEST_CLASS:
        raise ValueError(f"{what} of a sample holds a class beyond {_LARGEST_CLASS:,}")
    return boxes.astype(np.float64)


def _labels(image: int, boxes: np.ndarray) -> list[dict[str, object]]:
    crowd = boxes[:, 5] if boxes.shape[1] > 5 else np.zeros(len(boxes))
    return [
        {**_box(image, box), "category_id": int(box[4]), "iscrowd": int(mark)}
        for box, mark in zip(boxes, crowd, strict=True)
    ]


def _results(image: int, boxes: np.ndarray, classes: Sequence[int]) -> list[dict[str, object]]:
    """Those that may count: of classes that have labels, the best of each."""
    boxes = boxes[np.isin(boxes[:, 5].astype(np.int64), classes)]
    boxes = boxes[best_first(boxes)]
    groups = [group[:_MOST] for group in positions_by_class(boxes)]
    return [
        {**_box(image, box), "category_id": int(box[5]), "score": float(box[4]), "iscrowd": 0}
        for box in boxes[np.sort(np.concatenate([np.zeros(0, np.int64), *groups]))]
    ]


def _box(image: int, box: np.ndarray) -> dict[str, object]:
    width, height = (max(0.0, float(side)) for side in box[2:4] - box[:2])
    return {"image_id": image, "bbox": [float(box[0]), float(box[1]), width, height], "area": width * height}


def matches(before: np.ndarray, after: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of positions: each box of the first, best first, with the one of its class that it overlaps most, by 0.5 at least."""
    order = best_first(before)
    given = {float(after[group[0], 5]): group for group in positions_by_class(after)}
    pairs = []
    for group in positions_by_class(before[order]):
        old, new = order[group], given.get(float(before[order[group[0]], 5]))
        if new is None:
            continue
        is_free = np.ones(len(new), bool)
        for position, overlap in zip(old.tolist(), rows_of_iou(before[old], after[new]), strict=True):
            best = int(np.where(is_free, overlap, 0).argmax())
            if is_free[best] and overlap[best] >= _MATCH:
                pairs.append((position, int(new[best])))
                is_free[best] = False
    return pairs


class Boxes:
    unit = "boxes"
    rule = "the same class, and an intersection over union of 0.5 at least, one to one"

    def as_labels(self, results: np.ndarray) -> np.ndarray:
        return as_objects([boxes[:, [0, 1, 2, 3, 5]] for boxes in results])

    def tally(self, before: np.ndarray, after: np.ndarray) -> Tally:
        """Raises ValueError where a result is no boxes."""
        reference: Counter[int] = Counter()
        kept: Counter[int] = Counter()
        given: Counter[int] = Counter()
        equal = 0
        for old, new in zip(before, after, strict=True):
            old, new = _checked(old, (6,), "a result"), _checked(new, (6,), "a result")
            pairs = matches(old, new)
            equal += len(pairs) == len(old) == len(new)
            reference.update(old[:, 5].astype(int).tolist())
            given.update(new[:, 5].astype(int).tolist())
            kept.update(int(old[position, 5]) for position, _ in pairs)
        by_class = {
            number: (reference[number], kept[number], given[number] - kept[number])
            for number in sorted({*reference, *given})
        }
        added = given.total() - kept.total()
        return Tally(reference.total(), kept.total(), added, equal, by_class)


BOXES = Boxes()
