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

_SMALL_PIXELS = 1 << 20
"""For so many there is memory wherever this runs."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preparation:
    """What happens to each image, in this order. resize: the shorter side, or (height, width). crop: from the centre.

    height: of the whole image, its width in proportion but no more than most_width.
    """

    color: Literal["rgb", "gray"] = "rgb"
    resize: ImageSize | None = None
    crop: ImageSize | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    height: int | None = None
    most_width: int | None = None


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
    image = _read(source, name, lambda opened: opened.convert("RGB" if preparation.color == "rgb" else "L"))
    array = np.asarray(_prepared(image, name, preparation, preparation.interpolation), np.uint8)
    return array if array.ndim == 3 else array[..., None]


def decode_masks(sources: Sequence[Path], names: Sequence[str], preparation: Preparation) -> np.ndarray:
    """One batch of masks as (n, height, width) uint16: pixels as they are stored, numbers of a palette's colours included.

    Raises UsageError when one cannot be read or holds colours, ShapesDifferError when they differ in size.
    """
    masks = _map(lambda position: _decode_mask(sources[position], names[position], preparation), len(sources))
    for mask, name in zip(masks, names, strict=True):
        if mask.shape != masks[0].shape:
            raise ShapesDifferError(f"masks differ in size: {name} is {_size(mask)}, {names[0]} is {_size(masks[0])}")
    return np.stack(masks) if masks else np.zeros((0, 0, 0), np.uint16)


def _decode_mask(source: Path, name: str, preparation: Preparation) -> np.ndarray:
    image = _read(source, name, lambda opened: opened.convert("L") if opened.mode == "1" else opened.copy())
    if image.mode not in ("P", "L", "I", "I;16"):
        raise UsageError(
            f"{name} is no mask: it holds colours ({image.mode}), not a number for each pixel",
            hint="masks are grey or palette images whose pixels are classes",
        )
    array = np.asarray(_prepared(image, name, preparation, "nearest"))
    if array.size and not 0 <= array.min() <= array.max() <= 65_535:
        raise UsageError(f"{name} has pixels of {array.max()}: a class is below 65536")
    return array.astype(np.uint16)


def _read(source: Path | bytes, name: str, convert: Callable[[Opened], Opened]) -> Opened:
    size: int | None = None
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file,
            _opened(file) as opened,
        ):
            _check_pixels(opened.height, opened.width, name)
            size = opened.height * opened.width
            return convert(opened)
    except CompressctlError:
        raise
    except (
        Exception
    ) as error:  # each of Pillow's decoders has its own; of a broken stream PNG's says that memory is short
        if isinstance(error, MemoryError) and (size is None or size > _SMALL_PIXELS):
            raise
        raise UsageError(f"{name} is not an image that Pillow can read: {first_line(error)}") from error


def _prepared(image: Opened, name: str, preparation: Preparation, interpolation: str) -> Opened:
    """Resized, then cropped."""
    if preparation.resize is not None or preparation.height is not None or preparation.most_width is not None:
        height, width = _resized(image, preparation)
        _check_pixels(height, width, f"{name}, resized,")
        image = image.resize((width, height), _RESAMPLING[interpolation])
    return image if preparation.crop is None else _centre(image, preparation.crop, name)


def _opened(file: BinaryIO) -> Opened:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused below
        return Image.open(file)


def _check_pixels(height: int, width: int, name: str) -> None:
    if height * width > _MOST_PIXELS:
        raise UsageError(f"{name} is {height}x{width}, more than the {_MOST_PIXELS:,} pixels that are read")


def _resized(image: Opened, preparation: Preparation) -> tuple[int, int]:
    size = preparation.resize
    if size is None:
        height = preparation.height or image.height
        width = max(1, round(image.width * height / image.height))
        return height, width if preparation.most_width is None else min(width, preparation.most_width)
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
