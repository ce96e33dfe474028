"""What is known to go wrong, said before hours of training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compressctl.core.events import Events
from compressctl.core.model import StageRecord
from compressctl.core.technique import RunContext
from compressctl.numerics.paired import mcnemar
from compressctl.techniques.distill._scoring import Answers

_HOT = 4.0
_FEW_BITS = 3
_CHANCE = 0.05


def warn_of_heat(history: Sequence[StageRecord], temperature: float, events: Events) -> None:
    """A network with very coarse weights cannot follow the small differences that a high temperature brings out."""
    for record in history:
        bits = min(_bits(record.params), default=None)
        if bits is not None and bits <= _FEW_BITS and temperature >= _HOT:
            events.warn(
                f"temperature {temperature:g} asks for fine differences between classes, and stage {record.id} left {bits} "
                "bits to express them: 1 to 2 usually does better there"
            )


def warn_of_poor_teacher(teacher: Answers, student: Answers, run: RunContext) -> None:
    """teacher, student: what both say to the same held-out samples before training. A difference by chance is none."""
    metric = run.metric
    first, second = (given.score(metric, run.decode) for given in (teacher, student))
    if metric is None or first is None or second is None or metric.drop(first, second) >= 0:
        return
    if metric.name == "accuracy" and _differ_by_chance(teacher, student):
        return
    run.events.warn(
        f"the teacher scores {first:.2f}{metric.unit} on the validation split, worse than the student does before it "
        f"learns ({second:.2f}{metric.unit}): check the teacher's weights and how its inputs are scaled"
    )


def _differ_by_chance(teacher: Answers, student: Answers) -> bool:
    """Whether the samples that only one of them gets right could as well have fallen the other way."""
    first, second = _is_right(teacher), _is_right(student)
    return mcnemar(int(np.sum(first & ~second)), int(np.sum(~first & second))) > _CHANCE


def _is_right(given: Answers) -> np.ndarray:
    rows = given.outputs.reshape(len(given.outputs), -1)
    return np.asarray((rows.argmax(axis=1) if rows.shape[1] > 1 else rows[:, 0] > 0) == given.labels)


def warn_of_echo(is_same: bool, events: Events) -> None:
    """Nothing was made smaller, and the student is what it learns from."""
    if is_same:
        events.warn(
            "the student is the teacher itself: give a smaller `student`, or put this stage behind one that changes the model"
        )


def warn_of_untaught_end(has_features_alone: bool, events: Events) -> None:
    """Features reach up to a layer inside; nothing tells the layers behind it what to do."""
    if has_features_alone:
        events.warn(
            "only features are taught, without labels and without the teacher's outputs, so that the student's layers behind "
            "them do not learn: set logits_weight"
        )


_WORDS = {"binary": 1, "ternary": 2}
_BIT_KEYS = {"bits", "weight_bits", "activation_bits", "weights", "activations"}


def _bits(params: Any) -> Iterator[int]:
    """Every number of bits that a stage's params name."""
    if isinstance(params, Mapping):
        for key, value in params.items():
            if str(key) in _BIT_KEYS and (found := _as_bits(value)) is not None:
                yield found
            yield from _bits(value)
    elif isinstance(params, list | tuple):
        for value in params:
            yield from _bits(value)


def _as_bits(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        written = re.fullmatch(r"u?int(\d+)", value)
        return int(written[1]) if written else _WORDS.get(value)
    return None
