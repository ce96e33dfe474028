"""Encoded images to arrays: decoded with Pillow when a batch needs them, a few at a time."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np
from PIL import Image

from compressctl.core.data import ShapesDifferError
from compressctl.core.errors import CompressctlError, UsageError, first_line
from compressctl.core.regular_files import open_regular
from compressctl.sources.params import ImageSize

if TYPE_CHECKING:
    from PIL.Image import Image as Opened

_DECODERS = min(4, os.cpu_count() or 1)
_FEW = 8
"""Below this many images, starting threads costs more than it saves."""

_MOST_PIXELS = 1 << 26
"""Of one image: a few hundred bytes can claim a hundred times as many."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preparation:
    """What happens to each image, in this order. resize: the shorter side, or (height, width). crop: from the centre."""

    color: Literal["rgb", "gray"] = "rgb"
    resize: ImageSize | None = None
    crop: ImageSize | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"


def decode_all(sources: Sequence[Path | bytes], names: Sequence[str], preparation: Preparation) -> np.ndarray:
    """One batch of images as (n, height, width, channels) uint8.

    names: how to call each image in messages. Raises UsageError when one cannot be read, ShapesDifferError when they differ in size.
    """

    def decode(position: int) -> np.ndarray:
        return decode_one(sources[position], names[position], preparation)

    decoded = _map(decode, len(sources))
    if not decoded:
        return np.zeros((0, 0, 0, 3 if preparation.color == "rgb" else 1), np.uint8)
    for image, name in zip(decoded, names, strict=True):
        if image.shape != decoded[0].shape:
            raise ShapesDifferError(
                f"images differ in size: {name} is {_size(image)}, {names[0]} is {_size(decoded[0])}",
                hint="set data.resize to [height, width], or resize and center_crop",
            )
    return np.stack(decoded)


def decode_one(source: Path | bytes, name: str, preparation: Preparation) -> np.ndarray:
    """(height, width, channels) uint8. Raises UsageError when it is not a readable image."""
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file,
            _opened(file) as opened,
        ):
            _check_pixels(opened.height, opened.width, name)
            image = opened.convert("RGB" if preparation.color == "rgb" else "L")
    except (CompressctlError, MemoryError):
        raise
    except Exception as error:  # each of Pillow's decoders has its own
        raise UsageError(f"{name} is not an image that Pillow can read: {first_line(error)}") from error
    if preparation.resize is not None:
        height, width = _resized(image, preparation.resize)
        _check_pixels(height, width, f"{name}, resized,")
        image = image.resize((width, height), _RESAMPLING[preparation.interpolation])
    if preparation.crop is not None:
        image = _centre(image, preparation.crop, name)
    array = np.asarray(image, np.uint8)
    return array if array.ndim == 3 else array[..., None]


def _opened(file: BinaryIO) -> Opened:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused below
        return Image.open(file)


def _check_pixels(height: int, width: int, name: str) -> None:
    if height * width > _MOST_PIXELS:
        raise UsageError(f"{name} is {height}x{width}, more than the {_MOST_PIXELS:,} pixels that are read")


def _resized(image: Opened, size: ImageSize) -> tuple[int, int]:
    if not isinstance(size, int):
        return size
    scale = size / min(image.height, image.width)
    return max(size, round(image.height * scale)), max(size, round(image.width * scale))


def _centre(image: Opened, size: ImageSize, name: str) -> Opened:
    height, width = (size, size) if isinstance(size, int) else size
    if height > image.height or width > image.width:
        raise UsageError(
            f"{name} is {image.height}x{image.width}, smaller than the crop of {height}x{width}",
            hint="set data.resize to at least that",
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _map(decode: Callable[[int], np.ndarray], count: int) -> list[np.ndarray]:
    if count < _FEW or _DECODERS == 1:
        return [decode(position) for position in range(count)]
    with ThreadPoolExecutor(_DECODERS) as pool:
        return list(pool.map(decode, range(count)))
