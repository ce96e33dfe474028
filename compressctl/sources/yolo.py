"""Images with a text file of boxes each, as YOLO's trainers have them: in two folders, or as a data.yaml names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError, first_line
from compressctl.core.regular_files import read_regular
from compressctl.core.source import SplitSizes
from compressctl.sources.boxed_images import BoxedImage, chosen_classes, detection_dataset, inside
from compressctl.sources.fingerprint import existing, existing_folder, source_fingerprint
from compressctl.sources.image_files import find_images, split_folders
from compressctl.sources.params import YoloDataParams

VERSION = 3

_LARGEST_YAML, _LARGEST_TEXT = 1 << 20, 1 << 26
_MOST_CLASSES = 1 << 20
_TRAIN, _VALIDATION, _TEST = "train", "val", "test"

_BEYOND = 0.01
"""By which a share of the image may exceed 1: what tools round."""


def load(params: YoloDataParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Labels (n,) objects, each image's (k, 5): x1, y1, x2, y2 in pixels of the input, class.

    Files are found now and sorted by path; images and their boxes are read with their batch. Raises UsageError, with file and line, for
    what is no box, and where no image has a file of boxes.
    """
    found = _found(params, base)
    names = found.names if params.names is None else params.names
    named = None if names is None else len(names)
    parts = [
        [BoxedImage(image, _Boxes(_label_file(image, found.root), named)) for image in part] for part in found.parts
    ]
    return detection_dataset(parts, chosen_classes(params.classes, names), params, sizes, seed)


def fingerprint(params: YoloDataParams, base: Path) -> str:
    """Covers every image's and label file's path below the folder and its contents, and the data.yaml."""
    found = _found(params, base)
    files = {} if found.description is None else {"description": found.description}
    for part, images in enumerate(found.parts):
        for image in images:
            label = _label_file(image, found.root)
            name = f"{part}/{image.relative_to(found.root).as_posix()}"
            files[f"image/{name}"] = image
            if label.exists():
                files[f"labels/{name}"] = label
    return source_fingerprint("yolo", VERSION, params, files)


@dataclass(frozen=True)
class _Found:
    """parts: images that the splits share, those of an own validation split, of an own test split. description: the data.yaml."""

    root: Path
    parts: tuple[list[Path], list[Path], list[Path]]
    names: tuple[str, ...] | None = None
    description: Path | None = None


def _found(params: YoloDataParams, base: Path) -> _Found:
    path = base / params.path
    found = _described(path, params) if path.suffix.lower() in (".yaml", ".yml") else _in_folders(path, params)
    if not any(_label_file(image, found.root).exists() for part in found.parts for image in part):
        image = next(image for part in found.parts for image in part)
        raise UsageError(
            f"no image has a file of boxes: there is no {_label_file(image, found.root)}, for one",
            hint="boxes stand in labels/ beside images/, under the image's name with .txt",
        )
    return found


def _in_folders(path: Path, params: YoloDataParams) -> _Found:
    root = existing_folder(path, what="the folder of images and labels")
    top = root / "images" if (root / "images").is_dir() else root
    folders = params.folders or split_folders(top)
    if folders is None:
        return _Found(root, (find_images(top), [], []))
    train, validation, test = (
        [] if name is None else find_images(existing_folder(top / name, what="data.folders: the folder"))
        for name in (folders.train, folders.validation, folders.test)
    )
    return _Found(root, (train, validation, test))


def _described(path: Path, params: YoloDataParams) -> _Found:
    if params.folders is not None:
        raise UsageError(f"{path} says which folders there are", hint="leave data.folders out")
    existing(path, what="the description of the data")
    content = _yaml(path)
    root = path.parent
    # Trainers look for `path` in a folder of their own; where it is not below the file's, that stands for it.
    top = _below((root,), str(content.get("path"))) or root
    parts = {
        name: _images(content.get(name) or [], (top, root), f"{path}: {name}") for name in (_TRAIN, _VALIDATION, _TEST)
    }
    if not parts[_TRAIN]:
        raise UsageError(f"{path} names no images to train on", hint="as in `train: images/train`")
    if not parts[_TEST]:  # a single held-out part counts as test: what is reported is unseen
        parts[_VALIDATION], parts[_TEST] = [], parts[_VALIDATION]
    return _Found(root, (parts[_TRAIN], parts[_VALIDATION], parts[_TEST]), _names(content.get("names"), path), path)


def _yaml(path: Path) -> Mapping[str, Any]:
    """Every scalar as text: nothing of others becomes an object."""
    try:
        content = yaml.load(read_regular(path, _LARGEST_YAML).decode("utf-8-sig"), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UsageError(f"{path} is not a description in YAML: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a description of data", hint="it names train, val and names")
    return content


def _names(given: Any, path: Path) -> tuple[str, ...] | None:
    if given is None:
        return None
    numbered = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(numbered, dict) or not all(isinstance(name, str) and name.strip() for name in numbered.values()):
        raise UsageError(f"{path}: names is no list of class names, and no mapping of numbers to them")
    if not all(str(key).isdecimal() and len(str(key)) < 8 and int(key) < _MOST_CLASSES for key in numbered):
        raise UsageError(f"{path}: names: classes are numbered from 0, below {_MOST_CLASSES:,}")
    by_number = {int(key): name for key, name in numbered.items()}
    return tuple(by_number.get(number, f"class {number}") for number in range(max(by_number, default=-1) + 1)) or None


def _images(given: Any, folders: Sequence[Path], place: str) -> list[Path]:
    """Of a folder, of a list of paths in a text file, or of several of them. folders: from which they are named, the data's last."""
    found: set[Path] = set()
    for name in given if isinstance(given, list) else [given]:
        if not isinstance(name, str):
            raise UsageError(f"{place}: it names no folder")
        path = _below(folders, name) or inside(folders[-1], name.removeprefix("../"), place)
        if path.suffix.lower() == ".txt":
            found.update(_listed(existing(path, what=f"{place}: the list of images"), folders[-1]))
        else:
            found.update(find_images(existing_folder(path, what=f"{place}: the folder")))
    return sorted(found)


def _below(folders: Sequence[Path], name: str) -> Path | None:
    """Where a name leads in the data's folder, if anywhere. Some tools name files from one folder deeper."""
    for written in (name, name.removeprefix("../")):
        for folder in folders:
            try:
                way = folder.relative_to(folders[-1]) / written
                path = inside(folders[-1], str(way), "")
                if path.exists():
                    return path
            except (UsageError, OSError):
                continue
    return None


def _listed(path: Path, root: Path) -> list[Path]:
    images = []
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            place = f"{path}:{number}"
            images.append(existing(inside(root, line.strip(), place), what=f"{place}: the image"))
    return images


def _label_file(image: Path, root: Path) -> Path:
    """The last folder `images` of the path becomes `labels`; without one the file lies beside the image."""
    parts = list(image.relative_to(root).parts)
    last = max((place for place, part in enumerate(parts[:-1]) if part == "images"), default=None)
    if last is not None:
        parts[last] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


@dataclass(frozen=True)
class _Boxes:
    """classes: how many have names, None where nobody knows."""

    path: Path
    classes: int | None

    def __call__(self, height: int, width: int) -> np.ndarray:
        if not self.path.exists():
            return np.zeros((0, 5))
        lines = enumerate(_lines(self.path), 1)
        rows = dict.fromkeys(self._row(line, f"{self.path}:{number}") for number, line in lines if line.strip())
        values = np.array(list(rows)).reshape(-1, 5)
        sizes, centres = values[:, 3:], values[:, 1:3]
        corners = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) * ([width, height] * 2)
        return np.concatenate([corners, values[:, :1]], axis=1)

    def _row(self, line: str, place: str) -> tuple[float, ...]:
        """Class, centre and size of a line; of a polygon those of the box around it."""
        try:
            number, *shares = map(float, line.split())
        except ValueError:
            raise UsageError(f"{place}: it is not `class cx cy w h`") from None
        if not (0 <= number < _MOST_CLASSES and number == int(number)):
            raise UsageError(f"{place}: its class is no whole number from 0")
        if self.classes is not None and number >= self.classes:
            raise UsageError(f"{place}: its class is {int(number)}, and {self.classes} classes have names")
        if len(shares) < 4 or len(shares) == 5 or len(shares) % 2:
            raise UsageError(f"{place}: it is not `class cx cy w h`", hint="or a class and the corners of a polygon")
        if not all(0 <= share <= 1 + _BEYOND for share in shares):
            raise UsageError(f"{place}: its numbers are no shares of the image, from 0 to 1")
        return (number, *(shares if len(shares) == 4 else _around(shares)))


def _around(polygon: Sequence[float]) -> tuple[float, float, float, float]:
    """Centre and size of the box around corners x, y, x, y, ..."""
    x, y = polygon[::2], polygon[1::2]
    return (min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)


def _lines(path: Path) -> list[str]:
    try:
        return read_regular(path, _LARGEST_TEXT).decode("utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}") from None
