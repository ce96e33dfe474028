"""Whether the original was trained on the samples that shall choose: then it scores better on them than it does on others, and so does no file
that is trained anew, however good it is."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from compressctl.core.data import Batch, Split, SplitName, Tuples, tuples_of
from compressctl.core.source import MetricSpec
from compressctl.measure.score import predict, scoring_batch
from compressctl.pipeline.executor import Executor
from compressctl.sources.called import scored_samples

_MOST, _PARTS = 2000, 10
"""Samples of each split that are looked at, and the parts of them whose scores stray as far as chance moves them."""

_BEYOND_CHANCE = 4.0
"""Standard errors."""


@dataclass(frozen=True)
class _Some:
    """Samples of a split at random: files are often sorted by what they show."""

    own: Split
    most: int

    @property
    def tuples(self) -> Tuples:
        return tuples_of(self.own)

    def __len__(self) -> int:
        return min(len(self.own), self.most)

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        """In whole batches."""
        read = 0
        for batch in self.own.batches(size, shuffle_seed=shuffle_seed or 0):
            if read >= self.most:
                return
            read += len(batch.indices)
            yield batch


@dataclass(frozen=True)
class KnownSamples:
    """Scores of the original, in the metric's unit."""

    validation: float
    test: float


def known_samples(executor: Executor) -> KnownSamples | None:
    """Where the original scores better on the validation split than on the test's, beyond chance; None where it does not, or no metric of
    labels tells. The test split tells of the original alone: no file is chosen by it."""
    workspace = executor.workspace
    metric = workspace.judge.metric
    if metric is None or workspace.judge.together is not None or workspace.recipe.heads:
        return None
    each = [_scores(executor, metric, name) for name in ("validation", "test")]
    if each[0] is None or each[1] is None:
        return None
    validation, test = each[0], each[1]
    strays = math.sqrt(float(validation.var(ddof=1) + test.var(ddof=1)) / _PARTS)
    if math.isnan(strays):  # a part of few pairs that all have the same score
        return None
    better = float(validation.mean() - test.mean()) * (1 if metric.higher_is_better else -1)
    if strays == 0 or better <= _BEYOND_CHANCE * strays:
        return None
    return KnownSamples(float(validation.mean()), float(test.mean()))


def _scores(executor: Executor, metric: MetricSpec, name: SplitName) -> np.ndarray | None:
    """The original's, on each part; None without labels, or with too few samples."""
    workspace = executor.workspace
    split = scored_samples(workspace.dataset().split(name))
    size = tuples_of(split).size
    if len(split) < 2 * _PARTS * size:
        return None
    model = workspace.original_graph()
    seen = predict(
        workspace.evaluator().open(model),
        _Some(split, _MOST),
        model.signature,
        scoring_batch(model, workspace.target),
        judge=workspace.judge,
        is_original=True,
    )
    if seen.labels is None:
        return None
    parts = [part.reshape(-1) for part in np.array_split(np.arange(len(seen.outputs)).reshape(-1, size), _PARTS)]
    return np.array([metric.score(seen.outputs[part], seen.labels[part]) for part in parts])
