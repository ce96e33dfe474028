"""Pictures of text, with what stands on them: a list names both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from compressctl.core.data import Dataset, ShapesDifferError
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import existing, source_fingerprint
from compressctl.sources.images import Preparation, decode_one
from compressctl.sources.normalize import Normalization
from compressctl.sources.params import TextImagesParams
from compressctl.sources.splits import check_apart, choose
from compressctl.sources.text_lists import Texted, read_list

VERSION = 3


def load(params: TextImagesParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs (n, channels, height, width) float32, or channels last; labels (n,) strings. Pictures of one size share a batch.

    Files are named now; each is decoded when its batch is read. Raises UsageError for a list that cannot be read, and for files that
    are not there.
    """
    parts = _parts(params, base)
    check_apart(*([line.path for line in part] for part in parts))
    lines = [line for part in parts for line in part]
    texts = np.array([line.text for line in lines], object)
    preparation = replace(Preparation.of(params), height=params.height, most_width=params.width)
    normalization = Normalization(params.scale, params.mean, params.std)

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        images = [
            _padded(
                normalization.apply(decode_one(lines[position].path, str(lines[position].path), preparation), axis=2),
                params,
            )
            for position in positions
        ]
        if len({image.shape for image in images}) > 1:
            raise ShapesDifferError("pictures differ in size", hint="set data.height and data.width to pad them")
        batch = np.stack(images)
        if params.layout == "NCHW":
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2))
        return {params.input_name: batch}, texts[positions]

    return SplitDataset(None, choose(len(parts[0]), sizes, seed, own_test=sum(map(len, parts[1:]))), read)


def fingerprint(params: TextImagesParams, base: Path) -> str:
    """Covers the lists, and every picture's contents in their order."""
    files = dict(zip(("list", "test"), _lists(params, base), strict=False))
    lines = (line for part in _parts(params, base) for line in part)
    files |= {f"image/{number}": line.path for number, line in enumerate(lines)}
    return source_fingerprint("text_images", VERSION, params, files)


def _lists(params: TextImagesParams, base: Path) -> list[Path]:
    names = [params.path, *([params.test_path] if params.test_path is not None else [])]
    return [existing(base / name, what="the list of pictures") for name in names]


def _parts(params: TextImagesParams, base: Path) -> list[list[Texted]]:
    parts = [read_list(path) for path in _lists(params, base)]
    for line in (line for part in parts for line in part):
        existing(line.path, what=f"{line.place}: the picture")
    return parts


def _padded(image: np.ndarray, params: TextImagesParams) -> np.ndarray:
    missing = 0 if params.width is None else params.width - image.shape[1]
    return np.pad(image, ((0, 0), (0, missing), (0, 0)), constant_values=params.pad) if missing > 0 else image
