"""Whether the calibration samples were enough: ranges that the last of them still widened are not those of the data."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from compressctl.core.events import Events
from compressctl.numerics.histogram import StreamingHistogram
from compressctl.numerics.ranges import find_range
from compressctl.techniques.quantize._calibrate import Calibration
from compressctl.techniques.quantize.params import RangeMethod

_GREW = 0.1
_MANY = 0.25
"""Extremes of independent values grow for ever, slowly: a tenth of them by a tenth is common where values have long tails (8 of 12
draws of 300 samples of 10 Laplace values), a quarter is not (2 of 12, and none of samples of 1,000 values)."""

_SHOWN = 4


def judge_samples(calibration: Calibration, exact: Collection[str], percent: float, events: Events) -> dict[str, Any]:
    """Facts for the report; a warning where the last quarter of the samples widened more than a quarter of the ranges by
    more than a tenth.

    exact: tensors whose range is everything seen. Of the others that part of it counts that holds `percent` of the values,
    whichever way their range is found.
    """
    if calibration.early is None:
        return {"calibration_enough": "not judged: its samples came in fewer than two calls of the model"}
    early = calibration.early
    grown = {}
    for tensor, whole in calibration.histograms.items():
        method: RangeMethod = "minmax" if tensor in exact else "percentile"
        before, after = (_span(part, method, percent) for part in (early[tensor], whole))
        if after > (1 + _GREW) * before:
            grown[tensor] = after / before - 1 if before else float("inf")
    most = sorted(grown, key=lambda tensor: -grown[tensor])[:_SHOWN]
    shown = {tensor: f"+{grown[tensor]:.0%}" if grown[tensor] < 100 else "from nothing" for tensor in most}
    if len(grown) <= _MANY * len(early):
        return {
            "calibration_enough": f"yes: its last quarter widened {len(grown)} of {len(early)} ranges by over a tenth"
        }
    what = (
        f"the last quarter of {calibration.samples} calibration samples widened {len(grown)} of {len(early)} ranges by over "
        f"a tenth ({', '.join(f'{tensor} {growth}' for tensor, growth in shown.items())})"
    )
    events.warn(f"too few calibration samples, or ones unlike each other: {what}; set data.calibration higher")
    return {"calibration_enough": f"no: {what}", "ranges_widened": shown}


def _span(histogram: StreamingHistogram, method: RangeMethod, percent: float) -> float:
    """What the range covers, zero included; 0 where nothing was seen."""
    if not histogram.high >= histogram.low:
        return 0.0
    low, high = find_range(histogram, method, percent)
    return float(max(high, 0.0) - min(low, 0.0))
