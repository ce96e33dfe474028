"""Everything that is measured about exported files, side by side on the same runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from compressctl.backends.preprocess import asked_steps, taken_shapes
from compressctl.core.backend import Artifact, Backend, ExecutedNode
from compressctl.core.data import Dataset, SplitName
from compressctl.core.events import Events
from compressctl.core.model import OnnxModel
from compressctl.core.target import Target
from compressctl.core.tasks import Judge
from compressctl.graph.branches import decisions, depends_on_input, undecided
from compressctl.graph.cost import costs, total
from compressctl.measure.changed_examples import with_examples
from compressctl.measure.draws import with_draws
from compressctl.measure.drift import drift, token_drift
from compressctl.measure.groups import MOST_GROUPS
from compressctl.measure.latency import (
    STANDARD,
    BenchmarkSettings,
    LatencyRun,
    Timing,
    TimingPoint,
    compare,
    operating_point,
)
from compressctl.measure.paths import Observation, observed, paths
from compressctl.measure.prediction_change import behaviour
from compressctl.measure.results import (
    SMALLEST_GROUP,
    BackendResult,
    Fidelity,
    HeadResult,
    Measurement,
    OperatingPoint,
    Paths,
    Speedup,
    WaterfallStep,
)
from compressctl.measure.samples import Samples
from compressctl.measure.score import Predictions, Seen, change, decoded_change, predict_all, score, with_reference
from compressctl.measure.served import threads_of
from compressctl.measure.session_host import SessionHost
from compressctl.measure.size import size
from compressctl.sources.called import scored_samples

SCORING_BATCH = 64
THROUGHPUT_BATCH = 16

_MACS_A_ROUND = 2e10
_FEWEST_TURNS, _MOST_TURNS = 32, 512


@dataclass(frozen=True)
class Subject:
    """One file to measure. name: of the stage that made it. model: in onnx form, whose float graph gives parameters and MACs."""

    name: str
    artifact: Artifact
    model: OnnxModel


@dataclass(frozen=True)
class MeasurementConfig:
    """What files are measured with. samples: what is timed and counted. dataset: None when there is none.

    judge: what scores. folder: the run's. effort: of timing, None for no timing. all_points: also other batches and threads, and
    samples of other sizes. judged_on: the split whose samples files are scored and compared on.
    """

    backend: Backend
    target: Target
    judge: Judge
    samples: Samples
    dataset: Dataset | None
    folder: Path = Path()
    effort: BenchmarkSettings | None = STANDARD
    all_points: bool = True
    judged_on: SplitName = "test"


def measure(subjects: Sequence[Subject], by: MeasurementConfig, events: Events) -> BackendResult:
    """subjects: the float model first, the file to hand over last, outputs of stages between them.

    A stand-in is scored but not timed: another runtime than its own opens it here.
    The first and the last are measured in full, those between in size, score and latency at the headline's operating point.
    """
    ends = [subjects[0], subjects[-1]]
    last = len(subjects) - 1
    if subjects[-1].artifact.stand_in or by.effort is None:
        return _result(subjects, _scored(subjects, [_size(subject, by) for subject in subjects], by, events), by)
    turns = _turns(subjects, by)
    headline = _compared(subjects, [operating_point(by.target, by.samples, turns=turns)], events, by.effort)
    others = operating_points(by.target, by.samples, turns) if by.all_points else []
    timed = [headline.points[0]]
    if others:
        effort = replace(by.effort, rounds=3, seconds=by.effort.seconds / 4, runs=by.effort.runs // 4)
        timed += _compared(ends, others, events, effort).points
    timed[0] = [*timed[0][:-1], _with_worst(timed[0][-1], subjects[-1], by, turns, events)]
    timed = [[*runs[:-1], _as_taken(runs[-1], subjects[-1], by)] for runs in timed]
    with SessionHost() as host:
        found = [
            _measurement(subject, run, by, host, in_full=position in (0, last))
            for position, (subject, run) in enumerate(zip(subjects, timed[0], strict=True))
        ]
    for end, position in ((0, 0), (-1, 1)):
        points = tuple(OperatingPoint(latency=runs[position].latency, speed=runs[position].speed) for runs in timed[1:])
        found[end] = found[end].model_copy(update={"points": points})
    steps = [run.step for run in timed[0]]
    return _result(subjects, _scored(subjects, found, by, events), by, steps).model_copy(
        update={"noise": headline.noise}
    )


def _with_worst(run: LatencyRun, subject: Subject, by: MeasurementConfig, turns: int, events: Events) -> LatencyRun:
    """With what a call takes when everything is computed, whether an input asked for that or not: of a stand-in that decides nothing early, beside the file itself."""
    if not decisions(subject.model.body.graph):
        return run
    assert by.effort is not None
    whole = replace(subject.model, body=undecided(subject.model.body))
    effort = replace(
        by.effort, rounds=3, seconds=by.effort.seconds / 4, runs=by.effort.runs // 4, launches=1, most_launches=1
    )
    with TemporaryDirectory(prefix="compressctl-worst-") as folder:
        stand_in = Subject("worst", by.backend.build(whole, by.target, Path(folder)), whole)
        point = operating_point(by.target, by.samples, turns=turns)
        own, worst = _compared([subject, stand_in], [point], events, effort).points[0]
    worst_ms = run.latency.mean_ms * worst.latency.mean_ms / own.latency.mean_ms
    return replace(run, latency=run.latency.model_copy(update={"worst_ms": worst_ms}))


def _as_taken(run: LatencyRun, subject: Subject, by: MeasurementConfig) -> LatencyRun:
    """With the shapes that the file was given, where that is prepared inside: it takes images."""
    steps = asked_steps(subject.model.signature, by.target)
    shapes = taken_shapes(run.latency.shapes, steps)
    return replace(run, latency=run.latency.model_copy(update={"shapes": shapes}))


def _result(
    subjects: Sequence[Subject],
    found: Sequence[Measurement],
    by: MeasurementConfig,
    steps: Sequence[Speedup | None] = (),
) -> BackendResult:
    """steps: of each subject against the one before, empty where nothing was timed."""
    baseline, compressed = found[0], found[-1]
    return BackendResult(
        backend=by.target.backend,
        version=by.backend.probe().version,
        baseline=baseline,
        compressed=compressed,
        smaller=baseline.total_bytes / max(compressed.total_bytes, 1),
        notes=subjects[-1].artifact.notes,
        waterfall=tuple(
            WaterfallStep(
                id=subject.name,
                total_bytes=measured.total_bytes,
                transport_bytes=measured.transport_bytes,
                score=measured.score,
                drop=measured.change.drop if measured.change else None,
                latency=measured.latency,
                speed=measured.speed,
                step=step,
            )
            for subject, measured, step in zip(subjects, found, steps or [None] * len(subjects), strict=True)
        ),
    )


def _compared(
    subjects: Sequence[Subject], at: Sequence[TimingPoint], events: Events, effort: BenchmarkSettings
) -> Timing:
    signatures = [subject.model.signature for subject in subjects]
    return compare([subject.artifact for subject in subjects], at, signatures, events, effort)


def _turns(subjects: Sequence[Subject], by: MeasurementConfig) -> int:
    """How many inputs take turns where a file computes what its input needs, so that one round takes about a second; 1 elsewhere."""
    if not any(depends_on_input(subject.model.body.graph) for subject in subjects):
        return 1
    macs = total(costs(subjects[0].model.body, inputs=by.samples.sample_shapes())).known
    return int(np.clip(_MACS_A_ROUND / max(macs * by.target.batch_size, 1), _FEWEST_TURNS, _MOST_TURNS))


def operating_points(target: Target, samples: Samples, turns: int = 1) -> list[TimingPoint]:
    """Without the headline's own: batch 1 and a throughput batch, one thread and all; and, where the data's sizes vary, the
    smaller and the larger sample as the headline is timed."""
    others_fit = samples.signature.fixed_batch is None and samples.call(1).samples == 1
    batches = {1, THROUGHPUT_BATCH} if others_fit else {target.batch_size}
    found = [
        replace(target, threads=threads, batch_size=batch)
        for batch in sorted(batches)
        for threads in sorted({1, threads_of(replace(target, threads=0))})
    ]
    others = [point for point in found if (point.batch_size, point.threads) != (target.batch_size, threads_of(target))]
    sizes = [size for size in samples.sizes if size != "median"]
    return [
        *(operating_point(target, samples, size) for size in sizes),
        *(operating_point(point, samples, turns=turns) for point in others),
    ]


def _size(subject: Subject, by: MeasurementConfig, nodes: Sequence[ExecutedNode] = ()) -> Measurement:
    return size(subject.artifact, subject.model, by.backend, nodes, by.samples.sample_shapes(), by.folder)


def _measurement(
    subject: Subject, run: LatencyRun, by: MeasurementConfig, host: SessionHost, *, in_full: bool
) -> Measurement:
    nodes = host.explain(subject.artifact, by.target, by.samples.sample_shapes()) if in_full else ()
    timed = {
        "latency": run.latency,
        "memory": run.memory,
        "load_ms": run.load_ms,
        "speed": run.speed,
        "energy": run.energy,
    }
    return _size(subject, by, nodes).model_copy(update=timed)


def _scored(
    subjects: Sequence[Subject], found: list[Measurement], by: MeasurementConfig, events: Events
) -> list[Measurement]:
    """With scores, and what changed against the first: every output of every file, one pass over the data."""
    split = None if by.dataset is None else scored_split(by.dataset, by.judged_on)
    if by.dataset is None or split is None:
        why = "the recipe has no data" if by.dataset is None else "the data have no samples"
        nothing = Fidelity(outputs=(), split=None, samples=0, reason=why)
        return [found[0], *(measured.model_copy(update={"fidelity": nothing}) for measured in found[1:])]
    with SessionHost() as host:
        seen = predict_all(
            [host.open(subject.artifact, replace(by.target, threads=0)) for subject in subjects],
            [subject.model for subject in subjects],
            by.dataset.split(split),
            by.target,
            events,
            judge=by.judge,
        )
    is_random = bool(getattr(by.dataset, "is_random", False))
    compared = [
        measured.model_copy(
            update={}
            if place == 0
            else {
                "fidelity": Fidelity(
                    outputs=seen.fidelity[place],
                    split=split,
                    samples=seen.samples,
                    steps=seen.steps,
                    is_random=is_random,
                )
            }
        )
        for place, measured in enumerate(found)
    ]
    if split != by.judged_on:
        return compared
    judged = _by_heads(subjects, compared, seen, by, events)
    last = _drawn(subjects[-1], judged[-1], seen, by, events)
    return [*judged[:-1], last.model_copy(update={"paths": _paths(subjects, seen, by)})]


def _paths(subjects: Sequence[Subject], seen: Seen, by: MeasurementConfig) -> Paths | None:
    """Of the file that is handed over, where it decides by its input; a stand-in for it is built that says what it decided."""
    watched = observed(subjects[-1].model)
    if watched is None or by.dataset is None:
        return None
    before, *_, after = seen.predictions.get("") or (None, None)
    target = replace(by.target, threads=0)
    with TemporaryDirectory(prefix="compressctl-paths-") as folder, SessionHost() as host:
        artifact = by.backend.build(watched, by.target, Path(folder))
        return paths(
            Observation(
                model=subjects[-1].model,
                sample_shapes=by.samples.sample_shapes(),
                session=host.open(artifact, target),
                baseline=lambda: host.open(subjects[0].artifact, target),
                split=by.dataset.split(by.judged_on),
                before=before,
                after=after,
                metric=by.judge.metric,
                classes=None if before is None else _classes(by, before),
            )
        )


def _by_heads(
    subjects: Sequence[Subject], found: Sequence[Measurement], seen: Seen, by: MeasurementConfig, events: Events
) -> list[Measurement]:
    """With what the metric of each head says of each file; of the task's own where there are no heads."""
    if not by.judge.heads:
        return _judged(subjects, found, seen.predictions[""], by, events)
    unscored = [measured.model_copy(update={"score": None}) for measured in found]
    heads: list[list[HeadResult]] = [[] for _ in subjects]
    for name, judge in by.judge.heads.items():
        judged = _judged(subjects, unscored, seen.predictions[name], replace(by, judge=judge), events)
        for results, measured in zip(heads, judged, strict=True):
            results.append(_head_result(name, judge, measured))
    return [
        measured.model_copy(update={"heads": tuple(results)}) for measured, results in zip(found, heads, strict=True)
    ]


def _drawn(subject: Subject, found: Measurement, seen: Seen, by: MeasurementConfig, events: Events) -> Measurement:
    """With the decoded results of the file that is handed over counted on several inputs; see draws.py."""
    assert by.dataset is not None
    decoded = {"": found.decoded, **{head.name: head.decoded for head in found.heads}}
    decoded = {name: part for name, part in decoded.items() if part is not None}
    before = {name: predictions[0] for name, predictions in seen.predictions.items()}
    target = replace(by.target, threads=0)
    with SessionHost() as host:
        drawn = with_draws(
            decoded,
            before,
            subject.model,
            lambda: host.open(subject.artifact, target),
            by.dataset.split(by.judged_on),
            by.target,
            by.judge,
            events,
        )
    heads = tuple(head.model_copy(update={"decoded": drawn.get(head.name)}) for head in found.heads)
    return found.model_copy(update={"decoded": drawn.get(""), "heads": heads})


def _head_result(name: str, judge: Judge, found: Measurement) -> HeadResult:
    unit = judge.metric.unit if judge.metric else ""
    parts = ("score", "change", "behaviour", "drift", "decoded")
    return HeadResult(name=name, unit=unit, **{part: getattr(found, part) for part in parts})


def _judged(
    subjects: Sequence[Subject],
    found: Sequence[Measurement],
    predictions: Sequence[Predictions | None],
    by: MeasurementConfig,
    events: Events,
) -> list[Measurement]:
    """With what one task's metric says of each file, and what changed in its terms."""
    known = with_reference(predictions, by.judge)
    before, has_reference = known[0], known[0] is not predictions[0]
    scored: list[Measurement] = []
    for subject, measured, now in zip(subjects, found, known, strict=True):
        result = measured
        if now is not None and before is not None:
            name = "the float model" if subject is subjects[0] else subject.artifact.path.name
            _warn_of_nothing(now, name, by.judged_on, events)
            result = _with_score(
                result, before, now, by, scored, events, is_last=subject is subjects[-1], has_reference=has_reference
            )
        scored.append(result)
    return scored


def scored_split(dataset: Dataset, judged_on: SplitName = "test") -> SplitName | None:
    """The split whose samples files are compared on: the test split, or another that has samples, in order of how little it
    was used for choosing; None where all are empty. Who asks for another one than the test split gets that or nothing."""
    others: tuple[SplitName, ...] = ("validation", "calibration", "train") if judged_on == "test" else ()
    names = (judged_on, *others)
    return next((name for name in names if len(scored_samples(dataset.split(name)))), None)


def _with_score(
    found: Measurement,
    before: Predictions,
    now: Predictions,
    by: MeasurementConfig,
    scored: Sequence[Measurement],
    events: Events,
    *,
    is_last: bool,
    has_reference: bool,
) -> Measurement:
    """With the task's own metric and what changed in its terms. scored: the measurements before this one. has_reference: labels
    are the original's own results."""
    classes = _classes(by, before)
    metric, task = by.judge.metric, by.judge.task
    if metric is not None and now.labels is not None:
        value = score(now, metric, classes, by.judged_on)
        if has_reference:
            value = value.model_copy(update={"reference": "original"})
        if not math.isfinite(value.value):
            what = "infinite" if math.isinf(value.value) else "not a number"
            events.warn(
                f"{metric.name} is {what}: labels that do not vary, or outputs that are no numbers or too far off"
            )
        else:
            found = found.model_copy(update={"score": value})
            if scored and scored[0].score is not None:
                changed = change(before, now, metric, classes, by.judged_on, task)
                found = found.model_copy(update={"change": changed})
    if is_last and scored:
        found = _behaved(found, before, now, by, events)
        _warn_of_groups(found, before, events)
    return found


def _classes(by: MeasurementConfig, before: Predictions) -> Sequence[str] | None:
    """Their names; numbers for a head's, since the data names those of a single task."""
    assert by.dataset is not None
    if by.dataset.classes is not None or by.judge.task != "classification":
        return by.dataset.classes
    labels = before.labels
    if (
        labels is None
        or labels.dtype.kind not in "iu"
        or labels.ndim != 1
        or not labels.size
        or labels.max() >= len(labels)
    ):
        return None
    return tuple(str(number) for number in range(int(labels.max()) + 1))


def _warn_of_nothing(found: Predictions, name: str, split: SplitName, events: Events) -> None:
    """NaN and infinity reach no figure quietly: what is computed from samples is left out where one has them."""
    if found.outputs.dtype == object:
        return  # decoded; every value of the outputs themselves is compared anyway
    outputs = found.outputs.reshape(len(found.outputs), -1)
    broken = int((~np.isfinite(outputs)).any(axis=1).sum())
    if broken:
        events.warn(
            f"{name} gives NaN or infinity for {broken:,} of {len(outputs):,} {split} samples; what changed for single samples "
            f"is not compared"
        )


def _warn_of_groups(found: Measurement, before: Predictions, events: Events) -> None:
    part = found.behaviour or found.drift
    if before.groups is not None and (part is None or part.groups is None):
        events.warn(
            f"the data's groups are not compared: that takes labels and two groups of {SMALLEST_GROUP} test samples or more, and "
            f"{MOST_GROUPS:,} groups at most"
        )


def _behaved(
    found: Measurement, before: Predictions, after: Predictions, by: MeasurementConfig, events: Events
) -> Measurement:
    """With what changed for single samples, in the terms of the task."""
    assert by.dataset is not None
    classes, task = _classes(by, before), by.judge.task
    if (decoded := decoded_change(before, after, by.judge, classes, events)) is not None:
        return found.model_copy(update={"decoded": decoded})
    if task == "classification" and classes is not None:
        changed = behaviour(before, after, classes)
        if changed is not None:
            changed = with_examples(changed, before, after, by.dataset, SCORING_BATCH, by.judged_on)
        return found.model_copy(update={"behaviour": changed})
    if task == "language-model":
        return found.model_copy(update={"tokens": token_drift(before, after)})
    if task in ("regression", "embedding"):
        moved = drift(before, after, neighbours=task == "embedding")
        return found.model_copy(update={"drift": moved})
    return found
