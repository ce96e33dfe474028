"""The outputs of models against the original's, channel by channel, and which output lost most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.numerics.channel_statistics import noise_to_signal

Inputs = Mapping[str, np.ndarray]
Run = Callable[[Inputs], Mapping[str, np.ndarray]]

_WORST = 4
"""A quarter of an output's channels: scores beside boxes are as few."""

_LOUDEST = 1.0
"""Noise as loud as the signal: an output that is lost can lose no more."""


@dataclass(frozen=True)
class Focus:
    """The output that lost most, and the channels of it that did."""

    output: str
    channels: np.ndarray

    def noise(self, ratios: Mapping[str, np.ndarray], most: float = _LOUDEST) -> float:
        """Noise to signal, the mean over these channels, each of which counts `most` at most."""
        found = ratios.get(self.output)
        if found is None or len(found) <= self.channels.max():
            return _LOUDEST
        return float(np.mean(np.clip(np.nan_to_num(found[self.channels], nan=0.0), 0.0, most)))


class OutputNoise:
    """run: the original. calls: the inputs that models are compared on."""

    def __init__(self, run: Run, calls: Sequence[Inputs]) -> None:
        self.calls = calls
        self._wanted = {name: values for name, values in _outputs(run, calls).items() if values[0].dtype.kind == "f"}
        self.names = tuple(self._wanted)

    def of(self, run: Run) -> dict[str, np.ndarray]:
        """By output, noise to signal of each channel; NaN of those that are silent."""
        found = _outputs(run, self.calls)
        return {
            name: noise_to_signal(wanted, found[name], _channels(wanted[0]))
            for name, wanted in self._wanted.items()
            if name in found
        }

    def whole_db(self, run: Run, name: str) -> float | None:
        """Of an output, over all its values."""
        return decibels(float(noise_to_signal(self._wanted[name], _outputs(run, self.calls)[name], None)[0]))


def focus_on(ratios: Mapping[str, np.ndarray]) -> Focus | None:
    """None where no output lost anything."""
    worst: tuple[float, Focus] | None = None
    for name, found in ratios.items():
        known = np.nan_to_num(found, nan=0.0)
        most = np.argsort(-known, kind="stable")[: -(-len(known) // _WORST)]
        focus = Focus(name, np.sort(most))
        noise = focus.noise(ratios)
        if noise > 0 and (worst is None or noise > worst[0]):
            worst = noise, focus
    return None if worst is None else worst[1]


def decibels(ratio: float) -> float | None:
    """Signal to noise; None without noise."""
    return None if not ratio > 0 else float(10 * np.log10(1 / ratio))


def _outputs(run: Run, calls: Sequence[Inputs]) -> dict[str, list[np.ndarray]]:
    outputs: dict[str, list[np.ndarray]] = {}
    for inputs in calls:
        for name, values in run(inputs).items():
            outputs.setdefault(name, []).append(np.array(values))
    return outputs


def _channels(values: np.ndarray) -> int | None:
    """The axis of an output's channels: of three axes the shorter, which are classes and box sides beside many places."""
    if values.ndim < 2:
        return None
    return 2 if values.ndim == 3 and values.shape[2] < values.shape[1] else 1
