"""Predictions of an artifact through its runtime, their score, and what changed against the baseline."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from compressctl.core.backend import Session
from compressctl.core.data import Batch, Split, SplitName, as_wide
from compressctl.core.errors import UsageError
from compressctl.core.events import Events
from compressctl.core.feeds import Feed, feeds
from compressctl.core.model import Model, OnnxModel, Signature
from compressctl.core.objects import as_objects, joined
from compressctl.core.registry import load
from compressctl.core.source import MetricSpec
from compressctl.core.streaming import Unrolled, by_step, of_sequences
from compressctl.core.target import Target
from compressctl.core.tasks import ComparedResults, EndResults, Judge, Tally, Task
from compressctl.measure.fidelity import Comparison
from compressctl.measure.results import SMALLEST_GROUP, Change, DecodedChange, DecodedClass, OutputFidelity, Score
from compressctl.numerics.next_token import counted_positions
from compressctl.sources.called import scored_samples
from compressctl.tasks.metrics import classes_of


@dataclass(frozen=True)
class Predictions:
    """outputs: (n, ...) the model's first output; where outputs are decoded, (n,) objects, each sample's result. labels: (n, ...), None where the data has none. indices: (n,) positions
    in the dataset. groups: (n,) names, None where the data has none.
    """

    outputs: np.ndarray
    labels: np.ndarray | None
    indices: np.ndarray
    groups: np.ndarray | None = None


_BATCH = 64

NOBODY = Judge()


def scoring_batch(model: Model, target: Target) -> int:
    """How many samples to score at once. A plan with dynamic ranges takes them from the whole batch, padding included, so that
    such a model is scored in the batches that it will be served in."""
    has_dynamic = isinstance(model, OnnxModel) and model.quant is not None and model.quant.dynamic
    return target.batch_size if has_dynamic else _BATCH


def predict(
    session: Session,
    split: Split,
    signature: Signature,
    batch_size: int,
    events: Events | None = None,
    judge: Judge = NOBODY,
    *,
    is_original: bool = False,
) -> Predictions:
    """The judged output for a whole split, or what its decoder reads off all of them; of a judge without heads.

    is_original: the session is the original model's, which works together with original files.
    Raises UsageError when the split is empty, or gives outputs of different shapes.
    """
    return predict_heads(session, split, signature, batch_size, events, judge, is_original=is_original)[""]


def predict_heads(
    session: Session,
    split: Split,
    signature: Signature,
    batch_size: int,
    events: Events | None = None,
    judge: Judge = NOBODY,
    *,
    is_original: bool = False,
) -> dict[str, Predictions]:
    """The same by head, an empty name where there are none."""
    if judge.together is not None:
        return {"": _end_results(judge.together, session, split, is_original=is_original)}
    session, signature, split = whole_samples(session, signature, split)
    collected = {name: _Collected(signature, part, name) for name, part in judge.parts.items()}
    done = 0
    for feed in feeds(split, signature, batch_size):
        given = session.run(feed.inputs)
        for part in collected.values():
            part.add(feed, given)
        done += feed.count
        if events is not None:
            events.progress("scoring", done, len(split))
    return {name: _whole(part, signature.outputs[judge.parts[name].place].name) for name, part in collected.items()}


def whole_samples(session: Session, signature: Signature, split: Split) -> tuple[Session, Signature, Split]:
    """What is scored: of a model with states whole sequences, in which it goes on from its own; else the same."""
    if not signature.states:
        return session, signature, split
    return Unrolled(session, signature), of_sequences(signature), scored_samples(split)


def _whole(collected: _Collected, output: str) -> Predictions:
    found = collected.predictions()
    if found is None:
        raise UsageError(
            f"{output} has another shape for other samples, so that it cannot be scored as one array",
            hint="score samples of one size, or compare outputs (fidelity) instead",
        )
    return found


@dataclass(frozen=True)
class Seen:
    """What one pass over a split gave. predictions: by head (an empty name where there are none) and model, None where the judged
    output has other shapes for other samples.

    fidelity: by model, every output against the first model's. steps: of all samples together, where these are sequences. margins: of the
    first model's decisions, by output; see margins.py.
    """

    predictions: Mapping[str, tuple[Predictions | None, ...]]
    fidelity: tuple[tuple[OutputFidelity, ...], ...]
    samples: int
    steps: int | None = None
    margins: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def predict_all(
    sessions: Sequence[Session],
    models: Sequence[Model],
    split: Split,
    target: Target,
    events: Events | None = None,
    most: int | None = None,
    judge: Judge = NOBODY,
) -> Seen:
    """Run a whole split through several forms of one model, the original first, and compare all outputs on the way.

    All get the same calls, since outputs may depend on what shares a call: of the batch that is served where a model has
    dynamic ranges, see `scoring_batch`. most: samples after which to stop; None for all. judge: what reads
    results off outputs; a language model's decisions count where its labels do. Raises UsageError when the split is empty.
    """
    known = [whole_samples(session, model.signature, split) for session, model in zip(sessions, models, strict=True)]
    _, original, samples = known[0]
    collected = {
        name: [_Collected(signature, part, name) for _, signature, _ in known] for name, part in judge.parts.items()
    }
    has_tokens = judge.task == "language-model"
    axes = {original.outputs[0].name: 2} if has_tokens else None
    comparisons = [Comparison(original, axes) for _ in models]
    done, steps, size = 0, 0, min(scoring_batch(model, target) for model in models)
    for feed in feeds(samples, original, size if most is None else min(size, most)):
        outputs: dict[str, np.ndarray] = {}
        labels = feed.batch.labels if has_tokens else None
        counted = None if labels is None else counted_positions(labels)
        for place, (session, signature, _) in enumerate(known):
            given = session.run(typed(feed.inputs, signature))
            outputs = outputs or given
            if judge.together is None:
                for parts in collected.values():
                    parts[place].add(feed, given)
            if models[0].signature.states:
                was, now = (by_step(values, original, feed.count) for values in (outputs, given))
                comparisons[place].add(was, now, len(next(iter(was.values()))), is_filled=False)
                continue
            comparisons[place].add(outputs, given, feed.count, is_filled=not feed.batch.is_request, counted=counted)
        done += feed.count
        if models[0].signature.states:
            steps += feed.count * len(next(iter(outputs.values())))
        if events is not None:
            events.progress("scoring", done, len(samples))
        if most is not None and done >= most:
            break
    if judge.together is None:
        predictions = {name: tuple(one.predictions() for one in parts) for name, parts in collected.items()}
    else:
        ends = [
            _end_results(judge.together, session, split, is_original=place == 0)
            for place, session in enumerate(sessions if most is None else ())
        ]
        predictions = {"": tuple(ends)}
    return Seen(
        predictions,
        tuple(comparison.result() for comparison in comparisons),
        done,
        steps if models[0].signature.states else None,
        comparisons[0].margins(),
    )


def _end_results(together: EndResults, session: Session, split: Split, *, is_original: bool) -> Predictions:
    """What the recipe's function reads with all its files, on the samples that it is given."""
    read = list(together.read(session, scored_samples(split), is_original=is_original))
    if not read:
        raise UsageError("the split to score is empty", hint="set data.test and data.validation above zero")
    batches = [batch for batch, _ in read]
    return Predictions(
        as_objects([result for _, results in read for result in results]),
        _joined([batch.labels for batch in batches]),
        np.concatenate([batch.indices for batch in batches]),
        _joined([batch.groups for batch in batches]),
    )


def typed(inputs: Mapping[str, np.ndarray], signature: Signature) -> dict[str, np.ndarray]:
    """A stage may have given a file inputs of another width."""
    types = {spec.name: spec.dtype for spec in signature.inputs}
    if len(inputs) == 1 and len(types) == 1:
        [(name, dtype)] = types.items()
        return {name: as_wide(next(iter(inputs.values())), dtype)}
    return {name: as_wide(array, types[name]) for name, array in inputs.items()}


class _Collected:
    """The judged output of call after call, or what is decoded of all outputs, samples along axis 0. head: its name."""

    def __init__(self, signature: Signature, judge: Judge, head: str) -> None:
        self._signature = signature
        self._judge = judge
        self._head = head
        self._outputs: list[np.ndarray] = []
        self._batches: list[Batch] = []
        self.samples = 0

    def add(self, feed: Feed, given: Mapping[str, np.ndarray]) -> None:
        self._outputs.append(results(given, self._signature, feed, self._judge))
        self._batches.append(feed.batch)
        self.samples += feed.count

    def predictions(self) -> Predictions | None:
        """Raises UsageError where there was no sample."""
        if not self._outputs:
            raise UsageError("the split to score is empty", hint="set data.test and data.validation above zero")
        if len({(output.shape[1:], output.dtype) for output in self._outputs}) > 1:
            return None
        outputs = np.concatenate(self._outputs)
        if len(outputs) != self.samples:
            return None
        return Predictions(
            outputs,
            of_head(_joined([batch.labels for batch in self._batches]), self._head),
            np.concatenate([batch.indices for batch in self._batches]),
            _joined([batch.groups for batch in self._batches]),
        )


def results(given: Mapping[str, np.ndarray], signature: Signature, feed: Feed, judge: Judge) -> np.ndarray:
    """One call's judged output, (n, ...); or (n,) objects, what is decoded of all its outputs."""
    specs = signature.outputs
    if judge.decode is None:
        spec = specs[judge.place]
        chosen = given[spec.name] if spec.name in given else list(given.values())[judge.place]
        return _samples_first(chosen, spec.batch_axis, feed)
    axes = {spec.name: spec.batch_axis for spec in specs}
    return as_objects(
        judge.decode({name: _samples_first(array, axes.get(name), feed) for name, array in given.items()})
    )


def of_head(labels: np.ndarray | None, head: str) -> np.ndarray | None:
    """The field of a head's name; the labels themselves where there is one task. None where the labels have no such field."""
    if labels is None or not head:
        return labels
    return labels[head] if head in (labels.dtype.names or ()) else None


def _samples_first(array: np.ndarray, axis: int | None, feed: Feed) -> np.ndarray:
    """(n, ...), without the copies that filled up a fixed batch."""
    if axis is None:
        return array[None] if feed.count == 1 else array
    return np.moveaxis(array, axis, 0)[: None if feed.batch.is_request else feed.count]


def _joined(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [part for part in parts if part is not None]
    return joined(present) if len(present) == len(parts) else None


def score(predictions: Predictions, metric: MetricSpec, classes: Sequence[str] | None, split: SplitName) -> Score:
    """Raises UsageError when the data has no labels, or others than the metric takes."""
    labels = _labels(predictions)
    per_class = None
    try:
        value = metric.score(predictions.outputs, labels)
        if metric.name == "accuracy" and classes is not None:
            per_class = _per_class(predictions, classes)
        elif metric.by_class is not None:
            by_class = load(metric.by_class)(predictions.outputs, labels)
            per_class = {class_name(number, classes): float(found) for number, found in by_class.items()}
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(
            f"the metric {metric.name} cannot score its outputs on the labels: {error} ({split} split)",
            hint="set `task` or `metric` to what the labels are",
        ) from error
    return Score(metric=metric.name, value=value, samples=len(predictions.outputs), split=split, per_class=per_class)


def class_name(number: int, classes: Sequence[str] | None) -> str:
    """Its name where the data has one."""
    return classes[number] if classes is not None and 0 <= number < len(classes) else f"class {number}"


def with_reference(predictions: Sequence[Predictions | None], judge: Judge) -> list[Predictions | None]:
    """Where outputs are decoded and the data has no labels: with the first model's own results as labels."""
    first = predictions[0]
    if judge.compared is None or first is None or first.labels is not None:
        return list(predictions)
    labels = judge.compared.as_labels(first.outputs)
    return [None if found is None else replace(found, labels=labels) for found in predictions]


def decoded_change(
    before: Predictions | None, after: Predictions | None, judge: Judge, classes: Sequence[str] | None, events: Events
) -> DecodedChange | None:
    """What of the original's decoded results remains; None where nothing is decoded."""
    compared = judge.compared
    if compared is None or before is None or after is None:
        return None
    found = _tallied(compared, before.outputs, after.outputs, events)
    error = 100 * found.edits / found.characters if found.edits is not None and found.characters else None
    return DecodedChange(
        unit=compared.unit,
        rule=compared.rule,
        samples=len(before.outputs),
        equal_samples=found.equal_samples,
        reference=found.reference,
        kept=found.kept,
        added=found.added,
        character_error=error,
        classes=tuple(
            DecodedClass(name=class_name(number, classes), reference=counts[0], kept=counts[1], added=counts[2])
            for number, counts in found.by_class.items()
        ),
    )


_SECONDS_WITHOUT_EVENT = 1.0


def _tallied(compared: ComparedResults, before: np.ndarray, after: np.ndarray, events: Events) -> Tally:
    """A sample after the other, since each may take long: with the events a time limit ends it.

    Raises UsageError for results, of an author's function, that are not in the task's form.
    """
    total = compared.tally(before[:0], after[:0])
    last = time.monotonic()
    for sample in range(len(before)):
        if time.monotonic() - last > _SECONDS_WITHOUT_EVENT:
            events.progress("comparing results", sample, len(before))
            last = time.monotonic()
        total += _tally_of(compared, before, after, sample)
    return total


def check_form(compared: ComparedResults, results: np.ndarray) -> None:
    """Raises UsageError where results are not in the task's form, and where they do not even keep themselves, as boxes without area."""
    tallies = [_tally_of(compared, results, results, sample) for sample in range(len(results))]
    if (whole := sum(tally.reference for tally in tallies)) and not any(tally.kept for tally in tallies):
        raise UsageError(
            f"none of {whole} {compared.unit} is found again in the very same results: {compared.rule}",
            hint="let `decode` return them in the task's form; a box's x2, y2 is the corner below and right of x1, y1",
        )


def _tally_of(compared: ComparedResults, before: np.ndarray, after: np.ndarray, sample: int) -> Tally:
    try:
        return compared.tally(before[sample : sample + 1], after[sample : sample + 1])
    except (ValueError, TypeError, IndexError, AttributeError) as error:
        raise UsageError(
            f"the result of sample {sample} cannot be compared with the original's: {error}",
            hint=f"{compared.unit} are compared: let `decode` return them in the task's form",
        ) from error


def _labels(predictions: Predictions) -> np.ndarray:
    if predictions.labels is None:
        raise UsageError("the data has no labels, so nothing can be scored", hint="remove the gate and the budget")
    return predictions.labels


def change(
    baseline: Predictions,
    compressed: Predictions,
    metric: MetricSpec,
    classes: Sequence[str] | None,
    split: SplitName,
    task: Task | None,
) -> Change:
    """Sample by sample, the two in the same order. Flips and accuracy by class are counted for classifiers, whatever metric scores them;
    for other tasks the worst class is by the metric, where it has classes."""
    before, after = (score(found, metric, classes, split) for found in (baseline, compressed))
    drop = metric.drop(before.value, after.value)
    if task != "classification" or _labels(baseline).size != len(baseline.outputs):
        worst = _worst_of(metric, before.per_class, after.per_class)
        return Change(drop=drop, worst_class=worst, right_to_wrong=None, wrong_to_right=None, disagreements=None)
    was_right, is_right = (_is_right(found) for found in (baseline, compressed))
    return Change(
        drop=drop,
        worst_class=_worst_class(baseline, compressed, classes or ()),
        right_to_wrong=int(np.sum(was_right & ~is_right)),
        wrong_to_right=int(np.sum(~was_right & is_right)),
        disagreements=int(np.sum(_classes_of(baseline) != _classes_of(compressed))),
    )


def _worst_of(
    metric: MetricSpec, before: Mapping[str, float] | None, after: Mapping[str, float] | None
) -> tuple[str, float] | None:
    """The class that lost most of the metric, and how much; a class that is not found any more lost all of it."""
    losses = {name: metric.drop(value, (after or {}).get(name, 0.0)) for name, value in (before or {}).items()}
    return max(losses.items(), key=lambda loss: loss[1], default=None)


def _worst_class(baseline: Predictions, compressed: Predictions, classes: Sequence[str]) -> tuple[str, float] | None:
    """Its name and how many points of accuracy it lost; classes of few samples do not count."""
    before, after = (_per_class(found, classes) for found in (baseline, compressed))
    labels = _labels(baseline)
    losses = {
        name: before[name] - after[name]
        for label, name in enumerate(classes)
        if np.sum(labels == label) >= SMALLEST_GROUP
    }
    return max(losses.items(), key=lambda loss: loss[1], default=None)


def _per_class(predictions: Predictions, classes: Sequence[str]) -> dict[str, float]:
    """Accuracy in percent of every class that occurs."""
    labels, right = _labels(predictions).reshape(-1), _is_right(predictions)
    return {
        name: float(right[labels == label].mean() * 100)
        for label, name in enumerate(classes)
        if np.any(labels == label)
    }


def _is_right(predictions: Predictions) -> np.ndarray:
    return np.asarray(_classes_of(predictions) == _labels(predictions).reshape(-1))


def _classes_of(predictions: Predictions) -> np.ndarray:
    return classes_of(predictions.outputs)
