"""Random changes to a batch of images or samples, drawn by a generator that is passed in, for all samples at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressctl.core.errors import UsageError
from compressctl.core.model import Signature
from compressctl.core.tasks import Task
from compressctl.training.data import TensorBatch
from compressctl.training.params import Augmentation

_COLOURS = (1, 3, 4)


def augment(images: Tensor, wanted: Augmentation, generator: np.random.Generator) -> Tensor:
    """Move, mirror and cut each image of a batch, each in its own way.

    images: (n, channels, height, width), or channels last when the last axis has 1, 3 or 4 elements and axis 1 has not.
    Moved images are mirrored at their edges (pixels come from the image itself, so that no value outside the data's own
    range is needed, whatever its normalisation). Raises UsageError when `crop_padding` is not smaller than the image.
    Source: He et al. 2015, section 4.2 (crop and flip); DeVries and Taylor 2017 (cutout).
    """
    if images.shape[1] not in _COLOURS and images.shape[3] in _COLOURS:
        return augment(images.permute(0, 3, 1, 2), wanted, generator).permute(0, 2, 3, 1)
    count, _, height, width = images.shape
    if wanted.crop_padding >= min(height, width):
        raise UsageError(
            f"augment.crop_padding is {wanted.crop_padding}, and the images are {height}x{width}",
            hint="choose a smaller one",
        )
    moved = generator.integers(-wanted.crop_padding, wanted.crop_padding + 1, (2, count, 1))
    rows = _mirrored(moved[0] + np.arange(height), height)
    columns = _mirrored(moved[1] + np.arange(width), width)
    if wanted.horizontal_flip:
        is_flipped = generator.random((count, 1)) < 0.5
        columns = np.where(is_flipped, columns[:, ::-1], columns)
    changed = _gathered(images, rows, columns) if wanted.crop_padding or wanted.horizontal_flip else images
    return _cut(changed, wanted.cutout, generator) if wanted.cutout else changed


def augment_batch(batch: TensorBatch, wanted: Augmentation, generator: np.random.Generator) -> TensorBatch:
    """Augment the inputs that are images. Raises UsageError when none is."""
    is_image = [tensor.ndim == 4 and tensor.is_floating_point() for tensor in batch.inputs]
    if not any(is_image):
        raise UsageError("augment changes images, and no input of the model is one", hint="leave `augment` out")
    inputs = tuple(
        augment(tensor, wanted, generator) if image else tensor
        for tensor, image in zip(batch.inputs, is_image, strict=True)
    )
    return replace(batch, inputs=inputs)


def mixup(
    batch: TensorBatch, alpha: float, task: Task, signature: Signature, generator: np.random.Generator
) -> TensorBatch:
    """Each sample as a weighted mean of itself and another of the batch, labels likewise; one weight for the batch.

    Class labels become shares, (n, classes) float32. Raises UsageError for tasks and inputs that cannot be mixed.
    Source: Zhang et al. 2017, mixup, section 2.
    """
    if task not in ("classification", "regression") or not isinstance(batch.labels, Tensor):
        raise UsageError(
            f"mixup needs labels that can be mixed, which task {task} has not here", hint="leave mixup out"
        )
    if not all(tensor.is_floating_point() for tensor in batch.inputs):
        raise UsageError("mixup mixes inputs of real numbers, and the model takes integers", hint="leave mixup out")
    share = max(float(generator.beta(alpha, alpha)), 1e-6)
    partner = torch.as_tensor(generator.permutation(len(batch.inputs[0])), device=batch.inputs[0].device)
    labels = batch.labels
    if task == "classification" and labels.ndim == 1:
        labels = functional.one_hot(labels, int(signature.outputs[0].shape[-1])).float()
    inputs = tuple(share * tensor + (1 - share) * tensor[partner] for tensor in batch.inputs)
    return TensorBatch(inputs, share * labels + (1 - share) * labels[partner])


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Positions outside 0 .. size - 1 as their mirror images inside; the edge itself is not repeated."""
    inside = np.abs(index)
    mirrored: np.ndarray = np.where(inside >= size, 2 * (size - 1) - inside, inside)
    return mirrored


def _gathered(images: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """images[i, :, rows[i], columns[i]]; rows: (n, height), columns: (n, width)."""
    device = images.device
    sample = torch.arange(len(images), device=device)[:, None, None]
    row = torch.as_tensor(rows, device=device)[:, :, None]
    column = torch.as_tensor(np.ascontiguousarray(columns), device=device)[:, None, :]
    return images[sample, :, row, column].permute(0, 3, 1, 2)


def _cut(images: Tensor, side: int, generator: np.random.Generator) -> Tensor:
    """A square of 0 around a random pixel of each image; parts of it may lie outside."""
    count, _, height, width = images.shape
    top = generator.integers(0, height, (count, 1)) - side // 2
    left = generator.integers(0, width, (count, 1)) - side // 2
    in_rows = (np.arange(height) >= top) & (np.arange(height) < top + side)
    in_columns = (np.arange(width) >= left) & (np.arange(width) < left + side)
    is_cut = torch.as_tensor(in_rows[:, :, None] & in_columns[:, None, :], device=images.device)
    return images.masked_fill(is_cut[:, None], 0.0)
