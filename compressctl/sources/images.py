"""Encoded images to arrays: decoded with Pillow when a batch needs them, a few at a time."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeVar

import numpy as np
from PIL import ExifTags, Image

from compressctl.core.data import ShapesDifferError
from compressctl.core.errors import CompressctlError, UsageError, first_line
from compressctl.core.machine import library_threads
from compressctl.core.regular_files import open_regular
from compressctl.sources.normalize import Normalization
from compressctl.sources.params import ImageSize, PixelParams

if TYPE_CHECKING:
    from PIL.Image import Image as Opened

_MOST_DECODERS = 4
_FEW = 8
"""Below this many images, starting threads costs more than it saves."""

_MOST_PIXELS = 1 << 26
"""Of one image: a few hundred bytes can claim a hundred times as many."""

_SMALL_PIXELS = 1 << 20
"""For so many there is memory wherever this runs."""

Decoded = TypeVar("Decoded")

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preparation:
    """What happens to each image, in this order. resize: the shorter side, or (height, width). crop: from the centre.

    letterbox: an image keeps its ratio within (height, width), and `fill` lies around it, or right and below. height: of the whole
    image, its width in proportion but no more than most_width. orientation: whether an image is turned as its EXIF data say.
    """

    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: ImageSize | None = None
    crop: ImageSize | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    letterbox: Literal["center", "corner"] | None = None
    fill: int = 0
    height: int | None = None
    most_width: int | None = None
    orientation: Literal["displayed", "stored"] = "displayed"

    @classmethod
    def of(cls, params: PixelParams) -> Preparation:
        return cls(
            params.color,
            params.resize,
            params.center_crop,
            params.interpolation,
            params.letterbox,
            params.fill,
            orientation=params.orientation,
        )


@dataclass(frozen=True)
class Placement:
    """Where an image lies once it is prepared. original, resized, size: its (height, width) as it is read, resized, and of the result.

    top, left: of the resized image in the result, negative where that begins inside the image.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    size: tuple[int, int]
    top: int
    left: int

    def boxes(self, corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(k, 4) x1, y1, x2, y2 in pixels of the image as in those of the result, cut at its edges, and (k,) whether anything remains."""
        (height, width), (original_height, original_width) = self.size, self.original
        inside = np.clip(corners, 0, [original_width, original_height] * 2)
        scale = np.array([self.resized[1] / original_width, self.resized[0] / original_height] * 2)
        moved = np.clip(inside * scale + [self.left, self.top] * 2, 0, [width, height] * 2)
        return moved, (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])


def as_inputs(images: np.ndarray, params: PixelParams) -> np.ndarray:
    """(n, height, width, channels) uint8 as a model takes it: float32, normalised, axes in its order."""
    values = Normalization(params.scale, params.mean, params.std).apply(images, axis=3)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if params.layout == "NCHW" else values


def decode_all(sources: Sequence[Path | bytes], names: Sequence[str], preparation: Preparation) -> np.ndarray:
    """One batch of images as (n, height, width, channels) uint8.

    names: how to call each image in messages. Raises UsageError when one cannot be read, ShapesDifferError when they differ in size.
    """
    return decode_placed(sources, names, preparation)[0]


def decode_placed(
    sources: Sequence[Path | bytes], names: Sequence[str], preparation: Preparation
) -> tuple[np.ndarray, list[Placement]]:
    """The same, and where each image lies in it."""

    def decode(position: int) -> tuple[np.ndarray, Placement]:
        return _decode(sources[position], names[position], preparation)

    decoded = _map(decode, len(sources))
    if not decoded:
        return np.zeros((0, 0, 0, 1 if preparation.color == "gray" else 3), np.uint8), []
    images = [image for image, _ in decoded]
    for image, name in zip(images, names, strict=True):
        if image.shape != images[0].shape:
            raise ShapesDifferError(
                f"images differ in size: {name} is {_size(image)}, {names[0]} is {_size(images[0])}",
                hint="set data.resize to [height, width], or resize and center_crop",
            )
    return np.stack(images), [placement for _, placement in decoded]


def decode_one(source: Path | bytes, name: str, preparation: Preparation) -> np.ndarray:
    """(height, width, channels) uint8. Raises UsageError when it is not a readable image."""
    return _decode(source, name, preparation)[0]


def _decode(source: Path | bytes, name: str, preparation: Preparation) -> tuple[np.ndarray, Placement]:
    image = _read(
        source, name, preparation, lambda opened: _in_channels(opened, "L" if preparation.color == "gray" else "RGB")
    )
    array, placement = _prepared(image, name, preparation, preparation.interpolation, preparation.fill)
    array = array if array.ndim == 3 else array[..., None]
    return array[..., ::-1] if preparation.color == "bgr" else array, placement


def decode_masks(
    sources: Sequence[Path], names: Sequence[str], preparation: Preparation
) -> tuple[np.ndarray, list[Placement]]:
    """One batch of masks as (n, height, width) int32: pixels as they are stored, numbers of a palette's colours included; where each lies.

    -1 where no pixel of the mask is, beside what is letterboxed. Raises UsageError when one cannot be read or holds colours,
    ShapesDifferError when they differ in size.
    """
    decoded = _map(lambda position: _decode_mask(sources[position], names[position], preparation), len(sources))
    masks = [mask for mask, _ in decoded]
    for mask, name in zip(masks, names, strict=True):
        if mask.shape != masks[0].shape:
            raise ShapesDifferError(f"masks differ in size: {name} is {_size(mask)}, {names[0]} is {_size(masks[0])}")
    stacked = np.stack(masks) if masks else np.zeros((0, 0, 0), np.int32)
    return stacked, [placement for _, placement in decoded]


def _decode_mask(source: Path, name: str, preparation: Preparation) -> tuple[np.ndarray, Placement]:
    image = _read(
        source, name, preparation, lambda opened: opened.convert("L") if opened.mode == "1" else opened.copy()
    )
    if image.mode not in ("P", "L", "I", "I;16"):
        raise UsageError(
            f"{name} is no mask: it holds colours ({image.mode}), not a number for each pixel",
            hint="masks are grey or palette images whose pixels are classes",
        )
    pixels = np.asarray(image)
    if pixels.size and not 0 <= pixels.min() <= pixels.max() <= 65_535:
        raise UsageError(f"{name} has pixels of {pixels.max()}: a class is below 65536")
    return _prepared(image, name, preparation, "nearest", -1)


def _in_channels(opened: Opened, mode: str) -> Opened:
    """Without alpha. Pillow warns of palettes in which colours have one each, unless that is asked for first."""
    has_alpha = opened.mode == "P" and isinstance(opened.info.get("transparency"), bytes)
    return (opened.convert("RGBA") if has_alpha else opened).convert(mode)


_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
"""Pillow would try forty more, some of which believe any length that a file says (GIMP's brushes)."""


def _read(source: Path | bytes, name: str, preparation: Preparation, convert: Callable[[Opened], Opened]) -> Opened:
    size: int | None = None
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file,
            _opened(file) as opened,
        ):
            _check_pixels(opened.height, opened.width, name)
            size = opened.height * opened.width
            image = convert(opened)
            return _turned(image, opened) if preparation.orientation == "displayed" else image
    except CompressctlError:
        raise
    except (
        Exception
    ) as error:  # each of Pillow's decoders has its own; of a broken stream PNG's says that memory is short
        if isinstance(error, MemoryError) and (size is None or size > _SMALL_PIXELS):
            raise
        raise UsageError(f"{name} is not an image that Pillow can read: {first_line(error)}") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's number of an orientation (CIPA DC-008, Exif 2.32, section 4.6.4): what shows the image upright."""


def _turned(image: Opened, opened: Opened) -> Opened:
    """Upright, as viewers, OpenCV and the tools that boxes are drawn in show it. EXIF data that cannot be read turn nothing.

    Pillow turns a TIFF itself when it loads it, and takes the number out.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            turn = _TURNS.get(opened.getexif().get(ExifTags.Base.Orientation, 1))
        except Exception:  # of the data beside the pixels: whatever stands there, the pixels were read
            return image
    return image if turn is None else image.transpose(turn)


def _prepared(
    image: Opened, name: str, preparation: Preparation, interpolation: str, fill: int
) -> tuple[np.ndarray, Placement]:
    """Resized, letterboxed, cropped. fill: what stands beside a letterboxed image; below 0 it makes the result int32."""
    placed = _placement(image.height, image.width, name, preparation)
    if placed.resized != placed.original:
        image = image.resize(placed.resized[::-1], _RESAMPLING[interpolation])
    pixels = np.asarray(image)
    pixels = pixels.astype(np.int32) if fill < 0 else pixels.astype(np.uint8, copy=False)
    if (placed.top, placed.left, placed.size) == (0, 0, placed.resized):
        return pixels, placed
    result = np.full((*placed.size, *pixels.shape[2:]), fill, pixels.dtype)
    (top, bottom), (left, right) = (
        (max(0, start), min(size, start + length))
        for start, size, length in zip((placed.top, placed.left), placed.size, placed.resized, strict=True)
    )
    result[top:bottom, left:right] = pixels[
        top - placed.top : bottom - placed.top, left - placed.left : right - placed.left
    ]
    return result, placed


def _placement(height: int, width: int, name: str, preparation: Preparation) -> Placement:
    """Raises UsageError for results that are too large, and crops that are larger than the image."""
    original, letterbox, size = (height, width), preparation.letterbox, preparation.resize
    if letterbox is not None and isinstance(size, tuple):
        ratio = min(size[0] / height, size[1] / width)
        resized = min(size[0], max(1, round(height * ratio))), min(size[1], max(1, round(width * ratio)))
        top, left = ((size[0] - resized[0]) // 2, (size[1] - resized[1]) // 2) if letterbox == "center" else (0, 0)
    else:
        size = resized = _resized(height, width, preparation)
        top = left = 0
    _check_pixels(*size, f"{name}, resized,")
    if preparation.crop is not None:
        crop = (preparation.crop, preparation.crop) if isinstance(preparation.crop, int) else preparation.crop
        if crop[0] > size[0] or crop[1] > size[1]:
            raise UsageError(
                f"{name} is {size[0]}x{size[1]}, smaller than the crop of {crop[0]}x{crop[1]}",
                hint="set data.resize to at least that",
            )
        top, left, size = top - round((size[0] - crop[0]) / 2), left - round((size[1] - crop[1]) / 2), crop
    return Placement(original, resized, size, top, left)


def _opened(file: BinaryIO) -> Opened:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused below
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of data beside the pixels
        return Image.open(file, formats=_FORMATS)


def _check_pixels(height: int, width: int, name: str) -> None:
    if height * width > _MOST_PIXELS:
        raise UsageError(f"{name} is {height}x{width}, more than the {_MOST_PIXELS:,} pixels that are read")


def _resized(height: int, width: int, preparation: Preparation) -> tuple[int, int]:
    size = preparation.resize
    if isinstance(size, tuple):
        return size
    if size is not None:
        # The longer side is cut off, not rounded, as in torchvision, timm and transformers: a pixel more moves all that are cropped.
        return size * height // min(height, width), size * width // min(height, width)
    if preparation.height is None and preparation.most_width is None:
        return height, width
    wanted = preparation.height or height
    proportional = max(1, round(width * wanted / height))
    return wanted, proportional if preparation.most_width is None else min(proportional, preparation.most_width)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _map(decode: Callable[[int], Decoded], count: int) -> list[Decoded]:
    decoders = min(_MOST_DECODERS, library_threads() or os.cpu_count() or 1)
    if count < _FEW or decoders == 1:
        return [decode(position) for position in range(count)]
    with ThreadPoolExecutor(decoders) as pool:
        return list(pool.map(decode, range(count)))
