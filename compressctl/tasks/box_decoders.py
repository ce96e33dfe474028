"""Boxes read off the outputs of detectors: YOLO's, SSD's, DETR's, and those of files that suppress overlapping boxes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compressctl.core.errors import UsageError
from compressctl.core.tasks import Decode
from compressctl.sources.npz_file import NpzFile
from compressctl.tasks.boxes import corners, non_maximum_suppression
from compressctl.tasks.output_named import output_named
from compressctl.tasks.params import (
    Activation,
    BoxForm,
    BoxParams,
    DetrParams,
    FinishedParams,
    ScoredBoxParams,
    SsdParams,
    YoloParams,
)

Outputs = Mapping[str, np.ndarray]

_LARGEST_CLASS = 1 << 31


def yolo(params: YoloParams, base: Path) -> Decode:
    """One output of boxes with their scores: (n, boxes, numbers), or (n, numbers, boxes), told apart by which is longer."""
    first_class = 5 if params.objectness else 4

    def decode(outputs: Outputs) -> Sequence[np.ndarray]:
        given = output_named(outputs, params.output)
        if given.ndim != 3 or min(given.shape[1:]) <= first_class:
            raise UsageError(
                f"a YOLO output is (n, boxes, {first_class} + classes) or (n, {first_class} + classes, boxes), and the output is {list(given.shape)}",
                hint=f"name it in `decode: {{use: yolo, output: NAME}}`; the model has {_shapes(outputs)}",
            )
        boxes_last = given.shape[2] > given.shape[1] if params.boxes_axis is None else params.boxes_axis == 2
        rows = (given.transpose(0, 2, 1) if boxes_last else given).astype(np.float64)
        scores = _activated(rows[..., 4:], params.activation)
        classes = scores[..., 1:] * scores[..., :1] if params.objectness else scores
        return _selected(corners(rows[..., :4], params.boxes), classes, params)

    return decode


def ssd(params: SsdParams, base: Path) -> Decode:
    """Boxes (n, k, 4), as they are or as offsets from priors, and scores (n, k, classes); or a score and a class for each box."""
    stored = None if params.priors is None else _priors(base / params.priors)

    def decode(outputs: Outputs) -> Sequence[np.ndarray]:
        boxes, scores = _boxes_and_scores(
            outputs, params.boxes_output, params.scores_output, 2 if params.classes_output else 3
        )
        priors = stored if params.priors_output is None else output_named(outputs, params.priors_output)
        if priors is None:
            boxes = corners(boxes, params.boxes)
        else:
            boxes = _from_offsets(boxes, _corners_of_priors(priors, boxes, params.prior_boxes), params.variances)
        if params.classes_output is not None:
            classes = output_named(outputs, params.classes_output).reshape(scores.shape) - params.first_class
            return _finished(boxes, scores, classes, _counts(outputs, params.count_output, scores), params)
        scores = _activated(scores, params.activation)
        return _selected(boxes, _without(scores, params.background), params)

    return decode


def detr(params: DetrParams, base: Path) -> Decode:
    """Logits (n, queries, classes) and boxes (n, queries, 4). With softmax the last class is that of no object."""

    def decode(outputs: Outputs) -> Sequence[np.ndarray]:
        boxes, logits = _boxes_and_scores(outputs, params.boxes_output, params.logits_output, 3)
        scores = _activated(logits, params.activation)
        if params.activation == "softmax":
            scores = _left(scores[..., :-1], "softmax takes the last class for no object: set `activation: sigmoid`")
        return _selected(corners(boxes, params.boxes), scores, params)

    return decode


def finished(params: FinishedParams, base: Path) -> Decode:
    """One output (n, k, 6): four numbers, score, class, of a file that suppresses overlapping boxes itself."""

    def decode(outputs: Outputs) -> Sequence[np.ndarray]:
        rows = output_named(outputs, params.output).astype(np.float64)
        if rows.ndim != 3 or rows.shape[2] != 6:
            raise UsageError(
                f"finished boxes are (n, boxes, 6): four numbers, score, class; the output is {list(rows.shape)}",
                hint=f"name it with `output`; the model gives {_shapes(outputs)}",
            )
        return _finished(corners(rows[..., :4], params.boxes), rows[..., 4], rows[..., 5], None, params)

    return decode


def _selected(boxes: np.ndarray, scores: np.ndarray, params: ScoredBoxParams) -> list[np.ndarray]:
    """Of each sample's rows the best class, or every class, that reaches the threshold. boxes: (n, k, 4). scores: (n, k, classes)."""
    found = []
    for rows, sample in zip(boxes, scores, strict=True):
        if params.every_class:
            places, classes = np.nonzero(sample >= params.score)
        else:
            best = np.where(np.isnan(sample), -np.inf, sample).argmax(axis=1)
            places = np.flatnonzero(sample[np.arange(len(sample)), best] >= params.score)
            classes = best[places]
        found.append(_suppressed(rows[places], sample[places, classes], classes, params))
    return found


def _finished(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, counts: np.ndarray | None, params: BoxParams
) -> list[np.ndarray]:
    """Each sample's rows that reach the threshold. counts: (n,) how many of its rows are boxes, None where all are."""
    is_box = scores >= params.score
    if counts is not None:
        is_box &= np.arange(scores.shape[1]) < counts[:, None]
    return [
        _suppressed(boxes[sample][rows], scores[sample][rows], np.rint(classes[sample][rows]), params)
        for sample, rows in enumerate(is_box)
    ]


def _suppressed(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, params: BoxParams) -> np.ndarray:
    """(k, 6) in pixels of the input. Boxes that are no finite numbers are none, nor are those of a class that is no sensible number."""
    if params.input_size is not None:
        height, width = params.input_size
        boxes = boxes * np.array([width, height, width, height], np.float64)
    rows = np.concatenate([boxes, scores[:, None], classes[:, None]], axis=1)
    rows = rows[np.isfinite(rows).all(axis=1) & (np.abs(rows[:, 5]) <= _LARGEST_CLASS)]
    return non_maximum_suppression(rows, params.iou, params.most, class_agnostic=params.class_agnostic)


def _without(scores: np.ndarray, background: int | None) -> np.ndarray:
    if background is None:
        return scores
    if background >= scores.shape[-1]:
        raise UsageError(f"background: {background} is no class of scores {list(scores.shape)}")
    return _left(np.delete(scores, background, axis=-1), "the only class is the background: set `background: null`")


def _left(scores: np.ndarray, hint: str) -> np.ndarray:
    """The scores themselves. Raises UsageError where no class is among them."""
    if scores.shape[-1] == 0:
        raise UsageError("no class is left to which a box could belong", hint=hint)
    return scores


def _activated(scores: np.ndarray, activation: Activation) -> np.ndarray:
    if activation == "none":
        return scores
    with np.errstate(over="ignore", invalid="ignore"):
        if activation == "sigmoid":
            return np.asarray(1 / (1 + np.exp(-scores)))
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def _boxes_and_scores(
    outputs: Outputs, boxes_name: str | None, scores_name: str | None, axes: int
) -> tuple[np.ndarray, np.ndarray]:
    """float64 (n, k, 4), and (n, k) or (n, k, classes) by `axes`. Without a name: the one output of such a shape."""
    boxes_form, scores_form = "(n, boxes, 4)", "(n, boxes, classes)" if axes == 3 else "(n, boxes)"
    if boxes_name is None:
        [boxes_name] = _only(
            outputs, [name for name in outputs if name != scores_name and _is_boxes(outputs[name])], "boxes", boxes_form
        )
    boxes = output_named(outputs, boxes_name)
    if not _is_boxes(boxes):
        raise _misshapen("boxes", boxes_form, outputs)
    if scores_name is None:
        fitting = [
            name
            for name, array in outputs.items()
            if name != boxes_name and array.shape[:2] == boxes.shape[:2] and array.ndim == axes
        ]
        [scores_name] = _only(outputs, fitting, "scores", scores_form)
    scores = output_named(outputs, scores_name)
    if scores.ndim != axes or scores.shape[:2] != boxes.shape[:2]:
        raise _misshapen("scores", scores_form, outputs)
    return boxes.astype(np.float64), scores.astype(np.float64)


def _is_boxes(array: np.ndarray) -> bool:
    return array.ndim == 3 and array.shape[2] == 4


def _only(outputs: Outputs, fitting: list[str], what: str, form: str) -> list[str]:
    if len(fitting) != 1:
        raise _misshapen(what, form, outputs)
    return fitting


def _misshapen(what: str, form: str, outputs: Outputs) -> UsageError:
    return UsageError(
        f"{what} are one output {form}, and the model gives {_shapes(outputs)}",
        hint=f"name the output, as in `{what}_output: NAME`, or write a decoder of your own",
    )


def _shapes(outputs: Outputs) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in outputs.items())


def _counts(outputs: Outputs, name: str | None, scores: np.ndarray) -> np.ndarray | None:
    if name is None:
        return None
    counts = output_named(outputs, name)
    if counts.size != len(scores):
        raise UsageError(f"{name} counts each sample's boxes, and it is {list(counts.shape)} for {len(scores)} samples")
    return counts.reshape(-1)


def _priors(path: Path) -> np.ndarray:
    with NpzFile(path) as file:
        return file.get("priors")


def _corners_of_priors(priors: np.ndarray, boxes: np.ndarray, form: BoxForm) -> np.ndarray:
    """(k, 4). priors: (k, 4), or one for each sample, of which all have the same."""
    same = priors[0] if priors.ndim == 3 and len(priors) else priors
    if same.shape != boxes.shape[1:] or same.dtype.kind not in "iuf":
        raise UsageError(
            f"priors are {list(boxes.shape[1:])} numbers for boxes {list(boxes.shape)}, and they are {list(priors.shape)}"
        )
    return corners(same.astype(np.float64), form)


def _from_offsets(offsets: np.ndarray, priors: np.ndarray, variances: tuple[float, float]) -> np.ndarray:
    """Corners. offsets: of centre and size, in units of the prior's (Liu et al. 2016, section 2.2). priors: (k, 4) corners."""
    sizes = priors[:, 2:] - priors[:, :2]
    with np.errstate(over="ignore", invalid="ignore"):
        centres = priors[:, :2] + sizes / 2 + offsets[..., :2] * variances[0] * sizes
        return corners(np.concatenate([centres, sizes * np.exp(offsets[..., 2:] * variances[1])], axis=-1), "cxcywh")
