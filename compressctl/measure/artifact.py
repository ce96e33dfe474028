"""Everything that is measured about exported files, side by side on the same runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from compressctl.core.backend import Artifact, Backend
from compressctl.core.data import Dataset
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.source import MetricSpec, Task
from compressctl.core.target import Target
from compressctl.measure.behaviour import behaviour
from compressctl.measure.drift import drift, token_drift
from compressctl.measure.fusion import fusion
from compressctl.measure.groups import SMALLEST_GROUP
from compressctl.measure.latency import STANDARD, Effort, LatencyRun, Timing, compare
from compressctl.measure.ledger import size
from compressctl.measure.results import LoadPoint, Measurement, Noise
from compressctl.measure.score import Predictions, change, predict, score, scoring_batch
from compressctl.measure.served import threads_of
from compressctl.measure.sheet import with_examples

SCORING_BATCH = 64
THROUGHPUT_BATCH = 16


@dataclass(frozen=True)
class Subject:
    """One file to measure. model: in onnx form, whose float graph gives parameters and MACs."""

    artifact: Artifact
    model: Model


@dataclass(frozen=True)
class Yardstick:
    """What files are measured with. dataset: None when nothing can be scored. metric: None for custom tasks without one."""

    backend: Backend
    target: Target
    task: Task
    dataset: Dataset | None
    metric: MetricSpec | None
    effort: Effort = STANDARD
    all_points: bool = True


def measure(subjects: Sequence[Subject], by: Yardstick, events: Events) -> tuple[list[Measurement], Noise | None]:
    """subjects: the float model first, the file to hand over last, outputs of stages between them.

    A stand-in is scored but not timed: another runtime than its own opens it here.
    The first and the last are measured in full, those between in size, score and latency at the headline's operating point.
    """
    ends = [subjects[0], subjects[-1]]
    last = len(subjects) - 1
    if subjects[-1].artifact.stand_in:
        found = [_untimed(subject, by) for subject in subjects]
        return _scored(subjects, found, by, events), None
    headline = _compared(subjects, [by.target], events, by.effort)
    others = operating_points(by.target, subjects[0].model) if by.all_points else []
    timed = [headline.points[0]]
    if others:
        effort = replace(by.effort, rounds=3, seconds=by.effort.seconds / 4, runs=by.effort.runs // 4)
        timed += _compared(ends, others, events, effort).points
    found = [
        _measurement(subject, run, by, in_full=position in (0, last))
        for position, (subject, run) in enumerate(zip(subjects, timed[0], strict=True))
    ]
    for end, position in ((0, 0), (-1, 1)):
        points = tuple(LoadPoint(runs[position].latency, runs[position].speedup) for runs in timed[1:])
        found[end] = replace(found[end], points=points)
    return _scored(subjects, found, by, events), headline.noise


def _compared(subjects: Sequence[Subject], targets: Sequence[Target], events: Events, effort: Effort) -> Timing:
    signatures = [subject.model.signature for subject in subjects]
    return compare([subject.artifact for subject in subjects], targets, signatures, events, effort)


def operating_points(target: Target, model: Model) -> list[Target]:
    """Batch 1 and a throughput batch, one thread and all, without the headline's own."""
    batches = {1, THROUGHPUT_BATCH} if _any_batch(model) else {target.batch}
    found = [
        replace(target, threads=threads, batch=batch)
        for batch in sorted(batches)
        for threads in sorted({1, threads_of(replace(target, threads=0))})
    ]
    return [point for point in found if (point.batch, point.threads) != (target.batch, threads_of(target))]


def _any_batch(model: Model) -> bool:
    return all(spec.shape and isinstance(spec.shape[0], str) for spec in model.signature.inputs)


def _untimed(subject: Subject, by: Yardstick) -> Measurement:
    return Measurement(
        artifact=subject.artifact,
        size=size(subject.artifact, subject.model, by.backend),
        score=None,
        latency=None,
        memory=None,
        fusion=None,
    )


def _measurement(subject: Subject, run: LatencyRun, by: Yardstick, *, in_full: bool) -> Measurement:
    fused = fusion(by.backend, subject.artifact, by.target) if in_full else None
    return Measurement(
        artifact=subject.artifact,
        size=size(subject.artifact, subject.model, by.backend, fused.nodes if fused else ()),
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


def _scored(subjects: Sequence[Subject], found: list[Measurement], by: Yardstick, events: Events) -> list[Measurement]:
    """With scores, and what changed against the first."""
    if by.dataset is None:
        return found
    test, serving, classes = by.dataset.split("test"), replace(by.target, threads=0), by.dataset.classes
    before: Predictions | None = None
    scored: list[Measurement] = []
    for subject, measured in zip(subjects, found, strict=True):
        session = by.backend.open(subject.artifact, serving)
        now = predict(session, test, subject.model.signature, scoring_batch(subject.model, by.target), events)
        before = before or now
        result = measured
        _warn_of_nothing(now, "the float model" if subject is subjects[0] else subject.artifact.path.name, events)
        if by.metric is not None and now.labels is not None:
            found_score = score(now, by.metric, classes, "test")
            if not math.isfinite(found_score.value):
                events.warn(
                    f"{by.metric.name} is not a number: labels that do not vary, or outputs that are no numbers"
                )
            else:
                result = replace(result, score=found_score)
                if subject is not subjects[0] and scored[0].score is not None:
                    result = replace(result, change=change(before, now, by.metric, classes, "test"))
        if subject is subjects[-1] and subject is not subjects[0]:
            result = _behaved(result, before, now, by)
            _warn_of_groups(result, before, events)
        scored.append(result)
    return scored


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


def _behaved(found: Measurement, before: Predictions, after: Predictions, by: Yardstick) -> Measurement:
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
