"""Everything that is measured about exported files, side by side on the same runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compressctl.core.backend import Artifact, Backend
from compressctl.core.data import Dataset, SplitName
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.source import MetricSpec, Task
from compressctl.core.target import Target
from compressctl.measure.changed_examples import with_examples
from compressctl.measure.drift import drift, token_drift
from compressctl.measure.fusion import fusion_of
from compressctl.measure.groups import SMALLEST_GROUP
from compressctl.measure.latency import (
    STANDARD,
    BenchmarkSettings,
    LatencyRun,
    Timing,
    TimingPoint,
    compare,
    operating_point,
)
from compressctl.measure.prediction_change import behaviour
from compressctl.measure.results import Fidelity, Measurement, Noise, OperatingPoint
from compressctl.measure.samples import Samples
from compressctl.measure.score import Predictions, change, predict_all, score
from compressctl.measure.served import threads_of
from compressctl.measure.session_host import SessionHost
from compressctl.measure.size import size

SCORING_BATCH = 64
THROUGHPUT_BATCH = 16


@dataclass(frozen=True)
class Subject:
    """One file to measure. model: in onnx form, whose float graph gives parameters and MACs."""

    artifact: Artifact
    model: Model


@dataclass(frozen=True)
class MeasurementConfig:
    """What files are measured with. samples: what is timed and counted. dataset: None when there is none.

    metric: None for tasks without one. all_points: also other batches and threads, and samples of other sizes.
    """

    backend: Backend
    target: Target
    task: Task
    samples: Samples
    dataset: Dataset | None
    metric: MetricSpec | None
    effort: BenchmarkSettings = STANDARD
    all_points: bool = True


def measure(
    subjects: Sequence[Subject], by: MeasurementConfig, events: Events
) -> tuple[list[Measurement], Noise | None]:
    """subjects: the float model first, the file to hand over last, outputs of stages between them.

    A stand-in is scored but not timed: another runtime than its own opens it here.
    The first and the last are measured in full, those between in size, score and latency at the headline's operating point.
    """
    ends = [subjects[0], subjects[-1]]
    last = len(subjects) - 1
    if subjects[-1].artifact.stand_in:
        found = [_untimed(subject, by) for subject in subjects]
        return _scored(subjects, found, by, events), None
    headline = _compared(subjects, [operating_point(by.target, by.samples)], events, by.effort)
    others = operating_points(by.target, by.samples) if by.all_points else []
    timed = [headline.points[0]]
    if others:
        effort = replace(by.effort, rounds=3, seconds=by.effort.seconds / 4, runs=by.effort.runs // 4)
        timed += _compared(ends, others, events, effort).points
    with SessionHost() as host:
        found = [
            _measurement(subject, run, by, host, in_full=position in (0, last))
            for position, (subject, run) in enumerate(zip(subjects, timed[0], strict=True))
        ]
    for end, position in ((0, 0), (-1, 1)):
        points = tuple(OperatingPoint(runs[position].latency, runs[position].speedup) for runs in timed[1:])
        found[end] = replace(found[end], points=points)
    return _scored(subjects, found, by, events), headline.noise


def _compared(
    subjects: Sequence[Subject], at: Sequence[TimingPoint], events: Events, effort: BenchmarkSettings
) -> Timing:
    signatures = [subject.model.signature for subject in subjects]
    return compare([subject.artifact for subject in subjects], at, signatures, events, effort)


def operating_points(target: Target, samples: Samples) -> list[TimingPoint]:
    """Without the headline's own: batch 1 and a throughput batch, one thread and all; and, where the data's sizes vary, the
    smaller and the larger sample as the headline is timed."""
    others_fit = samples.signature.fixed_batch is None and samples.call(1).samples == 1
    batches = {1, THROUGHPUT_BATCH} if others_fit else {target.batch}
    found = [
        replace(target, threads=threads, batch=batch)
        for batch in sorted(batches)
        for threads in sorted({1, threads_of(replace(target, threads=0))})
    ]
    others = [point for point in found if (point.batch, point.threads) != (target.batch, threads_of(target))]
    sizes = [size for size in samples.sizes if size != "median"]
    return [
        *(operating_point(target, samples, size) for size in sizes),
        *(operating_point(point, samples) for point in others),
    ]


def _untimed(subject: Subject, by: MeasurementConfig) -> Measurement:
    return Measurement(
        artifact=subject.artifact,
        size=size(subject.artifact, subject.model, by.backend, inputs=by.samples.sample_shapes()),
        score=None,
        latency=None,
        memory=None,
        fusion=None,
    )


def _measurement(
    subject: Subject, run: LatencyRun, by: MeasurementConfig, host: SessionHost, *, in_full: bool
) -> Measurement:
    shapes = by.samples.sample_shapes()
    fused = fusion_of(tuple(host.explain(subject.artifact, by.target, shapes))) if in_full else None
    return Measurement(
        artifact=subject.artifact,
        size=size(subject.artifact, subject.model, by.backend, fused.nodes if fused else (), shapes),
        score=None,
        latency=run.latency,
        memory=run.memory,
        load_ms=run.load_ms,
        fusion=fused,
        speedup=run.speedup,
        step=run.step,
        energy=run.energy,
        thrift=run.thrift,
    )


def _scored(
    subjects: Sequence[Subject], found: list[Measurement], by: MeasurementConfig, events: Events
) -> list[Measurement]:
    """With scores, and what changed against the first: every output of every file, one pass over the data."""
    split = None if by.dataset is None else scored_split(by.dataset)
    if by.dataset is None or split is None:
        why = "the recipe has no data" if by.dataset is None else "the data have no samples"
        return [found[0], *(replace(measured, fidelity=Fidelity(reason=why)) for measured in found[1:])]
    with SessionHost() as host:
        seen = predict_all(
            [host.open(subject.artifact, replace(by.target, threads=0)) for subject in subjects],
            [subject.model for subject in subjects],
            by.dataset.split(split),
            by.target,
            events,
            task=by.task,
        )
    scored: list[Measurement] = []
    for subject, measured, now in zip(subjects, found, seen.predictions, strict=True):
        before, result = seen.predictions[0], measured
        is_first = subject is subjects[0]
        if not is_first:
            compared = seen.fidelity[len(scored)]
            is_random = bool(getattr(by.dataset, "is_random", False))
            result = replace(result, fidelity=Fidelity(compared, split, seen.samples, is_random))
        if now is not None and before is not None and split == "test":
            _warn_of_nothing(now, "the float model" if is_first else subject.artifact.path.name, events)
            result = _with_score(result, before, now, by, scored, events, is_last=subject is subjects[-1])
        scored.append(result)
    return scored


def scored_split(dataset: Dataset) -> SplitName | None:
    """The split whose samples files are compared on: the test split, or another that has samples, in order of how little it
    was used for choosing; None where all are empty."""
    names: tuple[SplitName, ...] = ("test", "validation", "calibration", "train")
    return next((name for name in names if len(dataset.split(name))), None)


def _with_score(
    found: Measurement,
    before: Predictions,
    now: Predictions,
    by: MeasurementConfig,
    scored: Sequence[Measurement],
    events: Events,
    *,
    is_last: bool,
) -> Measurement:
    """With the task's own metric and what changed in its terms. scored: the measurements before this one."""
    assert by.dataset is not None
    classes = by.dataset.classes
    if by.metric is not None and now.labels is not None:
        value = score(now, by.metric, classes, "test")
        if not math.isfinite(value.value):
            what = "infinite" if math.isinf(value.value) else "not a number"
            events.warn(
                f"{by.metric.name} is {what}: labels that do not vary, or outputs that are no numbers or too far off"
            )
        else:
            found = replace(found, score=value)
            if scored and scored[0].score is not None:
                found = replace(found, change=change(before, now, by.metric, classes, "test"))
    if is_last and scored:
        found = _behaved(found, before, now, by)
        _warn_of_groups(found, before, events)
    return found


def _warn_of_nothing(found: Predictions, name: str, events: Events) -> None:
    """NaN and infinity reach no figure quietly: what is computed from samples is left out where one has them."""
    outputs = found.outputs.reshape(len(found.outputs), -1)
    broken = int((~np.isfinite(outputs)).any(axis=1).sum())
    if broken:
        events.warn(
            f"{name} gives NaN or infinity for {broken:,} of {len(outputs):,} test samples; what changed for single samples "
            f"is not compared"
        )


def _warn_of_groups(found: Measurement, before: Predictions, events: Events) -> None:
    part = found.behaviour or found.drift
    if before.groups is not None and (part is None or part.groups is None):
        events.warn(
            f"the data's groups are not compared: that takes labels and two groups of {SMALLEST_GROUP} test samples or more"
        )


def _behaved(found: Measurement, before: Predictions, after: Predictions, by: MeasurementConfig) -> Measurement:
    """With what changed for single samples, in the terms of the task."""
    assert by.dataset is not None
    classes = by.dataset.classes
    if by.task == "classification" and classes is not None:
        changed = behaviour(before, after, classes)
        if changed is not None:
            changed = with_examples(changed, before, after, by.dataset, SCORING_BATCH)
        return replace(found, behaviour=changed)
    if by.task == "language-model":
        return replace(found, tokens=token_drift(before, after))
    if by.task in ("regression", "embedding"):
        return replace(found, drift=drift(before, after, neighbours=by.task == "embedding"))
    return found
