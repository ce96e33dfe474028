"""Images and the JSON file of their boxes, as COCO has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.boxed_images import BoxedImage, chosen_classes, detection_dataset, inside
from compressctl.sources.fingerprint import existing, existing_folder, source_fingerprint
from compressctl.sources.json_lines import json_object
from compressctl.sources.params import CocoDataParams

VERSION = 3

_LARGEST = 1e9
"""Of a box's numbers: beyond it they are no pixels."""


def load(params: CocoDataParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Labels (n,) objects, each image's (k, 6): x1, y1, x2, y2 in pixels of the input, class, 1 for a crowd.

    Boxes without a width or height count as none. Raises UsageError, with the place in the file, for annotations that cannot be meant.
    """
    files = [_annotated(path, folder) for path, folder in _files(params, base)]
    if any(file.names != files[0].names for file in files):
        raise UsageError(
            f"{params.annotations} and {params.test_annotations} have other categories",
            hint="a dataset's parts number the same categories in the same order",
        )
    train, test = files[0].images, [image for file in files[1:] for image in file.images]
    return detection_dataset((train, [], test), chosen_classes(params.classes, files[0].names), params, sizes, seed)


def fingerprint(params: CocoDataParams, base: Path) -> str:
    """Covers the JSON files, and every image's contents in their order."""
    files: dict[str, Path] = {}
    for part, (path, folder) in enumerate(_files(params, base)):
        files[f"annotations/{part}"] = path
        files |= {f"image/{part}/{number}": image.path for number, image in enumerate(_annotated(path, folder).images)}
    return source_fingerprint("coco", VERSION, params, files)


def _files(params: CocoDataParams, base: Path) -> list[tuple[Path, Path]]:
    """Each JSON file with the folder of its images."""
    named = [(params.annotations, params.path)]
    if params.test_annotations is not None:
        named.append((params.test_annotations, params.test_path or params.path))
    return [
        (existing(base / file, what="the annotations"), existing_folder(base / folder, what="the folder of images"))
        for file, folder in named
    ]


@dataclass(frozen=True)
class _Annotated:
    """names: of the categories, by rising id."""

    images: list[BoxedImage]
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Boxes:
    """size: (height, width) as the file says, None where it does not. rows: (k, 6)."""

    path: Path
    place: str
    size: tuple[int, int] | None
    rows: np.ndarray

    def __call__(self, height: int, width: int) -> np.ndarray:
        if self.size is not None and self.size != (height, width):
            raise UsageError(
                f"{self.place}: {self.path} is {height}x{width}, and the annotations say {self.size[0]}x{self.size[1]}",
                hint="boxes count pixels of the image as it was annotated; take that one"
                + (", or set data.orientation" if self.size == (width, height) else ""),
            )
        return self.rows.copy()


def _annotated(path: Path, folder: Path) -> _Annotated:
    content = json_object(path)
    categories = _by_id(content, "categories", path)
    ordered = sorted(categories, key=lambda key: (isinstance(key, str), key))
    names = tuple(_text(categories[key], "name", f"{path}: categories[{place}]") for place, key in enumerate(ordered))
    if len(set(names)) < len(names):
        raise UsageError(f"{path}: two categories have one name")
    number = {key: place for place, key in enumerate(ordered)}
    images = _by_id(content, "images", path)
    rows: dict[int | str, list[tuple[float, ...]]] = {key: [] for key in images}
    for place, entry in _entries(content, "annotations", path):
        image, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(image, int | str) or image not in rows:
            raise UsageError(f"{place}: its image_id is that of no image")
        if not isinstance(category, int | str) or category not in number:
            raise UsageError(f"{place}: its category_id is that of no category")
        x, y, width, height = _bbox(entry, place)
        if width > 0 and height > 0:
            crowd = float(_is_crowd(entry, place))
            rows[image].append((x, y, x + width, y + height, number[category], crowd))
    found: dict[Path, str] = {}
    boxed = []
    for position, (key, entry) in enumerate(images.items()):
        place = f"{path}: images[{position}]"
        image_path = inside(folder, _text(entry, "file_name", place), place)
        existing(image_path, what=f"{place}: the image")
        if found.setdefault(image_path, place) != place:
            raise UsageError(f"{place}: {entry['file_name']} is named above, too")
        boxes = _Boxes(image_path, place, _size(entry, place), np.array(rows[key], np.float64).reshape(-1, 6))
        boxed.append(BoxedImage(image_path, boxes))
    if not boxed:
        raise UsageError(f"{path} names no images")
    return _Annotated(boxed, names)


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place."""
    entries = content.get(key)
    if not isinstance(entries, list):
        raise UsageError(f"{path}: there is no list {key!r}", hint="it needs images, annotations and categories")
    odd = next((place for place, entry in enumerate(entries) if not isinstance(entry, dict)), None)
    if odd is not None:
        raise UsageError(f"{path}: {key}[{odd}] is no object")
    return [(f"{path}: {key}[{place}]", entry) for place, entry in enumerate(entries)]


def _by_id(content: Mapping[str, Any], key: str, path: Path) -> dict[int | str, dict[str, Any]]:
    found: dict[int | str, dict[str, Any]] = {}
    for place, entry in _entries(content, key, path):
        name = entry.get("id")
        if not isinstance(name, int | str):
            raise UsageError(f"{place} has no id")
        if found.setdefault(name, entry) is not entry:
            raise UsageError(f"{place}: its id is another one's, too")
    return found


def _text(entry: Mapping[str, Any], key: str, place: str) -> str:
    text = entry.get(key)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{place} has no {key}")
    return text


def _size(entry: Mapping[str, Any], place: str) -> tuple[int, int] | None:
    height, width = entry.get("height"), entry.get("width")
    if height is None or width is None:
        return None
    if not all(isinstance(side, int) and 0 < side < _LARGEST for side in (height, width)):
        raise UsageError(f"{place}: its height and width are no numbers of pixels")
    return height, width


def _is_crowd(entry: Mapping[str, Any], place: str) -> bool:
    mark = entry.get("iscrowd", 0)
    if not isinstance(mark, int) or mark not in (0, 1):
        raise UsageError(f"{place}: its iscrowd is neither 0 nor 1")
    return bool(mark)


def _bbox(entry: Mapping[str, Any], place: str) -> list[float]:
    box = entry.get("bbox")
    if not (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(number, int | float) and abs(number) < _LARGEST for number in box)
        and min(box[2:]) >= 0
    ):
        raise UsageError(f"{place}: its bbox is not [x, y, width, height] in pixels")
    return [float(number) for number in box]
