"""What changed for single samples of models that give numbers or tokens, although the score may not show it."""

from __future__ import annotations

import numpy as np

from compressctl.measure.groups import group_errors
from compressctl.measure.results import Drift, TokenDrift
from compressctl.measure.score import Predictions
from compressctl.numerics.next_token import counted_logits
from compressctl.tasks.perplexity import perplexity

_NEIGHBOURS = 10
_COMPARED_NEIGHBOURHOODS = 2000
_NAMED_SAMPLES = 20


def drift(before: Predictions, after: Predictions, *, neighbours: bool) -> Drift | None:
    """Sample by sample, the two in the same order. None where an output is not finite or there are no samples.

    neighbours: also compare each sample's nearest others by cosine, among the first 2,000 samples.
    """
    old, new = (found.outputs.reshape(len(found.outputs), -1).astype(np.float64) for found in (before, after))
    if not len(old) or not np.isfinite(old).all() or not np.isfinite(new).all():
        return None
    moved = np.abs(new - old)
    by_sample = moved.mean(axis=1)
    cosine = _cosine(old, new) if old.shape[1] > 1 else None
    few = slice(_COMPARED_NEIGHBOURHOODS)
    errors = _absolute_errors(before, old, new)
    return Drift(
        mean_change=float(moved.mean()),
        largest_change=float(moved.max()),
        cosine_mean=None if cosine is None else float(cosine.mean()),
        cosine_least=None if cosine is None else float(cosine.min()),
        neighbours=neighbour_overlap(old[few], new[few]) if neighbours else None,
        error_p_value=None if errors is None else _signed_rank(errors[1] - errors[0]),
        worst=tuple(int(index) for index in before.indices[np.argsort(-by_sample, kind="stable")[:_NAMED_SAMPLES]]),
        groups=None if errors is None or before.groups is None else group_errors(*errors, before.groups),
    )


def neighbour_overlap(before: np.ndarray, after: np.ndarray, count: int = _NEIGHBOURS) -> float:
    """Mean share of each row's nearest rows by cosine (itself left out) that are still its nearest. (n, features) both."""
    count = min(count, len(before) - 1)
    if count < 1:
        return 1.0
    old, new = _nearest(before, count), _nearest(after, count)
    return float(np.mean([len(np.intersect1d(one, other)) / count for one, other in zip(old, new, strict=True)]))


def token_drift(before: Predictions, after: Predictions) -> TokenDrift | None:
    """At every position whose next token counts; see `numerics/next_token.py`. None without labels or finite outputs.

    outputs: (n, tokens, vocabulary) logits. labels: (n, tokens) tokens, -100 for those that do not count.
    """
    if before.labels is None or not all(np.isfinite(found.outputs).all() for found in (before, after)):
        return None
    sums = np.zeros(5)
    for old, new, following in counted_logits(before.outputs, after.outputs, before.labels):
        rows = np.arange(len(following))
        divergence = np.sum(np.exp(old) * (old - new))
        alike = np.sum(old.argmax(axis=1) == new.argmax(axis=1))
        sums += len(rows), divergence, alike, -old[rows, following].sum(), -new[rows, following].sum()
    tokens = int(sums[0])
    if tokens == 0:
        return None
    divergence, agreement, loss_before, loss_after = sums[1:] / tokens
    return TokenDrift(
        tokens=tokens,
        divergence=float(divergence),
        agreement=float(agreement),
        perplexity_before=perplexity.value(np.array([loss_before, 1.0])),
        perplexity_after=perplexity.value(np.array([loss_after, 1.0])),
    )


def _cosine(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
    # Two zero vectors are the same; one zero vector is like nothing.
    same = (norms == 0) & (np.abs(old - new).max(axis=1) == 0)
    return np.where(same, 1.0, np.sum(old * new, axis=1) / np.where(norms == 0, 1.0, norms))


def _nearest(rows: np.ndarray, count: int) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norms == 0, 1.0, norms)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    return np.argpartition(-likeness, count - 1, axis=1)[:, :count]


def _absolute_errors(before: Predictions, old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(n,) each: of every sample, before and after. None without labels to hold the outputs against."""
    if before.labels is None or before.labels.size != old.size:
        return None
    labels = before.labels.reshape(old.shape).astype(np.float64)
    return np.abs(old - labels).mean(axis=1), np.abs(new - labels).mean(axis=1)


def _signed_rank(difference: np.ndarray) -> float:
    """Whether absolute errors grew or shrank beyond chance. Source: Wilcoxon 1945."""
    from scipy.stats import wilcoxon

    return float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0
