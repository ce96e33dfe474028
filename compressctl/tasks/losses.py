"""Losses that a decoder's params define: of the outputs that it reads, with labels or with a teacher's outputs. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from compressctl.core.errors import UsageError
from compressctl.core.tasks import Distance, Loss
from compressctl.tasks.alphabet import letters_of
from compressctl.tasks.params import BoxForm, CtcParams, YoloParams
from compressctl.tasks.text import AXES, with_blank

_BOX_WEIGHT = 2.0
"""Of boxes beside scores, as Generalized Focal Loss weighs them (Li et al. 2020, section 4)."""

_SMALLEST = 1e-6
"""Share below which a logarithm is cut off."""


def ctc(params: CtcParams, base: Path) -> Loss:
    """Connectionist temporal classification (Graves et al. 2006): minus the log-likelihood of all alignments of each text, per letter.

    Texts that have more letters than the output has steps teach nothing.
    """
    alphabet = [*letters_of(params.alphabet, base), *([" "] if params.space else [])]

    def loss(outputs: Tensor, labels: Sequence[str]) -> Tensor:
        time, samples, classes = (AXES[params.axes][axis] for axis in (1, 0, 2))
        scores = outputs.float().permute(time, samples, classes)
        letters = with_blank(alphabet, scores.shape[2], params.blank)
        blank = params.blank % scores.shape[2]
        numbers = {letter: number for number, letter in enumerate(letters) if number != blank}
        texts = [_spelled(str(label), numbers) for label in labels]
        return functional.ctc_loss(
            _log_shares(scores),
            torch.tensor([number for text in texts for number in text], dtype=torch.long, device=scores.device),
            torch.full((len(texts),), len(scores), dtype=torch.long),
            torch.tensor([len(text) for text in texts], dtype=torch.long),
            blank=blank,
            zero_infinity=True,
        )

    return loss


def _log_shares(scores: Tensor) -> Tensor:
    """Of logits, or of what is shares already."""
    sums = scores.detach().sum(dim=-1)
    are_shares = bool((scores.detach() >= 0).all()) and bool((sums - 1).abs().max() < 1e-3)
    return scores.clamp(min=_SMALLEST).log() if are_shares else scores.log_softmax(dim=-1)


def _spelled(text: str, numbers: Mapping[str, int]) -> list[int]:
    """The classes of a text's letters, of which the longest that fits comes first."""
    longest, found, place = max(map(len, numbers), default=1), [], 0
    while place < len(text):
        sizes = range(min(longest, len(text) - place), 0, -1)
        letter = next((text[place : place + size] for size in sizes if text[place : place + size] in numbers), None)
        if letter is None:
            raise UsageError(
                f"the label {text!r} holds {text[place]!r}, which is no letter of the alphabet",
                hint="train on texts of the alphabet's letters, or give another alphabet",
            )
        found.append(numbers[letter])
        place += len(letter)
    return found


def yolo(params: YoloParams, base: Path) -> Distance:
    """How far a student's boxes and scores are from a teacher's, candidate by candidate; both have the same ones.

    Scores: cross-entropy with the teacher's as soft targets, by the square of their difference, so that the many candidates that are
    nothing weigh little. Boxes: 1 - generalised IoU, by the teacher's score. Li et al. 2020, Generalized Focal Loss,
    equation 6; Rezatofighi et al. 2019, Generalized Intersection over Union, section 3.
    """

    def distance(student: Tensor, teacher: Tensor) -> Tensor:
        boxes, scores = _candidates(student.float(), params)
        wanted_boxes, wanted = _candidates(teacher.float(), params)
        weight = wanted.amax(dim=2)
        total = weight.sum().clamp(min=1)
        entropy = functional.binary_cross_entropy(scores, wanted, reduction="none")
        of_scores = ((scores.detach() - wanted) ** 2 * entropy).sum() / total
        of_boxes = (weight * (1 - _generalised_iou(boxes, wanted_boxes))).sum() / total
        return of_scores + _BOX_WEIGHT * of_boxes

    return distance


def _candidates(outputs: Tensor, params: YoloParams) -> tuple[Tensor, Tensor]:
    """Corners (n, k, 4), and scores (n, k, classes) from 0 to 1."""
    boxes_last = outputs.shape[2] > outputs.shape[1] if params.boxes_axis is None else params.boxes_axis == 2
    rows = outputs.transpose(1, 2) if boxes_last else outputs
    scores = rows[..., 4:]
    if params.activation == "sigmoid":
        scores = scores.sigmoid()
    elif params.activation == "softmax":
        scores = scores.softmax(dim=-1)
    if params.objectness:
        scores = scores[..., 1:] * scores[..., :1]
    return _corners(rows[..., :4], params.boxes), scores.clamp(_SMALLEST, 1 - _SMALLEST)


def _corners(boxes: Tensor, form: BoxForm) -> Tensor:
    first, second = boxes[..., :2], boxes[..., 2:]
    match form:
        case "cxcywh":
            return torch.cat([first - second / 2, first + second / 2], dim=-1)
        case "xywh":
            return torch.cat([first, first + second], dim=-1)
        case "yxyx":
            return boxes[..., [1, 0, 3, 2]]
        case "xyxy":
            return boxes


def _generalised_iou(left: Tensor, right: Tensor) -> Tensor:
    """(n, k), from -1 to 1, of each box with its partner."""

    def area(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(dim=-1)

    common = area(torch.maximum(left[..., :2], right[..., :2]), torch.minimum(left[..., 2:], right[..., 2:]))
    around = area(torch.minimum(left[..., :2], right[..., :2]), torch.maximum(left[..., 2:], right[..., 2:]))
    union = area(left[..., :2], left[..., 2:]) + area(right[..., :2], right[..., 2:]) - common
    return common / union.clamp(min=1e-9) - (around - union) / around.clamp(min=1e-9)
