"""How much faster (or thriftier) one thing is than another, with an interval that another measurement falls into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 2000

BETWEEN_RUNS = 0.011
"""Standard deviation of the logarithm of a ratio between measurements of the same files by the same protocol, each of which agrees
within itself: other minutes, other addresses, another caller around the same call. The larger of the two root mean squares that
`benchmarks/intervals.py` found; docs/report.md has the figures.
"""


@dataclass(frozen=True)
class Paired:
    """One array per launch of the processes, one value per round in it, all > 0; both took turns in every round."""

    before: Sequence[np.ndarray]
    after: Sequence[np.ndarray]


@dataclass(frozen=True)
class Ratio:
    """value: median of the launches' ratios. low, high: 95 % interval for another measurement of the same two.

    alternating: the ratio of calls that alternate, None where these were not measured. between_launches: upper over lower end
    of what launches alone leave open, which more of them would narrow.
    """

    value: float
    low: float
    high: float
    alternating: float | None
    between_launches: float


def paired_ratio(back_to_back: Paired, alternating: Paired | None = None) -> Ratio:
    """How many times `before` is of `after`.

    Three things make two measurements of the same files differ, and each has its term:

    - Launches. A launch decides where memory lies and which pages are shared, and so shifts all its rounds alike: launches are
      the independent units, and few. The standard error is that of a two-level bootstrap (launches, then rounds within them)
      of the logarithm, with Student's quantile for as many launches. Medians on both levels, so that one launch beside a busy
      neighbour widens the interval but does not move its centre.
    - Protocol. A file that runs call after call keeps the caches to itself; one whose calls alternate with another's does not.
      That is no noise, it is as large as 12 %, and both are right: the interval reaches from one to the other.
    - Everything between runs that agree within themselves: `BETWEEN_RUNS`, added as a variance.

    value is that of calls back to back, which is what latencies are measured by.
    Source: Efron and Tibshirani 1993, section 8.3 (nested resampling); Kalibera and Jones, "Rigorous benchmarking in
    reasonable time", ISMM 2013 (levels of repetition); DerSimonian and Laird 1986 (variances within and between studies add).
    """
    protocols = [back_to_back, *([] if alternating is None else [alternating])]
    estimates = [_between_launches(found) for found in protocols]
    reaches = [(centre, float(np.hypot(margin, 1.96 * BETWEEN_RUNS))) for centre, margin in estimates]
    return Ratio(
        value=float(np.exp(estimates[0][0])),
        low=float(np.exp(min(centre - margin for centre, margin in reaches))),
        high=float(np.exp(max(centre + margin for centre, margin in reaches))),
        alternating=float(np.exp(estimates[1][0])) if alternating is not None else None,
        between_launches=float(np.exp(2 * max(margin for _, margin in estimates))),
    )


def _between_launches(found: Paired) -> tuple[float, float]:
    """Centre and half width of the 95 % interval of the logarithm of the ratio, over launches alone."""
    from scipy.special import stdtrit

    pairs = [
        np.log(np.asarray(old)) - np.log(np.asarray(new)) for old, new in zip(found.before, found.after, strict=True)
    ]
    launches = len(pairs)
    centre = float(np.median([np.median(pair) for pair in pairs]))
    rng = np.random.default_rng(0)
    # medians[r, l]: the median of one resample of launch l's rounds.
    medians = np.stack(
        [np.median(pair[rng.integers(len(pair), size=(_RESAMPLES, len(pair)))], axis=1) for pair in pairs], axis=1
    )
    drawn = rng.integers(launches, size=(_RESAMPLES, launches))
    error = float(np.median(np.take_along_axis(medians, drawn, axis=1), axis=1).std())
    if launches == 1:
        return centre, 1.96 * error
    return centre, float(stdtrit(launches - 1, 0.975)) * error * (launches / (launches - 1)) ** 0.5
