"""Arrays, or encoded images, in a NumPy .npz file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from compressctl.core.data import Dataset
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.addressed import local_file
from compressctl.sources.dataset import Part, SplitDataset, read_parts
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.head_labels import join_heads
from compressctl.sources.images import Preparation, decode_all
from compressctl.sources.labels import as_labels
from compressctl.sources.named_arrays import as_samples, check_numbers
from compressctl.sources.normalize import Normalization
from compressctl.sources.npz_file import NpzFile
from compressctl.sources.params import EncodedSplit, NpzParams
from compressctl.sources.splits import choose

VERSION = 3


def load(params: NpzParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Positions count the file's samples first, then those of its own test split.

    The arrays stay as they are stored; a batch is converted, or decoded, when it is read.
    Raises UsageError when the file lacks an array or the arrays do not fit each other.
    """
    arrays = NpzFile(_path(params, base))
    if params.encoded is None and (several := _several(arrays, params.inputs, params)) is not None:
        train = _named(arrays, params, several, params.labels)
        own = None if params.test_inputs is None else _several(arrays, params.test_inputs, params)
        test = None if own is None else _named(arrays, params, own, params.test_labels)
    elif params.encoded is None:
        assert isinstance(params.inputs, str)
        assert params.test_inputs is None or isinstance(params.test_inputs, str)
        train = _plain(arrays, params, params.inputs, params.labels)
        test = _plain(arrays, params, params.test_inputs, params.test_labels) if params.test_inputs else None
    else:
        train = _encoded(arrays, params, params.encoded.train)
        test = _encoded(arrays, params, params.encoded.test) if params.encoded.test else None
    if test is not None and (test.labels is None) != (train.labels is None):
        raise UsageError(f"{arrays.path}: only one of the train and test parts has labels")
    classes = None if params.classes is None else _names(arrays.get(params.classes))
    return SplitDataset(
        classes=classes or _classes([train] if test is None else [train, test]),
        splits=choose(train.count, sizes, seed, own_test=test.count if test else 0),
        read=read_parts(train, test),
        groups=_groups(arrays, params, [train.count] if test is None else [train.count, test.count]),
        constants=train.constants,
    )


def fingerprint(params: NpzParams, base: Path) -> str:
    return source_fingerprint("npz", VERSION, params, {"data": _path(params, base)})


def _path(params: NpzParams, base: Path) -> Path:
    return local_file(params.path, params.sha256, base, "the .npz file")


def _several(
    arrays: NpzFile, given: str | tuple[str, ...] | dict[str, str], params: NpzParams
) -> dict[str, str] | None:
    """Input to array where there are several inputs, None for a single array.

    Without a word about inputs, and without an array of that name, every array but the labels, classes and groups is one.
    """
    if isinstance(given, dict):
        return given
    if not isinstance(given, str):
        return {name: name for name in given}
    if "inputs" in params.model_fields_set or given in arrays.names or params.test_inputs is not None:
        return None
    others = {*_arrays(params.labels), *_arrays(params.test_labels), params.classes, params.groups, params.test_groups}
    found = [name for name in arrays.names if name not in others]
    return {name: name for name in found} if found else None


def _arrays(labels: str | dict[str, str] | None) -> list[str]:
    """The arrays that hold labels."""
    return [] if labels is None else [labels] if isinstance(labels, str) else list(labels.values())


def _named(
    arrays: NpzFile, params: NpzParams, names: Mapping[str, str], labels_name: str | dict[str, str] | None
) -> Part:
    """Several inputs, used as they are stored."""
    stored = {
        name: check_numbers(arrays.get(array), f"{arrays.path}: array {array!r}") for name, array in names.items()
    }
    samples = as_samples(stored, params.batch_axes, str(arrays.path))
    labels = None
    is_there = isinstance(labels_name, str) and labels_name in arrays.names
    if labels_name is not None and (is_there or "labels" in params.model_fields_set):
        labels = _labels(arrays, labels_name, samples.count, ", ".join(names.values()))
    return Part(samples.count, samples.at, labels, samples.constants)


def _plain(arrays: NpzFile, params: NpzParams, inputs_name: str, labels_name: str | dict[str, str] | None) -> Part:
    stored = arrays.get(inputs_name)
    place = f"{arrays.path}: array {inputs_name!r}"
    if stored.ndim == 0 or stored.dtype.kind not in "biuf":
        raise UsageError(f"{place} does not hold samples of numbers (it is {stored.dtype} {list(stored.shape)})")
    if params.layout is not None and stored.ndim != len(params.layout):
        raise UsageError(
            f"{place} has {stored.ndim} axes, layout {params.layout} has {len(params.layout)}",
            hint="N counts samples, H rows, W columns, C channels",
        )
    normalization = Normalization(_scale(params, stored.dtype), params.mean, params.std)
    keeps_integers = stored.dtype.kind in "iu" and stored.dtype != np.uint8 and normalization.is_identity

    def read(positions: np.ndarray) -> dict[str, np.ndarray]:
        values = _channels_first(stored[positions], params.layout)
        return {params.input_name: values if keeps_integers else normalization.apply(values, axis=1)}

    labels = None if labels_name is None else _labels(arrays, labels_name, len(stored), inputs_name)
    return Part(len(stored), read, labels)


def _encoded(arrays: NpzFile, params: NpzParams, names: EncodedSplit) -> Part:
    blob, offsets = arrays.get(names.blob), arrays.get(names.offsets)
    place = f"{arrays.path}: array"
    if blob.ndim != 1 or blob.dtype != np.uint8:
        raise UsageError(f"{place} {names.blob!r} is not a row of bytes (it is {blob.dtype} {list(blob.shape)})")
    if offsets.ndim != 1 or offsets.dtype.kind not in "iu" or len(offsets) < 2:
        raise UsageError(f"{place} {names.offsets!r} is not a row of positions, one more than there are images")
    offsets = offsets.astype(np.int64)
    if offsets[0] < 0 or offsets[-1] > len(blob) or (np.diff(offsets) < 0).any():
        raise UsageError(
            f"{place} {names.offsets!r} does not go up from 0 to at most {len(blob)}, the end of {names.blob!r}"
        )
    normalization = Normalization(_scale(params, blob.dtype), params.mean, params.std)

    def read(positions: np.ndarray) -> dict[str, np.ndarray]:
        files = [blob[offsets[position] : offsets[position + 1]].tobytes() for position in positions]
        images = decode_all(
            files, [f"{arrays.path}: {names.blob}[{position}]" for position in positions], Preparation()
        )
        return {params.input_name: normalization.apply(_channels_first(images, "NHWC"), axis=1)}

    count = len(offsets) - 1
    labels = None if names.labels is None else _labels(arrays, names.labels, count, names.offsets)
    return Part(count, read, labels)


def _scale(params: NpzParams, dtype: np.dtype) -> float:
    if params.scale is not None:
        return params.scale
    return 1 / 255 if dtype == np.uint8 else 1.0


def _channels_first(values: np.ndarray, layout: str | None) -> np.ndarray:
    if layout == "NHW":
        return values[:, None]
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if layout == "NHWC" else values


def _labels(arrays: NpzFile, name: str | dict[str, str], count: int, inputs_name: str) -> np.ndarray:
    if not isinstance(name, str):
        heads = {head: _labels(arrays, array, count, inputs_name) for head, array in name.items()}
        return join_heads(heads, str(arrays.path))
    labels = as_labels(arrays.get(name), f"{arrays.path}: array {name!r}")
    if len(labels) != count:
        raise UsageError(f"{arrays.path}: {name!r} has {len(labels)} labels for {count} samples in {inputs_name!r}")
    return labels


def _groups(arrays: NpzFile, params: NpzParams, counts: list[int]) -> Callable[[np.ndarray], np.ndarray] | None:
    """Group names by position, those of the file's own test split after the others."""
    if params.groups is None:
        return None
    parts = []
    for name, count in zip((params.groups, params.test_groups), counts, strict=False):
        stored = arrays.get(str(name))
        if stored.shape != (count,):
            raise UsageError(
                f"{arrays.path}: array {name!r} names groups of {list(stored.shape)}, not of {count} samples"
            )
        parts.append(np.array(_names(stored)))
    joined = np.concatenate(parts)
    return lambda positions: joined[positions]


def _names(stored: np.ndarray) -> tuple[str, ...]:
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in stored.tolist())


def _classes(parts: list[Part]) -> tuple[str, ...] | None:
    """Numbers as names when the file names no classes and the labels can be some: integers, fewer values than samples."""
    labels = [part.labels for part in parts if part.labels is not None and len(part.labels)]
    if not labels or any(part.dtype != np.int64 or part.ndim != 1 for part in labels):
        return None
    count = max(int(part.max()) for part in labels) + 1
    return tuple(str(label) for label in range(count)) if count <= sum(map(len, labels)) else None
