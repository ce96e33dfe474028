"""Whether activations on the test split stay inside the ranges that calibration fixed: data unlike the calibration's do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compressctl.core.data import Dataset, Split, SplitName
from compressctl.core.feeds import first_feeds
from compressctl.core.model import OnnxModel, Signature
from compressctl.core.quant import TensorQuant
from compressctl.graph.codes import range_of
from compressctl.graph.edit import names_in
from compressctl.graph.execute import ActivationRecorder

SAMPLES = 16
_AT_ONCE = 4
_NOTABLE = 1e-3
"""Of a tensor's values: percentiles cut off a hundredth of that, searched ranges somewhat more."""

_TIMES = 4
"""As many as on the calibration split: what a range cuts off there, it was chosen to cut off."""

_MANY, _MUCH = 0.1, 0.05
_SHOWN = 4


@dataclass(frozen=True)
class Coverage:
    """samples: of the test split. tensors: with fixed ranges. outside: by tensor, the share of its values beyond its range,
    where that is more than calibration data account for, the largest first. share: of all values together, 0 to 1.
    """

    samples: int
    tensors: int
    outside: Mapping[str, float]
    share: float

    @property
    def is_notable(self) -> bool:
        return len(self.outside) > _MANY * self.tensors or max(self.outside.values(), default=0.0) > _MUCH

    def __str__(self) -> str:
        if not self.outside:
            return f"the activations of {self.samples} test samples stay inside all {self.tensors} ranges"
        shown = ", ".join(f"{name} {share:.1%}" for name, share in list(self.outside.items())[:_SHOWN])
        return (
            f"{len(self.outside)} of {self.tensors} tensors leave their range on {self.samples} test samples, which the "
            f"calibration samples do not ({shown} of their values)"
        )


def range_coverage(
    model: OnnxModel, data: Dataset, split: SplitName = "test", samples: int = SAMPLES
) -> Coverage | None:
    """The float graph's activations on the first samples of a split against the plan's ranges.

    None where no activation has a fixed range, and where that or the calibration split is empty. Raises StageError when
    the graph does not run.
    """
    fixed = {} if model.quant is None else model.quant.activations
    known = names_in(model.body.graph) if fixed else set()
    ranges = {name: _bounds(quant) for name, quant in fixed.items() if np.size(quant.scale) == 1 and name in known}
    asked, calibration = data.split(split), data.split("calibration")
    if not ranges or not len(asked) or not len(calibration):
        return None
    tapped = ActivationRecorder(model.body, list(ranges))
    found, seen = _outside(tapped, ranges, asked, model.signature, samples)
    usual, _ = _outside(tapped, ranges, calibration, model.signature, samples)
    if not seen:
        return None
    shares = {name: outside / max(size, 1) for name, (outside, size) in found.items()}
    before = {name: outside / max(size, 1) for name, (outside, size) in usual.items()}
    notable = {name: share for name, share in shares.items() if share > max(_NOTABLE, _TIMES * before[name])}
    total = sum(size for _, size in found.values())
    return Coverage(
        seen,
        len(ranges),
        dict(sorted(notable.items(), key=lambda item: -item[1])),
        sum(outside for outside, _ in found.values()) / max(total, 1),
    )


def _bounds(quant: TensorQuant) -> tuple[float, float]:
    """The least and the largest number that rounding leaves where it is, half a step beyond the outermost codes."""
    (low, high), half = range_of(quant), float(np.asarray(quant.scale).item()) / 2
    return low - half, high + half


def _outside(
    tapped: ActivationRecorder,
    ranges: Mapping[str, tuple[float, float]],
    split: Split,
    signature: Signature,
    samples: int,
) -> tuple[dict[str, tuple[int, int]], int]:
    """By tensor, how many values lie beyond its range and how many there are; and of how many samples."""
    counts: dict[str, tuple[int, int]] = dict.fromkeys(ranges, (0, 0))
    seen = 0
    for feed in first_feeds(split, signature, samples, _AT_ONCE):
        values = tapped.run(feed.inputs)
        seen += feed.count
        for name, (low, high) in ranges.items():
            beyond = int(np.count_nonzero((values[name] < low) | (values[name] > high)))
            counts[name] = counts[name][0] + beyond, counts[name][1] + values[name].size
    return counts, seen
