"""A network that decides by its input: which way samples take through an exported file, and what they lose on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx

from compressctl.core.backend import Session
from compressctl.core.data import Split, tuples_of
from compressctl.core.feeds import feeds
from compressctl.core.model import OnnxModel, Signature, TensorSpec
from compressctl.core.source import MetricSpec
from compressctl.graph.branches import Selection, decisions
from compressctl.graph.macs import node_macs
from compressctl.graph.shapes import shapes
from compressctl.graph.tensors import copy_of
from compressctl.measure.results import PathGroup, PathResult, Paths, PathShift
from compressctl.measure.score import Predictions

WHOLE = "the whole network"
_OTHERS = "other ways"

_MOST_SHOWN = 12
_MOST_SHIFTED = 2_000
"""Samples whose shifted inputs are run."""

_SHIFT = 0.25
"""Standard deviations of the inputs."""

_BATCH = 64


def observed(model: OnnxModel) -> OnnxModel | None:
    """The model with its decisions as further outputs, (n, 1, ...) bool; None where it decides nothing."""
    found = decisions(model.body.graph)
    if not found:
        return None
    body, known = copy_of(model.body), shapes(model.body)
    batch = model.signature.outputs[0].batch or "batch"
    specs = tuple(
        TensorSpec(one.decided, "bool", (batch, *(1 for _ in known.get(one.decided, (1, 1))[1:]))) for one in found
    )
    for spec in specs:
        body.graph.output.append(onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.BOOL, list(spec.shape)))
    return replace(model, body=body, signature=Signature(model.signature.inputs, model.signature.outputs + specs))


@dataclass(frozen=True)
class Observation:
    """What is looked at. sample_shapes: of one sample, for MACs. before, after: results of the float file and of this one on the split, None where none are read. session: of the
    `observed` model's file; baseline: of the float file."""

    model: OnnxModel
    sample_shapes: Mapping[str, Sequence[int]]
    session: Session
    baseline: Callable[[], Session]
    split: Split
    before: Predictions | None
    after: Predictions | None
    metric: MetricSpec | None
    classes: Sequence[str] | None


def paths(seen: Observation) -> Paths:
    """One pass over the split, and one over shifted inputs."""
    ways = _Ways(seen.model, seen.sample_shapes)
    decided = _decided(seen, ways)
    taken = ways.of(decided)
    metric = _Metric(seen.metric, seen.before, seen.after, tuples_of(seen.split).size)
    spent = ways.macs(decided)
    shift, why_not = _shifted(seen, ways)
    return Paths(
        samples=len(decided),
        paths=_by_path(taken, spent, metric),
        average_macs=None if spent is None else float(spent.mean()),
        worst_macs=ways.all_macs,
        least_macs=None if spent is None else int(spent.min()),
        groups=_groups(taken, metric, seen),
        shifts=() if shift is None else (shift,),
        reason=why_not,
    )


class _Ways:
    """What decisions mean: names of ways and their multiply-accumulates."""

    def __init__(self, model: OnnxModel, inputs: Mapping[str, Sequence[int]]) -> None:
        graph = model.body.graph
        self.found: list[Selection] = decisions(graph)
        known = shapes(model.body, inputs=dict(inputs))
        each = {node.output[0]: node_macs(node, known) for node in graph.node}
        self.all_macs = None if None in each.values() else sum(value or 0 for value in each.values())
        self._nodes = [{node.output[0] for node in one.late} for one in self.found]
        self._each = each
        self._known: dict[tuple[bool, ...], int] = {}
        owners = [_as_before(one.of) for one in self.found]
        counts, numbers = Counter(owners), Counter[str]()
        self._names: list[str] = []
        for owner in owners:
            numbers[owner] += 1
            exit_ = f"exit {numbers[owner]}" if counts[owner] > 1 or not owner else ""
            self._names.append(" ".join(part for part in (owner, exit_) if part))
        selects = [{node.output[0] for node in one.selects} for one in self.found]
        self._inside = [
            {other for other, own in enumerate(selects) if other != place and own <= nodes}
            for place, nodes in enumerate(self._nodes)
        ]

    def rows(self, outputs: Mapping[str, np.ndarray], count: int) -> np.ndarray:
        """(count, decisions) bool, of what a session of the observed file gave."""
        columns = [outputs[one.decided].reshape(len(outputs[one.decided]), -1)[:count, :1] for one in self.found]
        return np.concatenate(columns, axis=1).astype(bool)

    def effective(self, row: Sequence[bool]) -> tuple[bool, ...]:
        """Without decisions that are not made, since another one leaves them out."""
        left_out = {inner for place, value in enumerate(row) if value for inner in self._inside[place]}
        return tuple(bool(value) and place not in left_out for place, value in enumerate(row))

    def name(self, row: Sequence[bool]) -> str:
        """As in "exit 1", or "without layer1.1 and layer2.0"."""
        made = [name for name, value in zip(self._names, self.effective(row), strict=True) if value]
        exits = [name for name in made if name.startswith("exit ")]
        blocks = [name for name in made if name not in exits]
        parts = [*(["without " + " and ".join(blocks)] if blocks else []), *exits]
        return ", ".join(parts) or WHOLE

    def of(self, decided: np.ndarray) -> np.ndarray:
        """(n,) names. decided: (n, decisions)."""
        known: dict[tuple[bool, ...], str] = {}
        rows = [tuple(row) for row in decided.tolist()]
        return np.array([known.setdefault(row, self.name(row)) for row in rows], dtype=object)

    def macs(self, decided: np.ndarray) -> np.ndarray | None:
        """(n,) multiply-accumulates."""
        if self.all_macs is None:
            return None
        return np.array([self._macs(self.effective(row)) for row in decided.tolist()])

    def _macs(self, made: tuple[bool, ...]) -> int:
        if made not in self._known:
            gone = set[str]().union(*(nodes for nodes, value in zip(self._nodes, made, strict=True) if value))
            self._known[made] = sum(value or 0 for node, value in self._each.items() if node not in gone)
        return self._known[made]


def _as_before(module: str) -> str:
    """A module's name without the networks that dynamic stages put around it, empty for one of those."""
    while module.startswith("network."):
        module = module.removeprefix("network.")
    return "" if module == "network" else module


class _Metric:
    """The metric of both files on some of the samples. size: how many make one that is scored, two of pairs."""

    def __init__(
        self, metric: MetricSpec | None, before: Predictions | None, after: Predictions | None, size: int
    ) -> None:
        self._metric, self.before, self.after, self._size = metric, before, after, size

    def of(self, chosen: np.ndarray) -> tuple[float | None, float | None]:
        """Where several samples are scored together, of those that are chosen together."""
        if self._size > 1:
            chosen = np.repeat(chosen.reshape(-1, self._size).all(1), self._size)
        return self._of(self.before, chosen), self._of(self.after, chosen)

    def _of(self, found: Predictions | None, chosen: np.ndarray) -> float | None:
        if self._metric is None or found is None or found.labels is None or not chosen.any():
            return None
        return metric_of(self._metric, found.outputs[chosen], found.labels[chosen])


def metric_of(metric: MetricSpec, outputs: np.ndarray, labels: np.ndarray) -> float | None:
    """None where the metric says nothing of these samples, as of a single class."""
    try:
        value = float(metric.score(outputs, labels))
    except (ValueError, TypeError, IndexError, ZeroDivisionError):
        return None
    return value if np.isfinite(value) else None


def _decided(seen: Observation, ways: _Ways) -> np.ndarray:
    """(n, decisions) bool."""
    parts = [
        ways.rows(seen.session.run(feed.inputs), feed.count) for feed in feeds(seen.split, seen.model.signature, _BATCH)
    ]
    return np.concatenate(parts)


def _by_path(taken: np.ndarray, spent: np.ndarray | None, metric: _Metric) -> tuple[PathResult, ...]:
    often = [str(name) for name, _ in Counter(taken.tolist()).most_common(_MOST_SHOWN)]
    named = np.where(np.isin(taken, often), taken, _OTHERS)
    found = []
    for name in dict.fromkeys(named.tolist()):
        chosen = named == name
        before, after = metric.of(chosen)
        count = int(chosen.sum())
        macs = None if spent is None else int(spent[chosen].mean())
        found.append(
            PathResult(name=name, samples=count, share=count / len(taken), macs=macs, before=before, after=after)
        )
    return tuple(sorted(found, key=lambda path: (path.macs or 0, path.name)))


def _groups(taken: np.ndarray, metric: _Metric, seen: Observation) -> tuple[PathGroup, ...]:
    after = seen.after
    if after is None:
        return ()
    found: list[PathGroup] = []
    labels = after.labels
    if labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu" and seen.classes is not None:
        found += [
            _group("class", str(seen.classes[number]), labels == number, taken, metric)
            for number in np.unique(labels).tolist()
            if 0 <= number < len(seen.classes)
        ]
    if after.groups is not None:
        found += [_group("group", str(name), after.groups == name, taken, metric) for name in np.unique(after.groups)]
    return tuple(sorted(found, key=lambda group: -group.early))


def _group(kind: str, name: str, chosen: np.ndarray, taken: np.ndarray, metric: _Metric) -> PathGroup:
    before, after = metric.of(chosen)
    early = float((taken[chosen] != WHOLE).mean())
    return PathGroup(kind=kind, name=name, samples=int(chosen.sum()), early=early, before=before, after=after)


def _shifted(seen: Observation, ways: _Ways) -> tuple[PathShift | None, str | None]:
    """The same on inputs with noise on them."""
    signature = seen.model.signature
    if not any(spec.dtype.startswith("float") and spec.value is None for spec in signature.inputs):
        return None, "its inputs are no floats, to which noise could be added"
    if signature.states:
        return None, "it takes sequences"
    noise = _Noise(signature)
    baseline = seen.baseline()
    decided: list[np.ndarray] = []
    outputs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    labels: list[np.ndarray] = []
    for feed in feeds(seen.split, signature, _BATCH):
        inputs = noise(feed.inputs)
        now, was = seen.session.run(inputs), baseline.run(inputs)
        decided.append(ways.rows(now, feed.count))
        first = signature.outputs[0].name
        for kept, given in zip(outputs, (was, now), strict=True):
            kept.append(given[first][: feed.count])
        if feed.batch.labels is not None:
            labels.append(feed.batch.labels[: feed.count])
        if sum(map(len, decided)) >= _MOST_SHIFTED:
            break
    rows = np.concatenate(decided)
    spent = ways.macs(rows)
    before, after = (_scored(seen.metric, kept, labels) for kept in outputs)
    shares = {str(name): count / len(rows) for name, count in Counter(ways.of(rows).tolist()).most_common(_MOST_SHOWN)}
    return PathShift(
        name=f"normal noise of {_SHIFT:g} standard deviations",
        samples=len(rows),
        shares=shares,
        macs=None if spent is None else float(spent.mean()),
        before=before,
        after=after,
    ), None


def _scored(metric: MetricSpec | None, outputs: list[np.ndarray], labels: list[np.ndarray]) -> float | None:
    if metric is None or not labels or labels[0].dtype == object or len({part.shape[1:] for part in outputs}) > 1:
        return None
    return metric_of(metric, np.concatenate(outputs), np.concatenate(labels))


class _Noise:
    """Float inputs with normal noise on them, the same for both files."""

    def __init__(self, signature: Signature) -> None:
        self._floats = {spec.name for spec in signature.inputs if spec.dtype.startswith("float") and spec.value is None}
        self._rng = np.random.default_rng(0)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            name: (array + _SHIFT * array.std() * self._rng.standard_normal(array.shape)).astype(array.dtype)
            if name in self._floats
            else array
            for name, array in inputs.items()
        }
