"""Watch a float graph work on calibration samples: ranges and means, in memory that does not grow with the samples."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import onnx

from compressctl.core.data import Split
from compressctl.core.errors import StageError, UsageError
from compressctl.core.events import Events
from compressctl.core.feeds import first_feeds, whole_feeds
from compressctl.core.machine import library_threads
from compressctl.core.model import Signature
from compressctl.graph.execute import ActivationRecorder
from compressctl.numerics.histogram import StreamingHistogram
from compressctl.techniques.quantize._pairs import Largest, Way
from compressctl.techniques.quantize._reached import reached

_TAPPED_BYTES = 192 * 1024**2
"""What the tapped tensors of one batch may take; decides how many samples run at once."""

_LARGEST_BATCH = 24
"""Samples that run at once: what a quarter of 100 samples is, so that a thousand take no more memory."""

_EARLY = 0.7
"""Of the samples, behind which ranges should hardly grow: calls seldom end at three quarters exactly."""

_COUNTED_PER_TENSOR = 65_536
"""Values of one tensor that are counted per batch. Bounds are exact; a shape needs no more than a sample of the values."""


@dataclass(frozen=True)
class Calibration:
    """histograms: by tensor. means: the mean over samples of chosen tensors, float32, without the batch axis.

    early: the histograms after about three quarters of the samples, None where they came in fewer than two calls. pairs: how large two neighbouring
    channels become together, of the tensors that were asked for.
    """

    histograms: dict[str, StreamingHistogram]
    means: dict[str, np.ndarray]
    samples: int
    early: dict[str, StreamingHistogram] | None = None
    pairs: dict[Way, Largest] = field(default_factory=dict)


def calibrate(
    model: onnx.ModelProto,
    signature: Signature,
    split: Split,
    ranged: Sequence[str],
    counted: Iterable[str],
    averaged: Iterable[str],
    events: Events,
    paired: Iterable[Way] = (),
) -> Calibration:
    """Run the whole split once.

    ranged: tensors whose bounds are wanted; counted: those of them that need a histogram too; averaged: tensors whose mean
    over samples is wanted; paired: those whose neighbouring channels are looked at. What an input decides not to compute is watched on the samples that
    reach it. Raises UsageError without a call's samples, StageError when a tensor holds NaN or infinity.
    """
    histograms = {tensor: StreamingHistogram() for tensor in ranged}
    sums: dict[str, np.ndarray] = {}
    counting, averaging = frozenset(counted), frozenset(averaged)
    pairs: dict[Way, Largest] = {}
    ways = dict.fromkeys(paired)
    watched_tensors = list(dict.fromkeys([*ranged, *averaging, *(tensor for tensor, _ in ways)]))
    reach = reached(model, signature, split, watched_tensors, events)
    tapped = ActivationRecorder(model, list(dict.fromkeys([*watched_tensors, *reach.decided])))
    counts: dict[str, int] = dict.fromkeys(averaging, 0)
    done, early = 0, None
    # Each tensor has statistics of its own, and numpy lets go of the interpreter while it reduces.
    with ThreadPoolExecutor(max_workers=min(8, library_threads() or os.cpu_count() or 1)) as pool:
        size = min(batch_size(split, signature, tapped.run), max(-(-len(split) // 4), 1))
        for inputs, samples in calibration_batches(split, signature, size, events):
            if early is None and done >= _EARLY * len(split):
                early = copy.deepcopy(histograms)
            values = tapped.run(inputs)
            watching = [
                pool.submit(_observe, histogram, tensor, rows, count=tensor in counting)
                for tensor, histogram in histograms.items()
                if (rows := reach.rows(tensor, values)).size or not values[tensor].size
            ]
            for tensor in averaging:
                rows = reach.rows(tensor, values)
                kept = samples if rows is values[tensor] else len(rows)
                counts[tensor] += kept
                watching += [pool.submit(_add_to_mean, sums, tensor, rows, kept)] if kept else []
            watching += [
                pool.submit(_add_to_pairs, pairs, way, rows)
                for way in ways
                if (rows := reach.rows(way[0], values)).size or not values[way[0]].size
            ]
            for watched in watching:
                watched.result()
            del values, watching
            done += samples
    means = {tensor: total / counts[tensor] for tensor, total in sums.items()}
    return Calibration(histograms, means, done, early, pairs)


def _observe(histogram: StreamingHistogram, tensor: str, values: np.ndarray, *, count: bool) -> None:
    try:
        histogram.extend(values)
    except ValueError as error:
        raise StageError(
            f"tensor {tensor}: {error} on calibration data",
            hint="check the data's scaling and the float model's outputs",
        ) from error
    if count:
        # An odd stride visits every row and column of a feature map in turn.
        stride = max(1, values.size // _COUNTED_PER_TENSOR) | 1
        histogram.count(values.reshape(-1)[::stride])


def _add_to_pairs(pairs: dict[Way, Largest], way: Way, values: np.ndarray) -> None:
    here = Largest.of(values, way[1])
    pairs[way] = here if way not in pairs else pairs[way].with_those_of(here)


def _add_to_mean(sums: dict[str, np.ndarray], tensor: str, values: np.ndarray, samples: int) -> None:
    """Add the sum over the batch axis; tensors whose other axes change with the input have no mean and are left out."""
    known = sums.get(tensor)
    if values.shape[:1] != (samples,) or (known is not None and known.shape != values.shape[1:]):
        sums[tensor] = np.full((), np.nan)
        return
    total = values.sum(axis=0)
    if known is None:
        sums[tensor] = total
    else:
        known += total


def calibration_batches(
    split: Split, signature: Signature, size: int, events: Events, doing: str = "calibrating"
) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """The split in calls of at most so many samples, with their numbers of samples.

    Raises UsageError on a split with fewer samples than a fixed batch takes.
    """
    done = 0
    for feed in whole_feeds(split, signature, size):
        yield dict(feed.inputs), feed.count
        done += feed.count
        events.progress(doing, done, len(split))
    if done == 0:
        raise UsageError(f"the calibration split has {len(split)} samples, fewer than the model's fixed batch takes")


def batch_size(
    split: Split, signature: Signature, look: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
) -> int:
    """How many samples may run at once: their tapped tensors, of which `look` gives one sample's, shall fit the memory bound.

    Raises UsageError on an empty split.
    """
    if len(split) == 0:
        raise UsageError("the calibration split is empty", hint="set data.calibration to 100 samples or more")
    if signature.fixed_batch is not None:
        return signature.fixed_batch
    first = first_feeds(split, signature, 1, 1)[0]
    taken = sum(value.nbytes for value in look(first.inputs).values())
    return int(np.clip(_TAPPED_BYTES // max(taken, 1), 1, _LARGEST_BATCH))
