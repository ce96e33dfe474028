"""The convention of language models: labels are the tokens themselves, and whoever compares them with outputs shifts.

Labels have the shape of the tokens, (samples, tokens); the logits at position t predict the label at t + 1. So the last
position's logits and the first label are compared with nothing. Labels of -100 do not count. `next_tokens` is the only place
that shifts: training, validation, distillation and measuring all come through it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.special import log_softmax

from compressctl.core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

IGNORED_LABEL = -100
"""A position that does not count. Source: PyTorch, `torch.nn.functional.cross_entropy`, default of ignore_index."""

_VALUES_AT_ONCE = 1 << 22
"""Logits that are held in float64 at a time: 32 MiB."""

Array = TypeVar("Array", np.ndarray, "Tensor")


def next_tokens(outputs: Array, labels: Array) -> tuple[Array, Array]:
    """Logits and the labels that they predict, side by side: (n, tokens - 1, vocabulary) and (n, tokens - 1), both views.

    outputs: (n, tokens, vocabulary) logits. labels: (n, tokens) token ids, -100 where a token does not count. NumPy or torch.
    Raises UsageError for other shapes, and for labels that are not in the vocabulary.
    """
    if outputs.ndim != 3 or tuple(labels.shape) != tuple(outputs.shape[:2]):
        raise UsageError(
            f"a language model gives (samples, tokens, vocabulary) and its labels are the tokens, (samples, tokens); here "
            f"they are {list(outputs.shape)} and {list(labels.shape)}",
            hint="the outputs are the model's first; leave the labels out of the data to have the input tokens taken",
        )
    predicted, following = outputs[:, :-1], labels[:, 1:]
    outside = (following != IGNORED_LABEL) & ((following < 0) | (following >= outputs.shape[2]))
    if bool(outside.any()):
        raise UsageError(
            f"a label is {int(following[outside][0])}, and the model's vocabulary has the tokens 0 to {outputs.shape[2] - 1}",
            hint=f"only {IGNORED_LABEL} marks tokens that do not count",
        )
    return predicted, following


def next_token_loss(outputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The torch form: mean cross-entropy in nats over the tokens that count, a scalar in float32; 0 where none does.

    outputs, labels: as `next_tokens` takes them.
    """
    from torch.nn import functional

    predicted, following = next_tokens(outputs, labels)
    total = functional.cross_entropy(
        predicted.reshape(-1, predicted.shape[-1]).float(),
        following.reshape(-1).long(),
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return total / (following != IGNORED_LABEL).sum().clamp(min=1)


def next_token_losses(outputs: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """The NumPy form, in float64: the sum of the cross-entropies in nats, and how many tokens count.

    outputs, labels: as `next_tokens` takes them. Sums of batches add up to those of the whole.
    """
    total, count = 0.0, 0
    for logits, wanted in _counted(outputs, labels):
        total -= float(log_softmax(logits, axis=-1)[np.arange(len(wanted)), wanted].sum())
        count += len(wanted)
    return total, count


def counted_logits(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Log-probabilities of two models at the positions that count, block by block, with the labels that follow.

    first, second: (n, tokens, vocabulary). Each block: (positions, vocabulary) float64 twice, and (positions,).
    """
    for (one, wanted), (other, _) in zip(_counted(first, labels), _counted(second, labels), strict=True):
        yield log_softmax(one, axis=-1), log_softmax(other, axis=-1), wanted


def counted_positions(labels: np.ndarray) -> np.ndarray:
    """Which positions of logits predict a token that counts. labels: (n, tokens); (n, tokens) bool, never the last position."""
    counted = np.zeros(labels.shape, bool)
    counted[:, :-1] = labels[:, 1:] != IGNORED_LABEL
    return counted


def _counted(outputs: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Logits (positions, vocabulary) in float64 and labels (positions,) of what counts, a few samples at a time."""
    predicted, following = next_tokens(outputs, labels)
    if predicted.size == 0:
        return
    step = max(1, _VALUES_AT_ONCE // (predicted.shape[1] * predicted.shape[2]))
    for start in range(0, len(predicted), step):
        logits, wanted = predicted[start : start + step], following[start : start + step]
        is_counted = wanted != IGNORED_LABEL
        if is_counted.any():
            yield logits[is_counted].astype(np.float64), wanted[is_counted]
