"""Resize as torch's interpolation, where the two mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressctl.sources.graph_network.numbers import as_list, as_tensor
from compressctl.sources.graph_network.words import NoCounterpartError


def resize(given: Sequence[Any], attributes: Mapping[str, Any]) -> Tensor:
    """Spatial axes alone. Raises NoCounterpartError, in words, for coordinates and roundings that torch has none of."""
    value = given[0]
    scales, sizes = _asked(given, attributes)
    spatial = value.ndim - 2
    mode = attributes.get("mode", "nearest")
    way = attributes.get("coordinate_transformation_mode", "half_pixel" if attributes["opset"] > 10 else "asymmetric")
    if scales is not None:
        if any(scale != 1 for scale in scales[:-spatial]):
            raise NoCounterpartError("Resize of batch or channels")
        scales = scales[-spatial:]
        sizes = [_scaled(size, scale) for size, scale in zip(value.shape[2:], scales, strict=True)]
        is_whole = all(scale == int(scale) for scale in scales)
    else:
        assert sizes is not None
        sizes = sizes[-spatial:]
        is_whole = all(
            isinstance(old, int) and isinstance(new, int) and new % old == 0
            for old, new in zip(value.shape[2:], sizes, strict=True)
        )
    # Between sizes that are no multiples, what is read where follows the scale and not the sizes.
    by: dict[str, Any] = {"size": list(sizes)}
    if scales is not None and not is_whole and way != "align_corners":
        by = {"scale_factor": [scale * _ROUNDED_UP for scale in scales], "recompute_scale_factor": False}
    if mode == "nearest":
        return _nearest(
            value,
            by,
            way,
            attributes.get("nearest_mode", "round_prefer_floor"),
            is_old=attributes["opset"] <= 10,
            is_whole=is_whole,
        )
    name = {"linear": ("linear", "bilinear", "trilinear")[spatial - 1], "cubic": "bicubic"}[mode]
    if way not in ("half_pixel", "pytorch_half_pixel", "align_corners") or attributes.get("antialias"):
        raise NoCounterpartError(f"Resize with {mode} at {way}")
    if mode == "cubic" and (spatial != 2 or abs(attributes.get("cubic_coeff_a", -0.75) + 0.75) > 1e-6):
        raise NoCounterpartError("cubic Resize of other than images, or with a coefficient of its own")
    return functional.interpolate(value, **by, mode=name, align_corners=way == "align_corners")


def _asked(given: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[list[float] | None, list[int] | None]:
    """Scales, or sizes, of all axes."""
    if "scales" in attributes:  # Upsample before opset 9
        return list(attributes["scales"]), None
    if attributes["opset"] <= 10 or len(given) == 2:
        return _floats(given[1]), None
    if len(given) > 3 and given[3] is not None:
        return None, as_list(given[3])
    return _floats(given[2]), None


def _floats(value: Any) -> list[float]:
    return [float(one) for one in (value.tolist() if isinstance(value, Tensor) else as_list(value))]


def _scaled(size: int, scale: float) -> int:
    """Downwards, of the product in single precision; of a size that is open while a network is traced, the open one."""
    if scale == int(scale):
        return size * int(scale)
    if isinstance(size, int):
        return int(np.float32(size) * np.float32(scale))
    # The product of an open size has no rounding of its own: up by half of what single precision tells apart.
    found: int = torch.sym_int(size * (scale * _ROUNDED_UP))
    return found


_ROUNDED_UP = 1 + 2.0**-24


def _nearest(value: Tensor, by: Mapping[str, Any], way: str, rounding: str, *, is_old: bool, is_whole: bool) -> Tensor:
    """by: the size or the scale. is_whole: every size is a multiple of the old one."""
    if (
        is_old
        or (way == "asymmetric" and rounding == "floor")
        or (is_whole and way in ("asymmetric", "half_pixel") and rounding in ("floor", "round_prefer_floor"))
    ):
        exact = way == "half_pixel" and not is_old
        return functional.interpolate(value, **by, mode="nearest-exact" if exact else "nearest")
    raise NoCounterpartError(f"nearest Resize at {way}, {rounding}")


def as_resize(given: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[list[Tensor | None], dict[str, Any]]:
    """Inputs and attributes of a Resize of the newest form that means the same."""
    value, (scales, sizes) = given[0], _asked(given, attributes)
    kept = {name: entry for name, entry in attributes.items() if name not in ("scales", "opset", "outputs")}
    if attributes["opset"] <= 10:
        kept |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    if scales is not None:
        return [value, None, torch.tensor(scales, dtype=torch.float32, device=value.device)], kept
    return [value, None, None, as_tensor(sizes, like=[value])], kept
