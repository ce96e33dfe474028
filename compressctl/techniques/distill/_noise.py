"""Random inputs with the statistics that a network was trained on, as far as it tells them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.model import Signature, TensorSpec

_PROBES = 16
_MOST_CHANNELS = 16
"""Probing takes a forward pass per channel and scale; images have 1 to 4 channels."""


@dataclass(frozen=True)
class Noise:
    """Gaussian noise for one input. Images are sums of noise at several scales, as neighbouring pixels are alike.

    shape: of one sample. mean: () or per channel. variances: (scales, channels) where they were fitted to a network; without
    them values have the deviation std, each sample with its own mixture of scales.
    """

    shape: tuple[int, ...]
    dtype: str
    mean: np.ndarray
    variances: np.ndarray | None
    source: str
    std: float = 1.0

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, *shape)."""
        scales = _scales(self.shape)
        amplitudes = self._amplitudes(count, len(scales), rng)
        channels = (-1, *[1] * (len(self.shape) - 1))
        values = np.zeros((count, *self.shape), np.float64)
        for scale, amplitude in zip(scales, amplitudes, strict=True):
            values += amplitude * _unit(self.shape, scale, count, rng)
        return np.asarray(values + self.mean.reshape(channels), self.dtype)

    def _amplitudes(self, count: int, scales: int, rng: np.random.Generator) -> list[np.ndarray]:
        """Per scale, what standard normal values are multiplied by; fits (count, *shape) by broadcasting."""
        ones = [1] * (len(self.shape) - 1)
        if self.variances is not None:
            return [np.sqrt(row).reshape(1, -1, *ones) for row in self.variances]
        shares = rng.dirichlet(np.ones(scales), size=count)
        return [self.std * np.sqrt(shares[:, scale]).reshape(count, 1, *ones) for scale in range(scales)]


def noises(signature: Signature, teacher: nn.Module | None, mean: float = 0.0, std: float = 1.0) -> list[Noise]:
    """One per input. teacher: a torch network whose first BatchNorm tells the statistics of what it was trained on.
    mean, std: what holds where nothing is told.

    Raises UsageError for inputs that are no floats, such as tokens: any noise would be far from what they mean.
    """
    plain = [_plain(spec, mean, std) for spec in signature.inputs]
    if teacher is None or len(plain) != 1:
        return plain
    return [fitted(plain[0], teacher) or plain[0]]


def fitted(plain: Noise, network: nn.Module) -> Noise | None:
    """The noise for which the first BatchNorm would measure the mean and variance that it remembers.

    The way from the input to that layer is linear in most networks: its response to constants and to noise at each scale is
    measured, and the input's means and non-negative variances are found by least squares. None without such a layer.
    """
    norm = _first_norm(network, plain)
    if norm is None or (len(plain.shape) > 1 and plain.shape[0] > _MOST_CHANNELS):
        return None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    at_zero = _heard(network, norm, np.zeros((1, *plain.shape)))
    mean_gains = np.stack([_mean(_heard(network, norm, x) - at_zero) for x in _constants(plain.shape)], axis=1)
    wanted_mean = norm.running_mean.double().numpy() - _mean(at_zero)
    mean = np.linalg.lstsq(mean_gains, wanted_mean, rcond=None)[0]
    rng = np.random.default_rng(0)
    scales = _scales(plain.shape)
    if len(plain.shape) == 1:
        gains = mean_gains**2
    else:
        columns = [_variance(_heard(network, norm, _only(channel, _unit(plain.shape, scale, _PROBES, rng))) - at_zero)
                   for scale in scales for channel in range(plain.shape[0])]  # fmt: skip
        gains = np.stack(columns, axis=1)
    variances, _ = nnls(gains, norm.running_var.double().numpy())
    if not variances.any():
        return None
    name = next(path for path, module in network.named_modules() if module is norm)
    return Noise(plain.shape, plain.dtype, mean, variances.reshape(len(scales), -1), f"BatchNorm {name}")


def _plain(spec: TensorSpec, mean: float, std: float) -> Noise:
    if not spec.dtype.startswith("float"):
        raise UsageError(
            f"data_free makes random numbers, and the input {spec.name} takes {spec.dtype}",
            hint="give unlabelled samples in a data section, with label_weight: 0",
        )
    free = [axis for axis in spec.shape[1:] if isinstance(axis, str)]
    if free:
        raise UsageError(
            f"data_free needs sizes, and {spec.name} is {list(spec.shape)}", hint="export the model with fixed sizes"
        )
    shape = tuple(int(axis) for axis in spec.shape[1:])
    source = "standard normal" if (mean, std) == (0.0, 1.0) else f"mean {mean:g}, deviation {std:g}"
    return Noise(shape, spec.dtype, np.full(1, mean), None, source, std)


def _scales(shape: Sequence[int]) -> list[int]:
    """Sides of the squares of equal value, in pixels: powers of two up to the image's own size; [1] for what is no image."""
    return [2**power for power in range(1 + math.ceil(math.log2(max(1, *shape[1:]))))] if len(shape) == 3 else [1]


def _unit(shape: tuple[int, ...], scale: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Standard normal values in squares of that side, which begin at a random place."""
    if scale == 1:
        return rng.standard_normal((count, *shape))
    channels, height, width = shape
    coarse = rng.standard_normal((count, channels, height // scale + 2, width // scale + 2))
    fine = coarse.repeat(scale, axis=2).repeat(scale, axis=3)
    top, left = rng.integers(0, scale, 2)
    return fine[:, :, top : top + height, left : left + width]


def _constants(shape: tuple[int, ...]) -> list[np.ndarray]:
    """For each channel an input that is one there and zero elsewhere."""
    made = []
    for channel in range(shape[0]):
        values = np.zeros((1, *shape))
        values[0, channel] = 1.0
        made.append(values)
    return made


def _only(channel: int, values: np.ndarray) -> np.ndarray:
    kept = np.zeros_like(values)
    kept[:, channel] = values[:, channel]
    return kept


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def _first_norm(network: nn.Module, noise: Noise) -> nn.BatchNorm1d | nn.BatchNorm2d | None:
    """The BatchNorm with remembered statistics that runs first."""
    order: list[nn.Module] = []
    candidates = [module for module in network.modules() if isinstance(module, _NORMS) and module.track_running_stats]
    with ExitStack() as hooks:
        for module in candidates:
            hooks.enter_context(module.register_forward_hook(lambda module, given, output: order.append(module)))
        _run(network, np.zeros((1, *noise.shape)))
    first = order[0] if order else None
    return first if isinstance(first, _NORMS) else None


def _heard(network: nn.Module, norm: nn.Module, values: np.ndarray) -> np.ndarray:
    """What comes into the norm layer for these inputs, float64."""
    heard: list[Tensor] = []
    with norm.register_forward_pre_hook(lambda module, given: heard.append(given[0])):
        _run(network, values)
    return heard[0].double().numpy()


def _run(network: nn.Module, values: np.ndarray) -> None:
    with torch.no_grad():
        network.eval()(torch.as_tensor(values.astype(np.float32)))


def _mean(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.mean(axis=tuple(axis for axis in range(values.ndim) if axis != 1)))


def _variance(values: np.ndarray) -> np.ndarray:
    return np.asarray(values.var(axis=tuple(axis for axis in range(values.ndim) if axis != 1)))
