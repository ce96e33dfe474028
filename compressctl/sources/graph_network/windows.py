"""Operators that look through a window: padding, pooling, and convolutions whose weight is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from compressctl.sources.graph_network.numbers import as_list
from compressctl.sources.graph_network.types import Attributes, Given
from compressctl.sources.graph_network.words import NoCounterpartError


def pad(given: Given, attributes: Attributes) -> Tensor:
    value, mode = given[0], attributes.get("mode", "constant")
    pads = as_list(given[1]) if len(given) > 1 and given[1] is not None else list(attributes["pads"])
    axes = as_list(given[3]) if len(given) > 3 and given[3] is not None else list(range(value.ndim))
    fill = given[2] if len(given) > 2 and given[2] is not None else attributes.get("value", 0.0)
    fill = float(fill.item()) if isinstance(fill, Tensor) else float(fill[0] if isinstance(fill, list) else fill)
    around = {axis % value.ndim: (pads[place], pads[place + len(axes)]) for place, axis in enumerate(axes)}
    return padded(value, [around.get(axis, (0, 0)) for axis in range(value.ndim)], mode, fill)


def padded(value: Tensor, around: Sequence[tuple[int, int]], mode: str = "constant", fill: float = 0.0) -> Tensor:
    """around: what comes before and after, by axis; less than nothing cuts off."""
    # Whether an open size is 0 is not asked: that would fix it.
    first = next((axis for axis, pair in enumerate(around) if not all(_is_nothing(size) for size in pair)), value.ndim)
    if first == value.ndim:
        return value
    if mode != "constant":
        # torch wants the last two axes of four, and the last three of five.
        first = min(first, 2) if value.ndim > 3 else max(first, 1)
    flat = [size for pair in reversed(around[first:]) for size in pair]
    if mode == "constant":
        return functional.pad(value, flat, value=fill)
    return functional.pad(value, flat, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _is_nothing(size: int) -> bool:
    return isinstance(size, int) and size == 0


def pooled(given: Given, attributes: Attributes, *, takes_most: bool) -> Tensor:
    value, kernel = given[0], list(attributes["kernel_shape"])
    strides, dilations = (
        list(attributes.get("strides", [1] * len(kernel))),
        list(attributes.get("dilations", [1] * len(kernel))),
    )
    around = window_pads(value.shape[2:], kernel, strides, dilations, attributes)
    ceil = bool(attributes.get("ceil_mode", 0))
    is_even = all(before == after and 2 * before <= size for (before, after), size in zip(around, kernel, strict=True))
    counts = bool(attributes.get("count_include_pad", 0))
    dims = len(kernel) - 1
    if takes_most:
        pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[dims]
        if is_even:
            return pool(value, kernel, strides, [before for before, _ in around], dilations, ceil)
        return pool(padded(value, [(0, 0), (0, 0), *around], fill=-math.inf), kernel, strides, 0, dilations, ceil)
    mean = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[dims]
    if any(size != 1 for size in dilations):
        raise NoCounterpartError("AveragePool with dilations")
    if is_even:
        return mean(value, kernel, strides, [before for before, _ in around], ceil, counts)
    ends = [(0, 0), (0, 0), *around]
    total = mean(padded(value, ends), kernel, strides, 0, ceil, True)
    return total if counts else total / mean(padded(torch.ones_like(value), ends), kernel, strides, 0, ceil, True)


def window_pads(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    attributes: Attributes,
) -> list[tuple[int, int]]:
    """Before and after each spatial axis, as pads or auto_pad say."""
    mode = attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for size, window, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            # Rounded up without a negative number, which ONNX would round the other way.
            span = (window - 1) * dilation + 1
            missing = ((size + stride - 1) // stride - 1) * stride + span - size
            if span < stride:
                missing = torch.sym_max(missing, 0)  # type: ignore[no-untyped-call]
            less, more = missing // 2, missing - missing // 2
            found.append((less, more) if mode == "SAME_UPPER" else (more, less))
        return found
    pads = list(attributes.get("pads", [0] * 2 * len(kernel))) if mode != "VALID" else [0] * 2 * len(kernel)
    return list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))


def same_padded(given: Given, attributes: Attributes) -> Tensor:
    """In front of a convolution whose padding follows the size of what it reads."""
    value, kernel = given[0], attributes["kernel_shape"]
    around = window_pads(value.shape[2:], kernel, attributes["strides"], attributes["dilations"], attributes)
    return padded(value, [(0, 0), (0, 0), *around])


def convolved(given: Given, attributes: Attributes) -> Tensor:
    """With a weight that is computed."""
    value, weight, *rest = given
    dims = weight.ndim - 2
    strides, dilations = list(attributes.get("strides", [1] * dims)), list(attributes.get("dilations", [1] * dims))
    around = window_pads(value.shape[2:], list(weight.shape[2:]), strides, dilations, attributes)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[dims - 1]
    value = padded(value, [(0, 0), (0, 0), *around])
    return convolve(value, weight, rest[0] if rest else None, strides, 0, dilations, attributes.get("group", 1))


def transposed(given: Given, attributes: Attributes) -> Tensor:
    """A transposed convolution that no layer of torch's is: its weight is computed or in half precision, or its ends differ."""
    value, weight, *rest = given
    dims = weight.ndim - 2
    strides, dilations = list(attributes.get("strides", [1] * dims)), list(attributes.get("dilations", [1] * dims))
    convolve = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[dims - 1]
    whole = convolve(value, weight, None, strides, 0, 0, attributes.get("group", 1), dilations)
    longer = list(attributes.get("output_padding", [0] * dims))
    sizes = [size + more for size, more in zip(whole.shape[2:], longer, strict=True)]
    cuts = _cuts(sizes, [size * stride for size, stride in zip(value.shape[2:], strides, strict=True)], attributes)
    around = [(-before, more - after) for (before, after), more in zip(cuts, longer, strict=True)]
    made = padded(whole, [(0, 0), (0, 0), *around])
    return made if not rest else made + rest[0].reshape(-1, *[1] * dims)


def _cuts(sizes: Sequence[int], strided: Sequence[int], attributes: Attributes) -> list[tuple[int, int]]:
    """How much a transposed convolution leaves out at each end of its axes. sizes: of all that it makes. strided: the sizes that it reads times its
    strides, which it writes where auto_pad asks for the same."""
    mode = attributes.get("auto_pad", "NOTSET")
    wanted = attributes.get("output_shape") or (strided if mode in ("SAME_UPPER", "SAME_LOWER") else None)
    if wanted is None:
        return window_pads(sizes, sizes, [], [], attributes)
    missing = [whole - size for whole, size in zip(sizes, wanted, strict=True)]
    return [(one // 2, one - one // 2) if mode == "SAME_UPPER" else (one - one // 2, one // 2) for one in missing]
