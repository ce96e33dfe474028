"""Accuracy of groups of samples before and after, and whether compressing widened the gap between them."""

from __future__ import annotations

import numpy as np

from compressctl.measure.results import ErrorGroups, GroupChange, GroupError, Groups, Interval

SMALLEST_GROUP = 10
"""Samples below which one group's accuracy says nothing; such groups are listed but do not make the gap."""

_RESAMPLES = 2000


def group_changes(was_right: np.ndarray, is_right: np.ndarray, groups: np.ndarray) -> Groups | None:
    """was_right, is_right: (n,) bool. groups: (n,) names. None with fewer than two groups of a sensible size.

    The interval resamples each group's samples, a sample's two outcomes together: drawing samples with replacement is drawing
    the four counts (right or wrong before and after) from a multinomial.
    """
    rng = np.random.default_rng(0)
    found, before, after, points = [], [], [], []
    for name in np.unique(groups):
        mine = groups == name
        was, is_ = was_right[mine], is_right[mine]
        cells = np.array([np.sum(was & is_), np.sum(was & ~is_), np.sum(~was & is_), np.sum(~was & ~is_)])
        count = int(mine.sum())
        found.append(
            GroupChange(
                name=str(name),
                samples=count,
                before=float(was.mean() * 100),
                after=float(is_.mean() * 100),
                right_to_wrong=int(cells[1]),
                wrong_to_right=int(cells[2]),
            )
        )
        if count >= SMALLEST_GROUP:
            points.append(found[-1])
            drawn = rng.multinomial(count, cells / count, size=_RESAMPLES)
            before.append((drawn[:, 0] + drawn[:, 1]) / count * 100)
            after.append((drawn[:, 0] + drawn[:, 2]) / count * 100)
    if len(points) < 2:
        return None
    gap_before = max(entry.before for entry in points) - min(entry.before for entry in points)
    gap_after = max(entry.after for entry in points) - min(entry.after for entry in points)
    drawn_change = np.ptp(np.stack(after), axis=0) - np.ptp(np.stack(before), axis=0)
    low, high = np.percentile(drawn_change, [2.5, 97.5])
    return Groups(
        groups=tuple(sorted(found, key=lambda entry: entry.after - entry.before)),
        gap_before=gap_before,
        gap_after=gap_after,
        amplification=gap_after - gap_before,
        interval=Interval(float(low), float(high)),
    )


def group_errors(error_before: np.ndarray, error_after: np.ndarray, groups: np.ndarray) -> ErrorGroups | None:
    """error_before, error_after: (n,) absolute errors. groups: (n,) names. None with fewer than two groups of a sensible size.

    The interval resamples each group's samples, a sample's two errors together.
    """
    rng = np.random.default_rng(0)
    found, points, before, after = [], [], [], []
    for name in np.unique(groups):
        was, is_ = error_before[groups == name], error_after[groups == name]
        found.append(GroupError(str(name), len(was), float(was.mean()), float(is_.mean())))
        if len(was) >= SMALLEST_GROUP:
            points.append(found[-1])
            pairs = np.stack([was, is_])
            drawn = np.array([pairs[:, rng.integers(len(was), size=len(was))].mean(axis=1) for _ in range(_RESAMPLES)])
            before.append(drawn[:, 0])
            after.append(drawn[:, 1])
    if len(points) < 2:
        return None
    gap_before = max(entry.before for entry in points) - min(entry.before for entry in points)
    gap_after = max(entry.after for entry in points) - min(entry.after for entry in points)
    low, high = np.percentile(np.ptp(np.stack(after), axis=0) - np.ptp(np.stack(before), axis=0), [2.5, 97.5])
    return ErrorGroups(
        groups=tuple(sorted(found, key=lambda entry: entry.before - entry.after)),
        gap_before=gap_before,
        gap_after=gap_after,
        amplification=gap_after - gap_before,
        interval=Interval(float(low), float(high)),
    )
