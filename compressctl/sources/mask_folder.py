"""Images with a mask each: a class for every pixel, for segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.core.tasks import UNLABELLED
from compressctl.sources.class_names import class_names
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import existing, existing_folder, source_fingerprint
from compressctl.sources.image_files import find_images, split_folders
from compressctl.sources.images import Preparation, as_inputs, decode_masks, decode_placed
from compressctl.sources.params import MaskFolderParams
from compressctl.sources.splits import check_apart, choose

VERSION = 3


@dataclass(frozen=True)
class _Pair:
    image: Path
    mask: Path


def load(params: MaskFolderParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs (n, channels, height, width) float32, or channels last; labels (n, height, width) int64, -100 where none counts.

    Files are found now and sorted by path; each is decoded when its batch is read. A mask is resized by its nearest pixels, letterboxed
    and cropped as its image is. Raises UsageError when there is nothing to read, an image has no mask, or sizes do not fit.
    """
    parts = _pairs(params, base)
    check_apart(*([pair.image for pair in part] for part in parts))
    pairs = [pair for part in parts for pair in part]
    classes = (
        None if params.classes is None else class_names(existing(base / params.classes, what="the file of class names"))
    )
    preparation = Preparation.of(params)

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        chosen = [pairs[position] for position in positions]
        images, lying = decode_placed(
            [pair.image for pair in chosen], [str(pair.image) for pair in chosen], preparation
        )
        masks, beside = decode_masks([pair.mask for pair in chosen], [str(pair.mask) for pair in chosen], preparation)
        for pair, image, mask in zip(chosen, lying, beside, strict=True):
            _check_sizes(pair, image.original, mask.original)
        return {params.input_name: as_inputs(images, params)}, _classes_of(masks, params, classes, chosen)

    return SplitDataset(
        classes=classes,
        splits=choose(len(parts[0]), sizes, seed, own_validation=len(parts[1]), own_test=len(parts[2])),
        read=read,
    )


def fingerprint(params: MaskFolderParams, base: Path) -> str:
    """Covers every image's and mask's path below its folder and its contents, and the file of class names."""
    root, masks = base / params.path, base / params.masks
    files: dict[str, Path] = {}
    for pair in (pair for part in _pairs(params, base) for pair in part):
        files[f"image/{pair.image.relative_to(root).as_posix()}"] = pair.image
        files[f"mask/{pair.mask.relative_to(masks).as_posix()}"] = pair.mask
    if params.classes is not None:
        files["classes"] = existing(base / params.classes, what="the file of class names")
    return source_fingerprint("mask_folder", VERSION, params, files)


def _pairs(params: MaskFolderParams, base: Path) -> tuple[list[_Pair], list[_Pair], list[_Pair]]:
    """What the splits share, an own validation split's, an own test split's."""
    root = existing_folder(base / params.path, what="the folder of images")
    masks = existing_folder(base / params.masks, what="the folder of masks")
    by_name: dict[str, Path] = {}
    for path in find_images(masks):
        name = path.relative_to(masks).with_suffix("").as_posix()
        if by_name.setdefault(name, path) != path:
            raise UsageError(f"{path} and {by_name[name]} are masks of one image", hint="keep one of them")
    folders = params.folders or split_folders(root)
    names: tuple[str | None, ...] = (
        ("", None, None) if folders is None else (folders.train, folders.validation, folders.test)
    )
    found = []
    for part in names:
        images = [] if part is None else find_images(existing_folder(root / part, what="data.folders: the folder"))
        found.append([_Pair(path, _mask(path, root, by_name, params)) for path in images])
    return found[0], found[1], found[2]


def _mask(image: Path, root: Path, masks: Mapping[str, Path], params: MaskFolderParams) -> Path:
    name = image.relative_to(root).with_suffix("").as_posix() + params.mask_suffix
    if name not in masks:
        raise UsageError(
            f"{image} has no mask: {params.masks}/{name}.* is not there",
            hint="masks lie as their images do; `mask_suffix` says what their names have more",
        )
    return masks[name]


def _classes_of(
    masks: np.ndarray, params: MaskFolderParams, classes: tuple[str, ...] | None, chosen: list[_Pair]
) -> np.ndarray:
    """(n, height, width) int64. Pixels beside a letterboxed image do not count."""
    labels = masks.astype(np.int64)
    if params.values is None:
        labels[labels == UNLABELLED[1]] = UNLABELLED[0]
    else:
        table = np.full(65_536, -1, np.int64)
        for pixel, number in params.values.items():
            table[int(pixel)] = number
        labels = table[np.maximum(masks, 0)]
        unknown = (labels == -1) & (masks >= 0)
        if unknown.any():
            sample = int(np.flatnonzero(unknown.any(axis=(1, 2)))[0])
            value = int(masks[sample][unknown[sample]][0])
            raise UsageError(
                f"{chosen[sample].mask} has pixels of {value}, which data.values gives no class",
                hint=f"add `{value}: CLASS`, or `{value}: -100` for pixels that do not count",
            )
    labels[masks < 0] = UNLABELLED[0]
    limit = None if classes is None else len(classes)
    if limit is not None and labels.max(initial=0) >= limit:
        sample = int(np.flatnonzero((labels >= limit).any(axis=(1, 2)))[0])
        value = int(labels[sample].max())
        raise UsageError(
            f"{chosen[sample].mask} has pixels of class {value}, and {limit} classes have names",
            hint="complete the file that data.classes names, or give pixels their classes with `values`",
        )
    return labels


def _check_sizes(pair: _Pair, image: tuple[int, int], mask: tuple[int, int]) -> None:
    """Of (height, width) before anything is resized: a mask that lies across its image would fit it afterwards."""
    if mask != image:
        raise UsageError(
            f"{pair.mask} is {mask[0]}x{mask[1]} where its image is {image[0]}x{image[1]}",
            hint="a mask has its image's height and width, both as data.orientation says",
        )
