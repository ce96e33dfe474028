"""Image files in folders, labelled by their folder, their name, or a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.class_names import class_names
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.fingerprint import existing, existing_folder, source_fingerprint
from compressctl.sources.image_files import Labelled, find_parts
from compressctl.sources.images import Preparation, as_inputs, decode_all
from compressctl.sources.params import ImageFolderParams
from compressctl.sources.splits import check_apart, choose

VERSION = 3

_MOST_CLASSES = 1 << 20


def load(params: ImageFolderParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Inputs (n, channels, height, width) float32, or channels last; labels (n,) int64, None where the recipe says that there are none.

    Files are found now and sorted by path; each is decoded when its batch is read. Positions count the samples to split,
    then an own validation folder's, then an own test folder's. Raises UsageError when there is nothing to read, a label is
    not among the classes, or sizes do not fit.
    """
    root = _folder(params, base)
    parts = find_parts(root, params, base)
    check_apart(*([file.path for file in part] for part in (parts.rest, parts.validation, parts.test)))
    files = [*parts.rest, *parts.validation, *parts.test]
    classes = None if params.labels is None else _classes(params, base, files)
    labels = None if classes is None else _numbers(files, classes, root)
    preparation = Preparation.of(params)

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray | None]:
        chosen = [files[position].path for position in positions]
        images = decode_all(chosen, [str(path) for path in chosen], preparation)
        return {params.input_name: as_inputs(images, params)}, None if labels is None else labels[positions]

    return SplitDataset(
        classes=classes,
        splits=choose(len(parts.rest), sizes, seed, own_validation=len(parts.validation), own_test=len(parts.test)),
        read=read,
    )


def fingerprint(params: ImageFolderParams, base: Path) -> str:
    """Covers every image's path below the folder and its contents, the label table and the file of class names."""
    root = _folder(params, base)
    parts = find_parts(root, params, base)
    files = {
        f"image/{image.path.relative_to(root).as_posix()}": image.path
        for image in (*parts.rest, *parts.validation, *parts.test)
    }
    if params.labels not in (None, "folders", "prefix"):
        files["labels"] = existing(base / str(params.labels), what="the table of labels")
    if params.classes is not None:
        files["classes"] = existing(base / params.classes, what="the file of class names")
    return source_fingerprint("image_folder", VERSION, params, files)


def _folder(params: ImageFolderParams, base: Path) -> Path:
    return existing_folder(base / params.path, what="the image folder")


def _classes(params: ImageFolderParams, base: Path, files: list[Labelled]) -> tuple[str, ...]:
    if params.classes is None:
        found = {image.label for image in files}
        # Numbers in a label table are positions already, and "10" must not come before "2".
        if params.labels not in ("folders", "prefix") and all(name.isdecimal() for name in found):
            count = max(map(int, found)) + 1
            if count > _MOST_CLASSES:
                raise UsageError(
                    f"{params.labels} numbers a class {count - 1:,}: {_MOST_CLASSES:,} classes are allowed"
                )
            return tuple(str(number) for number in range(count))
        return tuple(sorted(found))
    return class_names(existing(base / params.classes, what="the file of class names"))


def _numbers(files: list[Labelled], classes: tuple[str, ...], root: Path) -> np.ndarray:
    position = {name: number for number, name in enumerate(classes)}
    for image in files:
        if image.label not in position:
            raise UsageError(
                f"{image.path}: its class {image.label!r} is not among the {len(classes)} classes",
                hint="complete the file that data.classes names",
            )
    return np.array([position[image.label] for image in files], np.int64)
