"""Numbers that cannot be meant: weights and inputs that are not finite, labels that are no class. Refused before any work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from compressctl.core.data import Batch, Dataset, Split, SplitName, Tuples, WrappedDataset, tuples_of
from compressctl.core.errors import UsageError
from compressctl.core.model import Model, TorchModel
from compressctl.core.tasks import UNLABELLED, Task
from compressctl.graph.tensors import to_array

if TYPE_CHECKING:
    import onnx
    from torch import nn

_SHOWN = 4
_LOOKED_AT = 64
_READ_EARLY_BYTES = 64 * 1024**2
"""Of one split that is looked through before any work; of a larger one the first samples, and the rest when it is read."""

_WEIGHTED = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1), "LSTM": (1, 2, 3), "GRU": (1, 2, 3),
    "RNN": (1, 2, 3), "BatchNormalization": (1, 2, 3, 4), "LayerNormalization": (1, 2), "InstanceNormalization": (1, 2),
}  # fmt: skip
"""Inputs of operators that multiply or add: infinity there spoils outputs, while masks and bounds are infinite on purpose."""


def check_weights(model: Model, place: str) -> None:
    """Raises UsageError that names the tensors where weights hold NaN or infinity. Each tensor is looked at once, in place."""
    found = list(_bad_parameters(model.body) if isinstance(model, TorchModel) else _bad_constants(model.body.graph))
    if found:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UsageError(
            f"{place}: weights are not finite numbers: {'; '.join(found[:_SHOWN])}{more}",
            hint="a training that diverged leaves such weights: load an earlier checkpoint",
        )


def _bad_parameters(network: nn.Module) -> Iterator[str]:
    import torch

    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.is_floating_point() or not tensor.numel() or tensor.is_meta:
            continue
        low, high = (float(bound) for bound in torch.aminmax(tensor.detach().float()))
        if (bad := _what(low, high, infinity=isinstance(tensor, torch.nn.Parameter))) is not None:
            yield f"{name} holds {bad}"


def _bad_constants(graph: onnx.GraphProto) -> Iterator[str]:
    from onnx import TensorProto, helper

    from compressctl.graph.index import attribute

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    weights = {
        node.input[position]
        for node in graph.node
        for position in _WEIGHTED.get(node.op_type, ())
        if position < len(node.input)
    }
    stored = [(tensor.name, tensor) for tensor in graph.initializer]
    for node in graph.node:
        value = attribute(node, "value") if node.op_type == "Constant" else None
        if value is not None and hasattr(value, "data_type"):
            stored.append((node.output[0], value))
    for name, tensor in stored:
        if tensor.data_type not in floats or 0 in tensor.dims:
            continue
        values = to_array(tensor)
        values = values if values.dtype.kind == "f" else values.astype(np.float32)
        # One number may be a bound or a value to fill up with.
        if values.size > 1 or name in weights:
            bad = _what(float(values.min()), float(values.max()), infinity=name in weights)
            if bad is not None:
                yield f"{name} holds {bad}"
    for node in graph.node:
        for part in node.attribute:
            if part.HasField("g"):
                yield from _bad_constants(helper.get_attribute_value(part))


def _what(low: float, high: float, *, infinity: bool) -> str | None:
    if np.isnan(low) or np.isnan(high):
        return "NaN"
    return "infinity" if infinity and not (np.isfinite(low) and np.isfinite(high)) else None


@dataclass(frozen=True)
class CheckedDataset(WrappedDataset):
    """A dataset whose samples are looked at when they are first read: inputs are finite, labels are what the task takes.

    outputs: how many classes the model tells apart, asked when the first labels are read; None where nobody knows.
    heads: task and outputs of each head, whose labels are a field of its name.
    """

    task: Task | None = None
    outputs: Callable[[], int | None] = lambda: None
    heads: Mapping[str, tuple[Task, Callable[[], int | None]]] = field(default_factory=dict)
    _splits: dict[SplitName, CheckedSplit] = field(default_factory=dict, repr=False)

    def split(self, name: SplitName) -> Split:
        if name not in self._splits:
            self._splits[name] = CheckedSplit(self.own.split(name), name, self)
        return self._splits[name]

    @property
    def limit(self) -> int | None:
        """Classes are below it."""
        named = None if self.classes is None or self.task not in (None, "classification") else len(self.classes)
        told_apart = self.outputs() if self.task in (*_UNCOUNTED, "detection") else None
        return min((limit for limit in (named, told_apart) if limit is not None), default=None)


@dataclass
class CheckedSplit:
    own: Split
    name: SplitName
    dataset: CheckedDataset
    _is_checked: bool = False

    @property
    def tuples(self) -> Tuples:
        return tuples_of(self.own)

    def __len__(self) -> int:
        return len(self.own)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """Raises UsageError for the first sample that cannot be meant."""
        if self._is_checked:
            yield from self.own.batches(size, shuffle_seed=shuffle_seed)
            return
        for batch in self.own.batches(size, shuffle_seed=shuffle_seed):
            _check_inputs(batch, self.name)
            _check_labels(batch, self.name, self.dataset)
            for head, (task, outputs) in self.dataset.heads.items():
                if batch.labels is not None and head in (batch.labels.dtype.names or ()):
                    own = replace(batch, labels=batch.labels[head])
                    _check_labels(own, self.name, CheckedDataset(self.dataset.own, task, outputs))
            yield batch
        self._is_checked = True


def look_through(dataset: Dataset) -> None:
    """Read the splits before any work: whole, where they are small, and the first samples of the others.

    Raises UsageError, by a `CheckedDataset`, for what cannot be meant.
    """
    for name in get_args(SplitName):
        split = dataset.split(name)
        first = next(split.batches(_LOOKED_AT), None) if len(split) else None
        if first is None or not len(first.indices):
            continue
        size = sum(array.nbytes for array in first.inputs.values()) / len(first.indices)
        if size * len(split) <= _READ_EARLY_BYTES:
            for _ in split.batches(_LOOKED_AT):
                pass


def _check_inputs(batch: Batch, split: SplitName) -> None:
    for name, array in batch.inputs.items():
        if array.dtype.kind != "f" or not array.size or np.isfinite(_extremes(array)).all():
            continue
        place = f"array {name!r} of the data"
        if name in batch.constants or batch.is_request or array.shape[:1] != batch.indices.shape:
            raise UsageError(f"{place} holds {_kind(array)} (sample {_index(batch, 0)}, {split} split)", hint=_MEND)
        rows = array.reshape(len(array), -1)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        row = rows[bad[0]]
        share = "nothing but" if not np.isfinite(row).any() else f"{np.count_nonzero(~np.isfinite(row)):,} times"
        sample = f"sample {_index(batch, int(bad[0]))} ({split} split)"
        raise UsageError(f"{place}, {sample}, holds {share} {_kind(row)}", hint=_MEND)


_UNCOUNTED: dict[Task | None, tuple[int, ...]] = {
    "classification": (),
    "segmentation": UNLABELLED,
    "token-classification": UNLABELLED[:1],
    "frame-classification": UNLABELLED[:1],
}
"""Tasks whose labels are classes, and which of them do not count."""

_MEND = "leave such samples out, or fill them as the model expects it"


def _check_labels(batch: Batch, split: SplitName, dataset: CheckedDataset) -> None:
    labels = batch.labels
    if labels is None or not labels.size or len(labels) != len(batch.indices):
        return
    if labels.dtype.kind == "f":
        bad = _first(~np.isfinite(labels))
        if bad is not None:
            raise UsageError(_label(batch, split, bad, "is no number"), hint="leave samples without a label out")
        if dataset.task == "classification" and labels.ndim == 1:
            bad = _first((labels != np.rint(labels)) | (labels < 0))
            if bad is not None:
                hint = "classes are whole numbers from 0; for values set `task: regression`"
                raise UsageError(_label(batch, split, bad, "is no class"), hint=hint)
    if dataset.task in _UNCOUNTED and dataset.task != "classification":
        _check_places(batch, split, dataset)
    if dataset.task == "detection":
        _check_boxes(batch, split, dataset)
    if labels.dtype.kind not in "iuf" or labels.ndim != 1 or dataset.task not in (None, "classification"):
        return
    bad = _first(labels < 0)
    if bad is not None:
        raise UsageError(_label(batch, split, bad, "is no class"), hint="classes count from 0")
    limit = dataset.limit if labels.dtype.kind in "iu" or dataset.task == "classification" else None
    bad = None if limit is None else _first(labels >= limit)
    if bad is not None:
        known = (
            f"{limit} classes have names" if dataset.classes is not None else f"the model tells {limit} classes apart"
        )
        raise UsageError(
            _label(batch, split, bad, f"is no class: {known}"),
            hint="classes count from 0; for numbers that are no classes set `task: regression`",
        )


def _check_places(batch: Batch, split: SplitName, dataset: CheckedDataset) -> None:
    """Of pixels, tokens or frames: arrays of one shape, or an array of whole numbers for each sample."""
    assert batch.labels is not None
    limit = dataset.limit
    for row, places in enumerate(batch.labels):
        if not isinstance(places, np.ndarray) or places.dtype.kind not in "iu" or not places.size:
            continue
        if places.min() >= 0 and (limit is None or places.max() < limit):
            continue
        bad = ~np.isin(places, _UNCOUNTED[dataset.task]) & (
            places < 0 if limit is None else (places < 0) | (places >= limit)
        )
        if bad.any():
            known = "" if limit is None else f": the model tells {limit} classes apart"
            raise UsageError(
                f"the data: label {places[bad][0]} in sample {_index(batch, row)} ({split} split) is no class{known}",
                hint=f"classes count from 0; what does not count is {' or '.join(map(str, _UNCOUNTED[dataset.task]))}",
            )


def _check_boxes(batch: Batch, split: SplitName, dataset: CheckedDataset) -> None:
    """Of arrays that are boxes; the metric says what is none."""
    assert batch.labels is not None
    for row, boxes in enumerate(batch.labels):
        if not isinstance(boxes, np.ndarray) or boxes.ndim != 2 or boxes.shape[1] < 5 or boxes.dtype.kind not in "iuf":
            continue
        place = f"in sample {_index(batch, row)} ({split} split)"
        if not np.isfinite(boxes).all():
            raise UsageError(f"the data: a box {place} holds a number that is not finite")
        if (boxes[:, 2:4] < boxes[:, :2]).any():
            raise UsageError(
                f"the data: a box {place} ends before it begins", hint="boxes are x1, y1, x2, y2, class, in pixels"
            )
        classes, limit = boxes[:, 4], dataset.limit
        bad = (classes < 0) | (classes != np.rint(classes)) | (classes >= (np.inf if limit is None else limit))
        if bad.any():
            known = "" if limit is None else f": the model tells {limit} classes apart"
            raise UsageError(
                f"the data: class {classes[bad][0]:g} of a box {place} is no class{known}",
                hint="classes count from 0; `data.classes` chooses among the data's, by the model's numbers",
            )


def _first(bad: np.ndarray) -> int | None:
    """The first sample in which anything is bad."""
    rows = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    return int(rows[0]) if rows.size else None


def _label(batch: Batch, split: SplitName, row: int, what: str) -> str:
    assert batch.labels is not None
    value = batch.labels[row]
    shown = f"{value}" if np.ndim(value) == 0 else "a label"
    return f"the data: label {shown} of sample {_index(batch, row)} ({split} split) {what}"


def _index(batch: Batch, row: int) -> int:
    return int(batch.indices[row]) if row < len(batch.indices) else row


def _extremes(array: np.ndarray) -> np.ndarray:
    """The least and the largest value, which NaN and infinity reach; no copy of the array is made."""
    return np.asarray([array.min(), array.max()], np.float64)


def _kind(values: np.ndarray) -> str:
    return "NaN" if np.isnan(values).any() else "infinity"
