"""How much faster (or thriftier) one thing is than another, with an interval that a repeated measurement falls into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """value: median of the launches' ratios. low, high: 95 % interval."""

    value: float
    low: float
    high: float


def paired_ratio(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Ratio:
    """How many times `before` is of `after`. One array per launch of the processes, one value per round in it, all > 0.

    Rounds are paired, since both took turns in them. A launch decides where memory lies and which pages are shared, and so
    shifts all its rounds alike: launches are the independent units, and few. The standard error is therefore that of a
    two-level bootstrap (launches, then rounds within them) of the logarithm, and the interval takes Student's quantile for
    as many launches. Medians on both levels, so that one launch beside a busy neighbour widens the interval but does not
    move its centre. Source: Efron and Tibshirani 1993, section 8.3 (two-sample and nested resampling); Kalibera and Jones,
    "Rigorous benchmarking in reasonable time", ISMM 2013 (levels of repetition).
    """
    from scipy.special import stdtrit

    pairs = [np.log(np.asarray(old)) - np.log(np.asarray(new)) for old, new in zip(before, after, strict=True)]
    launches = len(pairs)
    centre = float(np.median([np.median(pair) for pair in pairs]))
    rng = np.random.default_rng(0)
    # medians[r, l]: the median of one resample of launch l's rounds.
    medians = np.stack(
        [np.median(pair[rng.integers(len(pair), size=(_RESAMPLES, len(pair)))], axis=1) for pair in pairs], axis=1
    )
    drawn = rng.integers(launches, size=(_RESAMPLES, launches))
    centres = np.median(np.take_along_axis(medians, drawn, axis=1), axis=1)
    if launches == 1:
        margin = 1.96 * float(centres.std())
    else:
        margin = float(stdtrit(launches - 1, 0.975)) * float(centres.std()) * (launches / (launches - 1)) ** 0.5
    return Ratio(float(np.exp(centre)), float(np.exp(centre - margin)), float(np.exp(centre + margin)))
