"""AdaRound: whether each weight is rounded up or down, learned from what the layer's output loses by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STRETCH_LOW, STRETCH_HIGH = -0.1, 1.1
"""The sigmoid is stretched beyond 0 and 1 and cut off there, so that it reaches both (Louizos et al. 2018)."""

_WARM_UP = 0.2
"""Share of the steps in which only the output's error counts, before weights are pushed to 0 or 1."""

_BETA_FIRST, _BETA_LAST = 20.0, 2.0
_REGULARIZER = 0.5
"""Per weight, where rounding one weight the other way costs about 1."""

_SMALLEST_UNIT = 1e-24
"""Of inputs that are all zero, or weights that nearly are. Gradients divided by it stay within float32 when squared."""

_LEARNING_RATE = 0.05
_DECAY_FIRST, _DECAY_SECOND, _EPSILON = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Layer:
    """What one layer computes: y = clip(x W^T + b), by group; a layer without groups has one.

    weight: (groups, out, in). scale: (groups, out, 1), of the codes low .. high. bias: (groups, 1, out).
    bounds: of the activation behind it: (0, inf) for a Relu, (-inf, inf) for none.
    """

    weight: np.ndarray
    scale: np.ndarray
    low: int
    high: int
    bias: np.ndarray
    bounds: tuple[float, float]

    def output(self, inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """(groups, rows, out) of inputs (groups, rows, in), with another weight."""
        return np.asarray(np.clip(inputs @ weight.transpose(0, 2, 1) + self.bias, *self.bounds))

    def error(self, codes: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> float:
        """The mean squared error of the outputs with these codes against targets (groups, rows, out)."""
        difference = self.output(inputs, np.asarray(codes * self.scale, np.float32)) - targets
        return float(np.mean(np.square(difference, dtype=np.float64)))


def nearest(layer: Layer) -> np.ndarray:
    """float32 codes, the shape of the weight: rounded half to even, saturated."""
    return np.asarray(np.clip(np.rint(layer.weight / layer.scale), layer.low, layer.high), np.float32)


def adaround(
    layer: Layer, inputs: np.ndarray, targets: np.ndarray, steps: int, batch: int, rng: np.random.Generator
) -> np.ndarray:
    """float32 codes, each the floor of weight / scale or one more.

    inputs: (groups, rows, in), what the layer really gets, its predecessors quantized. targets: (groups, rows, out), what it
    made of the float network's inputs, activation included. What is learned is V with W~ = s clip(floor(W / s) + h(V)), by
    Adam on || clip(W~ x + b) - y ||^2 + lambda sum(1 - |2 h(V) - 1|^beta), beta falling from 20 to 2.
    Source: Nagel et al. 2020, Up or Down? Adaptive Rounding for Post-Training Quantization, equations 21 to 25.
    """
    ratio = np.asarray(layer.weight / layer.scale, np.float32)
    floor = np.floor(ratio)
    learned = _logit(ratio - floor)
    first, second = np.zeros_like(learned), np.zeros_like(learned)
    power = np.mean(np.square(inputs, dtype=np.float64), axis=(1, 2)).reshape(-1, 1, 1)
    # Each output's error in units of what one weight costs that is rounded the other way; outputs share no weights. What the
    # activation cuts off costs nothing.
    counts = np.mean((targets > layer.bounds[0]) & (targets < layer.bounds[1]), axis=1)[:, :, None]
    unit = np.square(layer.scale, dtype=np.float64) * power * np.maximum(counts, 1 / max(inputs.shape[1], 1))
    unit = np.maximum(unit, _SMALLEST_UNIT).astype(np.float32)
    rows = inputs.shape[1]
    for step in range(steps):
        chosen = rng.integers(0, rows, min(batch, rows))
        up, slope = _rectified(learned)
        codes = np.clip(floor + up, layer.low, layer.high)
        free = (floor + up > layer.low) & (floor + up < layer.high)
        gradient = _error_gradient(layer, codes, inputs[:, chosen], targets[:, chosen]) * (free * layer.scale / unit)
        gradient = gradient + _regularizer_gradient(up, step / steps)
        gradient *= slope
        first += (1 - _DECAY_FIRST) * (gradient - first)
        second += (1 - _DECAY_SECOND) * (gradient * gradient - second)
        size = _LEARNING_RATE * np.sqrt(1 - _DECAY_SECOND ** (step + 1)) / (1 - _DECAY_FIRST ** (step + 1))
        learned -= np.float32(size) * first / (np.sqrt(second) + np.float32(_EPSILON))
    return np.asarray(np.clip(floor + (_rectified(learned)[0] >= 0.5), layer.low, layer.high), np.float32)


def _error_gradient(layer: Layer, codes: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of the squared error, summed over outputs and averaged over rows, by the weight: (groups, out, in)."""
    raw = inputs @ np.asarray(codes * layer.scale, np.float32).transpose(0, 2, 1) + layer.bias
    difference = np.clip(raw, *layer.bounds) - targets
    difference *= (raw > layer.bounds[0]) & (raw < layer.bounds[1])
    gradient: np.ndarray = difference.transpose(0, 2, 1) @ inputs * np.float32(2 / inputs.shape[1])
    return gradient


def _regularizer_gradient(up: np.ndarray, done: float) -> np.ndarray | np.float32:
    """Of lambda sum(1 - |2 h - 1|^beta) by h. done: share of the steps that are behind."""
    if done < _WARM_UP:
        return np.float32(0)
    share = (done - _WARM_UP) / (1 - _WARM_UP)
    beta = _BETA_LAST + 0.5 * (_BETA_FIRST - _BETA_LAST) * (1 + np.cos(share * np.pi))
    away = 2 * up - 1
    return np.asarray(-_REGULARIZER * 2 * beta * np.sign(away) * np.abs(away) ** (beta - 1), np.float32)


def _rectified(learned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """h(V) between 0 and 1, and its derivative."""
    sigmoid = 1 / (1 + np.exp(-learned))
    stretched = sigmoid * np.float32(STRETCH_HIGH - STRETCH_LOW) + np.float32(STRETCH_LOW)
    inside = (stretched > 0) & (stretched < 1)
    return np.clip(stretched, 0, 1), np.float32(STRETCH_HIGH - STRETCH_LOW) * sigmoid * (1 - sigmoid) * inside


def _logit(fraction: np.ndarray) -> np.ndarray:
    """V with h(V) = fraction."""
    inside = (fraction - STRETCH_LOW) / (STRETCH_HIGH - STRETCH_LOW)
    return np.asarray(np.log(inside / (1 - inside)), np.float32)
