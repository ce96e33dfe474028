"""Accuracy of groups of samples before and after, and whether compressing widened the gap between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressctl.measure.results import SMALLEST_GROUP, ErrorGroups, GroupChange, GroupError, Groups

_RESAMPLES = 2000

MOST_GROUPS = 1000
"""Each is resampled, and listed in the report: a column of names that are nearly all different is none of groups."""

_DRAWN_AT_ONCE = 1 << 18


def group_changes(was_right: np.ndarray, is_right: np.ndarray, groups: np.ndarray) -> Groups | None:
    """was_right, is_right: (n,) bool. groups: (n,) names. None with fewer than two groups of a sensible size, and beyond MOST_GROUPS.

    The interval resamples each group's samples, a sample's two outcomes together: drawing samples with replacement is drawing
    the four counts (right or wrong before and after) from a multinomial.
    """
    rng = np.random.default_rng(0)
    found, before, after = [], [], []
    for name in _names(groups):
        was, is_ = was_right[groups == name], is_right[groups == name]
        found.append(one := change(str(name), was, is_))
        count, broken, mended = one.samples, one.right_to_wrong, one.wrong_to_right
        cells = np.array([np.sum(was & is_), broken, mended, np.sum(~was & ~is_)])
        if count >= SMALLEST_GROUP:
            drawn = rng.multinomial(count, cells / count, size=_RESAMPLES)
            before.append((drawn[:, 0] + drawn[:, 1]) / count * 100)
            after.append((drawn[:, 0] + drawn[:, 2]) / count * 100)
    gap = _gap(found, before, after)
    return None if gap is None else Groups(groups=sorted(found, key=lambda entry: entry.after - entry.before), **gap)


def change(name: str, was_right: np.ndarray, is_right: np.ndarray) -> GroupChange:
    """was_right, is_right: (n,) bool, of the samples that belong together."""
    return GroupChange(
        name=name,
        samples=len(was_right),
        before=float(was_right.mean() * 100),
        after=float(is_right.mean() * 100),
        right_to_wrong=int(np.sum(was_right & ~is_right)),
        wrong_to_right=int(np.sum(~was_right & is_right)),
    )


def group_errors(error_before: np.ndarray, error_after: np.ndarray, groups: np.ndarray) -> ErrorGroups | None:
    """error_before, error_after: (n,) absolute errors. groups: (n,) names. None as for `group_changes`.

    The interval resamples each group's samples, a sample's two errors together.
    """
    rng = np.random.default_rng(0)
    found, before, after = [], [], []
    for name in _names(groups):
        pairs = np.stack([error_before[groups == name], error_after[groups == name]])
        (was, is_), count = pairs.mean(axis=1), pairs.shape[1]
        found.append(GroupError(name=str(name), samples=count, before=float(was), after=float(is_)))
        if count >= SMALLEST_GROUP:
            drawn = _resampled(pairs, rng)
            before.append(drawn[0])
            after.append(drawn[1])
    gap = _gap(found, before, after)
    return (
        None if gap is None else ErrorGroups(groups=sorted(found, key=lambda entry: entry.before - entry.after), **gap)
    )


def _names(groups: np.ndarray) -> np.ndarray:
    """None of them where there are too many."""
    names = np.unique(groups)
    return names if len(names) <= MOST_GROUPS else names[:0]


def _resampled(pairs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(2, resamples) means. pairs: (2, n)."""
    count = pairs.shape[1]
    step = max(1, _DRAWN_AT_ONCE // count)
    sizes = [min(step, _RESAMPLES - start) for start in range(0, _RESAMPLES, step)]
    return np.concatenate([pairs[:, rng.integers(count, size=(size, count))].mean(axis=2) for size in sizes], axis=1)


def _gap(
    groups: Sequence[GroupChange | GroupError], before: Sequence[np.ndarray], after: Sequence[np.ndarray]
) -> dict[str, float] | None:
    """How far the groups lie apart, and the interval of what that became. before, after: by group, its resampled means."""
    compared = [entry for entry in groups if entry.samples >= SMALLEST_GROUP]
    if len(compared) < 2:
        return None
    gap_before, gap_after = np.ptp([entry.before for entry in compared]), np.ptp([entry.after for entry in compared])
    low, high = np.percentile(np.ptp(np.stack(after), axis=0) - np.ptp(np.stack(before), axis=0), [2.5, 97.5])
    return {
        "gap_before": float(gap_before),
        "gap_after": float(gap_after),
        "amplification": float(gap_after - gap_before),
        "low": float(low),
        "high": float(high),
    }
