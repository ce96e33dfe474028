"""One real batch through the original, before any stage: what cannot work is said in seconds, not after the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from compressctl.backends.preprocess import asked_steps, images_of
from compressctl.core.backend import Session
from compressctl.core.data import Dataset, SplitName
from compressctl.core.errors import CompressctlError, UsageError
from compressctl.core.feeds import Feed, feeds
from compressctl.core.model import Model, Signature
from compressctl.core.needs import SPLITS, Needs
from compressctl.core.target import Target
from compressctl.core.tasks import Judge
from compressctl.measure.samples import Samples
from compressctl.measure.score import check_form, of_head, results, whole_samples
from compressctl.recipe.schema import Recipe
from compressctl.sources.called import scored_samples
from compressctl.sources.params import HuggingFaceParams, TextParams
from compressctl.sources.text_lengths import table_positions

SCORED_AT_ONCE = 64
CALIBRATED_AT_ONCE = 16
_SPLITS: tuple[SplitName, ...] = ("calibration", "validation", "train", "test")
_EXPECTED_SHARE = 1e-2
_EXPECTED_CALLS = 64
"""Recorded calls whose outputs are held against the original's."""


@dataclass(frozen=True)
class Flight:
    """fixed_batch: why the model takes one sample at a time although its file says otherwise, None where it takes any.

    notes: what a user should know, as in outputs that are not those that were recorded.
    """

    fixed_batch: str | None = None
    notes: tuple[str, ...] = ()


def fly(model: Model, session: Session, samples: Samples, target: Target, data: Dataset | None) -> Flight:
    """Run the original at each number of samples that the run will use. model: in onnx form, opened as `session`.

    Raises UsageError, or what the runtime says, where not even one call works.
    """
    if model.signature.fixed_batch is not None:
        session.run(dict(samples.call(target.batch_size).for_model(model.signature)))
        return Flight(notes=_recorded(model, session, data))
    one = samples.call(1).for_model(model.signature)
    session.run(one)
    # Two at once come from one sample: data of many lengths may hold no two of a size where it begins.
    more = (samples.call(size).for_model(model.signature) for size in sorted({2, target.batch_size} - {1}))
    for inputs in [*more, *_batches(model, data)]:
        try:
            session.run(inputs)
        except CompressctlError as error:
            return Flight(error.message, _recorded(model, session, data))
    return Flight(notes=_recorded(model, session, data))


def check_text_model(recipe: Recipe) -> None:
    """Raises UsageError for a language model that is none, and for windows of text that its table of positions has no entries for."""
    params = recipe.model.params
    if not isinstance(params, HuggingFaceParams) or recipe.task != "language-model":
        return
    from compressctl.sources.huggingface.folder import CONFIG, find, read_object

    config = read_object(find(params, recipe.base) / CONFIG)
    named = config.get("architectures")
    architecture = str(named[0]) if isinstance(named, list) and named else ""
    if params.task == "fill-mask" or (params.task is None and architecture.endswith("ForMaskedLM")):
        raise UsageError(
            f"{architecture or params.path} is a model of masked tokens, which sees the token that it would be scored on: it has no perplexity",
            hint="write `task: custom`, and its outputs are compared with the original's",
        )
    if recipe.data is None or not isinstance(recipe.data.params, TextParams):
        return
    window, known = recipe.data.params.window, table_positions(config)
    if known is not None and window > known:
        raise UsageError(
            f"data.window is {window:,} tokens, and the model's table of positions has {known:,} entries",
            hint=f"lower data.window to {known} or less",
        )


def beyond_positions(recipe: Recipe) -> str | None:
    """What is to be said of windows of text that are longer than the model's config knows positions for; None where they are not."""
    if not isinstance(recipe.model.params, HuggingFaceParams) or recipe.data is None:
        return None
    if not isinstance(recipe.data.params, TextParams):
        return None
    from compressctl.sources.huggingface.text import known_positions

    window, known = recipe.data.params.window, known_positions(recipe.model.params, recipe.base)
    if known is None or window <= known:
        return None
    return (
        f"data.window is {window:,} tokens, and the model's config knows {known:,} positions: what stands behind them is scored as the "
        "model was not trained for; lower data.window"
    )


def other_tokenizer(recipe: Recipe) -> str | None:
    """What is to be said of texts that another tokenizer reads than the model's own; None where they are read by that, or where it has none."""
    params = recipe.model.params
    if not isinstance(params, HuggingFaceParams) or recipe.data is None:
        return None
    read_by = recipe.data.params
    given = getattr(read_by, "tokenizer", None) or getattr(getattr(read_by, "tokenize", None), "tokenizer", None)
    if not isinstance(given, str):
        return None
    from compressctl.sources.fingerprint import hash_file
    from compressctl.sources.huggingface.folder import find
    from compressctl.sources.tokenizing import TOKENIZER, tokenizer_file

    own, other = find(params, recipe.base) / TOKENIZER, tokenizer_file(given, recipe.base)
    if not own.is_file() or hash_file(own) == hash_file(other):
        return None
    return f"texts are read by {other}, which is not the tokenizer of the model's folder: its token ids mean other words to the model"


def check_images(signature: Signature, samples: Samples, targets: Sequence[Target]) -> None:
    """Raises UsageError where a file shall prepare images inside, and the data hold no images that it could be given.

    targets: the deliverables'. What does not fit the model is left to the delivery, which goes on with the others.
    """
    call = samples.call(1)
    for target in targets if not call.is_random else ():
        try:
            steps = asked_steps(signature, target)
        except UsageError:
            continue
        images_of(call.for_model(signature), steps)


def check_splits(stage: str, needs: Needs, data: Dataset) -> None:
    """Raises UsageError where a stage takes samples of a split that has none, with how many the others have."""
    for need, name in SPLITS.items():
        if need in needs.requires and not len(data.split(name)):
            sizes = ", ".join(f"{other} {len(data.split(other))}" for other in _SPLITS if other != name)
            raise UsageError(
                f"stage {stage} takes samples of the {name} split, and it has none ({sizes})",
                hint="give the data more samples, or other splits fewer: data.test, data.validation, data.calibration",
            )


def check_judge(model: Model, session: Session, judge: Judge, data: Dataset) -> None:
    """Raises UsageError where the model's outputs cannot be decoded, or the metric cannot score them with the data's labels."""
    splits: tuple[SplitName, ...] = ("test", "validation", "calibration")
    split = next((data.split(name) for name in splits if len(scored_samples(data.split(name)))), None)
    if split is None or not model.signature.outputs:
        return
    # Of sequences, which may be long, one is enough.
    size = 1 if model.signature.states else SCORED_AT_ONCE
    session, signature, split = whole_samples(session, model.signature, split)
    for feed in islice(feeds(split, signature, size), 1):
        given = session.run(feed.inputs)
        for head, part in judge.parts.items():
            if part.decode is not None or part.metric is not None:
                _check_part(signature, given, feed, head, part)


def _check_part(signature: Signature, given: Mapping[str, np.ndarray], feed: Feed, head: str, judge: Judge) -> None:
    outputs, metric = results(given, signature, feed, judge), judge.metric
    if judge.decode is not None and judge.compared is not None:
        check_form(judge.compared, outputs)
    labels = of_head(feed.batch.labels, head)
    if feed.batch.labels is not None and head and labels is None:
        fields = ", ".join(feed.batch.labels.dtype.names or ()) or "no heads"
        raise UsageError(
            f"the data has no labels for the head {head} (it has labels for {fields})",
            hint=f"name them by head, as in `labels: {{{head}: ARRAY}}`",
        )
    if metric is None or labels is None:
        return
    spec = signature.outputs[judge.place]
    place = f"outputs {spec.name} {list(given[spec.name].shape)}, labels {list(labels.shape)} {labels.dtype.name}"
    try:
        metric.score(outputs, labels)
    except (ValueError, TypeError, IndexError) as error:
        raise UsageError(
            f"the metric {metric.name} cannot score this model on these labels: {error} ({place})",
            hint="set `metric` or `task` to what the labels are, or leave the labels out: outputs are compared anyway",
        ) from error


def _batches(model: Model, data: Dataset | None) -> list[Mapping[str, np.ndarray]]:
    """One call of each size that scoring and calibrating use, as far as the data has so many samples of one shape."""
    if data is None:
        return []
    found = [_first(model, data, *_SPLITS, size=size) for size in (CALIBRATED_AT_ONCE, SCORED_AT_ONCE)]
    by_size = {feed.count: feed.inputs for feed in found if feed is not None and feed.count > 2}
    return list(by_size.values())


def _first(model: Model, data: Dataset, *splits: SplitName, size: int = SCORED_AT_ONCE) -> Feed | None:
    for name in splits:
        feed = next(feeds(data.split(name), model.signature, size), None)
        if feed is not None:
            return feed
    return None


def _recorded(model: Model, session: Session, data: Dataset | None) -> tuple[str, ...]:
    """Where the data brings outputs that somebody recorded: whether the original gives them here, on the first calls."""
    if data is None:
        return ()
    every = (feed for name in _SPLITS for feed in feeds(data.split(name), model.signature, 1))
    first = next(every, None)
    if first is None or not first.batch.expected:
        return ()
    calls = [first, *islice(every, _EXPECTED_CALLS - 1)]
    notes: dict[str, list[str]] = {}
    for feed in calls:
        given = session.run(feed.inputs)
        for name, wanted in (feed.batch.expected or {}).items():
            said = _off(name, given, wanted)
            if said is not None:
                notes.setdefault(name, []).append(said)
    return tuple(
        f"{said[0]}{f' (and in {len(said) - 1} more of the {len(calls)} calls looked at)' if len(said) > 1 else ''}"
        for said in notes.values()
    )


def _off(name: str, given: Mapping[str, np.ndarray], wanted: np.ndarray) -> str | None:
    if name not in given:
        return f"the data's recorded output {name} is none of the model's: {', '.join(given)}"
    if given[name].shape != wanted.shape:
        return f"the original gives {name} in shape {list(given[name].shape)}, recorded is {list(wanted.shape)}"
    if wanted.dtype.kind in "fiu" and (share := _share(given[name], wanted)) > _EXPECTED_SHARE:
        return f"the original's {name} is off what was recorded by {share:.2%} of its range"
    return None


def _share(given: np.ndarray, wanted: np.ndarray) -> float:
    span = float(np.ptp(wanted.astype(np.float64))) or 1.0
    return float(np.abs(given.astype(np.float64) - wanted).max(initial=0.0)) / span


def unfit_for(sizes: Sequence[int], reason: str) -> str:
    """What is said where a batch is written into a graph."""
    return (
        f"the model names its batch but takes one sample at a time ({reason}); everything goes on with batch 1, "
        f"not {' or '.join(map(str, sizes))}"
    )
