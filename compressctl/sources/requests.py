"""Recorded calls of a model: a folder with one .npz each, or one subfolder for each sequence of them; arrays as the model takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressctl.core.data import Batch, Dataset, SplitName, parts_of
from compressctl.core.errors import UsageError
from compressctl.core.source import SplitSizes
from compressctl.sources.fingerprint import existing_folder, source_fingerprint
from compressctl.sources.labels import as_labels
from compressctl.sources.named_arrays import check_numbers
from compressctl.sources.npz_file import NpzFile
from compressctl.sources.params import RequestsParams
from compressctl.sources.splits import Splits, choose

VERSION = 1


def load(params: RequestsParams, sizes: SplitSizes, base: Path, seed: int) -> Dataset:
    """Files sorted by name; each is read when it is needed. Raises UsageError when there is none, the first is not one, or another lacks an array of it."""
    files = _files(params, base)

    def read(position: int) -> Recorded:
        calls = [_read(path, params.labels) for path in files[position]]
        return _sequence(calls, files[position]) if params.sequences else calls[0]

    first = read(0)
    if not first.inputs:
        raise UsageError(f"{files[0][0]} holds no inputs", hint="write it with numpy.savez(path, **inputs)")
    _check_names([path for sequence in files for path in sequence])
    return RequestDataset(read, choose(len(files), sizes, seed), classes_of(params.classes, first.labels))


def _check_names(files: Sequence[Path]) -> None:
    """Before any work: the last call may be read hours later. Raises UsageError for a call that lacks an array of the first."""
    known: tuple[str, ...] = ()
    for path in files:
        with NpzFile(path) as stored:
            names = tuple(stored.names)
        known = known or names
        if missing := [name for name in known if name not in names]:
            raise UsageError(
                f"{path} has no array {', '.join(map(repr, missing))}, which {files[0]} has",
                hint=f"every call holds all inputs; it has {', '.join(names) or 'none'}",
            )


def fingerprint(params: RequestsParams, base: Path) -> str:
    root = base / params.path
    files = {str(path.relative_to(root)): path for sequence in _files(params, base) for path in sequence}
    return source_fingerprint("requests", VERSION, params, files)


@dataclass(frozen=True)
class Recorded:
    """One call. labels: (samples, ...), None without. expected: outputs that were recorded with it."""

    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    expected: Mapping[str, np.ndarray] | None = None


@dataclass(frozen=True)
class RequestDataset:
    """read: the call at a position. Each is a batch of its own: what axis counts samples only the model knows."""

    read: Callable[[int], Recorded]
    splits: Splits
    classes: Sequence[str] | None = None

    def split(self, name: SplitName) -> RequestSplit:
        return RequestSplit(self.splits.of(name), self.read)


@dataclass(frozen=True)
class RequestSplit:
    positions: np.ndarray
    read: Callable[[int], Recorded]

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """One call each, whatever the size."""
        for chosen in parts_of(self.positions, 1, shuffle_seed):
            found = self.read(int(chosen[0]))
            yield Batch(found.inputs, found.labels, chosen, is_request=True, expected=found.expected)


def classes_of(names: Sequence[str] | None, labels: np.ndarray | None) -> tuple[str, ...] | None:
    return tuple(names) if names is not None and labels is not None else None


def _files(params: RequestsParams, base: Path) -> list[list[Path]]:
    """Of each sample: a call alone, or those of a sequence."""
    folder = existing_folder(base / params.path, what="the folder of recorded inputs")
    if not params.sequences:
        return [[path] for path in _calls(folder)]
    sequences = sorted(path for path in folder.iterdir() if path.is_dir())
    if not sequences:
        raise UsageError(
            f"{folder} holds no subfolders", hint="with `sequences: true` each subfolder is a sequence of calls"
        )
    return [_calls(path) for path in sequences]


def _calls(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*.npz") if not path.is_dir())
    if not files:
        raise UsageError(f"{folder} holds no .npz file", hint="write one for each call: numpy.savez(path, **inputs)")
    return files


def _sequence(calls: Sequence[Recorded], files: Sequence[Path]) -> Recorded:
    """All calls along a first axis of steps; labels (samples, steps, ...)."""
    first = calls[0]
    for call, path in zip(calls, files, strict=True):
        shapes, known = ({name: array.shape for name, array in found.inputs.items()} for found in (call, first))
        if shapes != known:
            raise UsageError(
                f"{path} holds {shapes}, the first call of the sequence {known}",
                hint="all calls of a sequence have the same arrays in the same shapes",
            )
    marks = [call.labels for call in calls if call.labels is not None]
    labels = np.stack(marks, axis=1) if marks else None
    return Recorded({name: np.stack([call.inputs[name] for call in calls]) for name in first.inputs}, labels)


def _read(path: Path, labels: str | None) -> Recorded:
    with NpzFile(path) as stored:
        arrays = {name: stored.get(name) for name in stored.names}
    marks = None
    if labels is not None:
        if labels not in arrays:
            raise UsageError(f"{path} has no array {labels!r} with labels", hint=f"it has {', '.join(arrays)}")
        stored_labels = arrays.pop(labels)
        marks = as_labels(stored_labels.reshape(1) if stored_labels.ndim == 0 else stored_labels, f"{path}: {labels}")
    return Recorded({name: check_numbers(array, f"{path}: array {name!r}") for name, array in arrays.items()}, marks)
