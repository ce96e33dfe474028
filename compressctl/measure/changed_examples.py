"""The samples whose prediction changed, with a small picture of each where they are images."""

from __future__ import annotations

import base64
import io

import numpy as np

from compressctl.core.data import Dataset, SplitName
from compressctl.measure.results import Behaviour, Example
from compressctl.measure.score import Predictions
from compressctl.tasks.metrics import classes_of

_SHOWN = 24
_LARGEST_SIDE = 96
_SMALLEST_SIDE = 4


def with_examples(
    found: Behaviour, before: Predictions, after: Predictions, dataset: Dataset, batch: int, split: SplitName
) -> Behaviour:
    """The first changed samples, those that went from right to wrong before the others. split: that both were predicted on."""
    assert before.labels is not None
    old, new, labels = classes_of(before.outputs), classes_of(after.outputs), before.labels.reshape(-1)
    changed = np.flatnonzero(old != new)
    chosen = sorted(changed, key=lambda position: (old[position] != labels[position], position))[:_SHOWN]
    pictures = _pictures(dataset, {int(before.indices[position]) for position in chosen}, batch, split)
    names = list(dataset.classes or ())

    def name(label: int) -> str:
        return names[label] if 0 <= label < len(names) else "none"

    examples = tuple(
        Example(
            index=int(before.indices[position]),
            label=name(int(labels[position])),
            before=name(int(old[position])),
            after=name(int(new[position])),
            png=pictures.get(int(before.indices[position])),
        )
        for position in chosen
    )
    return found.model_copy(update={"examples": examples})


def _pictures(dataset: Dataset, wanted: set[int], batch_size: int, split: SplitName) -> dict[int, str]:
    found: dict[int, str] = {}
    if not wanted:
        return found
    for batch in dataset.split(split).batches(batch_size):
        if len(batch.inputs) != 1:
            break
        values = next(iter(batch.inputs.values()))
        for position, index in enumerate(batch.indices):
            if int(index) in wanted and (picture := as_png(values[position])) is not None:
                found[int(index)] = picture
        if len(found) == len(wanted):
            break
    return found


def as_png(values: np.ndarray) -> str | None:
    """One sample as a PNG in base64, of at most 96 pixels a side; None when it has no image's shape: (channels, h, w), (h, w, channels).

    The values are spread over black to white, since a normalization that the model wants says nothing to an eye.
    """
    from PIL import Image

    if values.ndim == 3 and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] not in (1, 3) or min(values.shape[:2]) < _SMALLEST_SIDE:
        return None
    low, high = float(values.min()), float(values.max())
    pixels = ((values - low) / (high - low or 1.0) * 255).round().astype(np.uint8)
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
