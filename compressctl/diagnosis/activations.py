"""What a plan's ranges make of activations: how many values lie outside, and what the channels hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from compressctl.core.quant import TensorQuant
from compressctl.diagnosis.noise import Inputs
from compressctl.graph.codes import range_of
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.sites import Site
from compressctl.numerics.channel_statistics import ChannelStatistics, channel_statistics

_ORDINARY = 0.01
"""Of a tensor's largest number: what is below is none of the few that a mask put there."""


@dataclass(frozen=True)
class Activation:
    """A tensor on some calls, against its range.

    channels: of its finite values. outside: how many values lie beyond the range. cut: the energy that they lose there. ordinary: the
    largest of the values that are small beside the range.
    """

    quant: TensorQuant
    channels: ChannelStatistics
    outside: int
    cut: float
    ordinary: float

    @property
    def step(self) -> float:
        return float(np.asarray(self.quant.scale).item())

    @property
    def count(self) -> float:
        return float(self.channels.count.sum())

    @property
    def share_outside(self) -> float:
        return self.outside / self.count

    @property
    def share_cut(self) -> float:
        """Of the tensor's rounding noise, what the range's ends make."""
        rounding = self.count * self.step**2 / 12
        return self.cut / (self.cut + rounding)

    @property
    def noise(self) -> float:
        """Noise to signal of its own channels, the mean over those that vary."""
        variance = self.channels.variance
        alive = variance > 0
        noise = self.step**2 / 12 + self.cut / self.count
        return float(np.mean(np.minimum(1.0, noise / variance[alive]))) if alive.any() else 0.0

    @property
    def flat(self) -> int:
        """Channels that vary, by less than half a step: rounding makes them constant."""
        span = self.channels.span
        return int(np.count_nonzero((span > 0) & (span < self.step / 2)))

    @property
    def alive(self) -> int:
        return int(np.count_nonzero(self.channels.span > 0))

    @property
    def outlying(self) -> float:
        """The widest channel's span over the median's."""
        span = self.channels.span[self.channels.span > 0]
        return float(span.max() / np.median(span)) if len(span) > 1 else 1.0


def observed(
    body: onnx.ModelProto, ranges: Mapping[str, TensorQuant], sites: Sequence[Site], calls: Sequence[Inputs]
) -> dict[str, Activation]:
    """By tensor, in the order of `ranges`."""
    recorder = ActivationRecorder(body, list(ranges))
    convolved = {name for site in sites if site.op == "Conv" for name in (*site.inputs, site.output)}
    found: dict[str, Activation] = {}
    for inputs in calls:
        for name, values in recorder.run(inputs).items():
            seen = _one(values, ranges[name], _axis(values, name in convolved))
            found[name] = _both(found[name], seen) if name in found else seen
    return {name: found[name] for name in ranges if name in found}


def _one(values: np.ndarray, quant: TensorQuant, axis: int | None) -> Activation:
    low, high = range_of(quant)
    beyond = np.maximum(np.maximum(low - values, values - high), 0.0).astype(np.float64)
    sizes = np.abs(values)
    largest = max(abs(low), abs(high))
    return Activation(
        quant,
        channel_statistics(values, axis),
        int(np.count_nonzero(beyond > float(np.asarray(quant.scale).item()) / 2)),
        float(np.sum(beyond**2)),
        float(sizes[sizes < _ORDINARY * largest].max(initial=0.0)),
    )


def _both(one: Activation, other: Activation) -> Activation:
    return replace(
        one,
        channels=one.channels.added(other.channels),
        outside=one.outside + other.outside,
        cut=one.cut + other.cut,
        ordinary=max(one.ordinary, other.ordinary),
    )


def _axis(values: np.ndarray, is_convolved: bool) -> int | None:
    if values.ndim < 2:
        return None
    return 1 if is_convolved or values.ndim > 3 else values.ndim - 1
