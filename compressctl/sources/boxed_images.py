"""Images with boxes as a dataset for detection: both prepared alike, classes in the model's order."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.nearest import suggestion
from compressctl.core.objects import as_objects
from compressctl.core.source import SplitSizes
from compressctl.sources.dataset import SplitDataset
from compressctl.sources.images import Preparation, as_inputs, decode_placed
from compressctl.sources.params import ClassChoice, PixelParams
from compressctl.sources.splits import check_apart, choose

Boxes = Callable[[int, int], np.ndarray]
"""Of an image of this height and width: (k, 5) x1, y1, x2, y2 in its pixels and class; (k, 6) with the mark of a crowd."""


@dataclass(frozen=True)
class BoxedImage:
    path: Path
    boxes: Boxes


@dataclass(frozen=True)
class Classes:
    """names: of the model's classes. number: the model's class of each of the data's that counts."""

    names: tuple[str, ...] | None
    number: Mapping[int, int] | None

    def of(self, boxes: np.ndarray) -> np.ndarray:
        """(k, 5) or (k, 6) boxes with the model's classes; those of classes that do not count are left out."""
        if self.number is None:
            return boxes
        boxes = boxes[[int(box[4]) in self.number for box in boxes]]
        boxes[:, 4] = [self.number[int(box[4])] for box in boxes]
        return boxes


def chosen_classes(choice: ClassChoice | None, names: Sequence[str] | None) -> Classes:
    """names: of the data's classes, in the order of their numbers. Raises UsageError for a class that the data do not have."""
    if choice is None:
        return Classes(None if names is None else tuple(names), None)
    if names is None:
        raise UsageError("data.classes chooses among names, and the data have none", hint="set data.names")
    wanted = choice if isinstance(choice, dict) else {name: number for number, name in enumerate(choice)}
    unknown = next((name for name in wanted if name not in names), None)
    if unknown is not None:
        raise UsageError(
            f"data.classes: the data have no class {unknown!r}",
            hint=suggestion(unknown, names) or f"they have {', '.join(names[:20])}",
        )
    if len(set(wanted.values())) < len(wanted) or (not isinstance(choice, dict) and len(wanted) < len(choice)):
        raise UsageError("data.classes names a class twice", hint="every class has a name and a number of its own")
    named = {number: name for name, number in wanted.items()}
    return Classes(
        tuple(named.get(number, f"class {number}") for number in range(max(named) + 1)),
        {names.index(name): number for name, number in wanted.items()},
    )


def detection_dataset(
    parts: Sequence[Sequence[BoxedImage]], classes: Classes, params: PixelParams, sizes: SplitSizes, seed: int
) -> Dataset:
    """Inputs as `image_folder` gives them; labels (n,) objects, each image's boxes in pixels of its input.

    parts: what the splits share, an own validation split's, an own test split's. Images and their boxes are read with their batch.
    """
    check_apart(*([image.path for image in part] for part in parts))
    images = [image for part in parts for image in part]
    preparation = Preparation.of(params)

    def read(positions: np.ndarray) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        chosen = [images[position] for position in positions]
        pixels, placements = decode_placed(
            [image.path for image in chosen], [str(image.path) for image in chosen], preparation
        )
        labels = []
        for image, placement in zip(chosen, placements, strict=True):
            boxes = classes.of(image.boxes(*placement.original))
            corners, remains = placement.boxes(boxes[:, :4])
            labels.append(np.concatenate([corners, boxes[:, 4:]], axis=1)[remains].astype(np.float32))
        return {params.input_name: as_inputs(pixels, params)}, as_objects(labels)

    own_validation, own_test = (len(part) for part in parts[1:])
    return SplitDataset(
        classes.names, choose(len(parts[0]), sizes, seed, own_validation=own_validation, own_test=own_test), read
    )


def inside(folder: Path, name: str, place: str) -> Path:
    """What a file of others names below the folder. Raises UsageError, with the name's place, for what leads out of it."""
    if not name.strip() or "\0" in name:
        raise UsageError(f"{place}: it names no file")
    way = Path(os.path.relpath(folder / name, folder))
    if way.parts[:1] == (os.pardir,):
        raise UsageError(f"{place}: {name[:200]!r} leads out of {folder}", hint="files lie below the data's folder")
    return folder / way
