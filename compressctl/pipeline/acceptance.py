"""Whether a stage's result is kept: its gate on accuracy, and that a technique for speed did not make the file slower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compressctl.core.errors import GateError, MissingDependencyError, MissingDeviceError
from compressctl.core.events import Events
from compressctl.core.model import Model
from compressctl.core.technique import Clock
from compressctl.measure.speed_words import times
from compressctl.pipeline.evaluator import Evaluator
from compressctl.recipe.schema import IfSlower, Stage

_SLOWER = 0.98
"""Below this ratio a file counts as slower. Medians of two builds of one graph, interleaved in one process, differ by up to 2 %."""

_TIMES = 2
"""A file counts as slower when it is so each time: it is opened anew, with other addresses and neighbours."""


def is_within_gate(
    stage: Stage, model: Model, evaluator: Callable[[], Evaluator], facts: dict[str, Any], events: Events
) -> bool:
    """Whether the stage's result loses no more than its gate allows. Raises GateError when it must stop the run.

    facts: of the stage; what was found is added.
    """
    if stage.gate is None:
        return True
    accepted = evaluator().accept(model, stage.gate)
    facts.update(accepted.facts)
    if accepted.holds:
        return True
    if stage.gate.otherwise == "undo":
        facts["skipped"] = accepted.words
        events.warn(f"stage {stage.id} was skipped: {facts['skipped']}")
        return False
    raise GateError(
        f"stage {stage.id} ({stage.use}): {accepted.words}",
        hint="loosen the gate, change the stage, or set gate.otherwise to undo",
    )


def is_fast_enough(
    stage: Stage,
    wanted: IfSlower,
    models: tuple[Model, Model],
    latency_ms: Clock,
    timed_on: str,
    facts: dict[str, Any],
    events: Events,
) -> bool:
    """Whether the stage's result is kept for its speed. Raises GateError when a slower one must stop the run.

    models: what the stage was given, and its result. timed_on: what latency_ms runs them on, for the message. facts: of the
    stage; what was found is added.
    """
    if wanted == "keep":
        return True
    found = _slower(models, latency_ms)
    if found is None:
        return True
    facts["slower"] = {"before_ms": found[0], "after_ms": found[1]}
    words = (
        f"{times(found[1] / found[0])}x slower than what the stage was given ({found[1]:.3f} ms instead of {found[0]:.3f} ms, "
        f"medians of calls in turn in one process on {timed_on})"
    )
    if wanted == "stop":
        raise GateError(
            f"stage {stage.id} ({stage.use}) makes the model slower: its file is {words}",
            hint="leave the stage out, or set if_slower: keep on it where size counts more",
        )
    facts["skipped"] = f"its file is {words}"
    events.warn(f"stage {stage.id} was undone: its file is {words}; if_slower: keep on the stage keeps it")
    return False


def _slower(models: tuple[Model, Model], latency_ms: Clock) -> tuple[float, float] | None:
    """Both latencies where the second model is slower; None where not, or where the runtime is not on this machine."""
    found = None
    for _ in range(_TIMES):
        try:
            before, after = latency_ms(models)
        except (MissingDependencyError, MissingDeviceError):
            return None
        if before >= _SLOWER * after:
            return None
        found = before, after
    return found
