"""What a measured file lost against the original, as one number that a limit can be held against."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from compressctl.measure.margins import Moved, expected_churn, most_churn
from compressctl.measure.results import Change, Measurement, OutputFidelity
from compressctl.search.document import Loss
from compressctl.search.facts import Facts


def loss_of(found: Measurement, facts: Facts) -> tuple[Loss | None, str]:
    """The loss, or None and why nothing can tell. By labels where they score; else by decoded results; else by outputs."""
    if facts.is_random:
        return None, "there are no samples, only random values"
    if not facts.has_data:
        return None, "there are no samples"
    if facts.scores:
        return _of_metric(found, facts)
    if found.decoded is not None:
        return _of_decoded(found)
    return _of_outputs(found, facts)


def _of_metric(found: Measurement, facts: Facts) -> tuple[Loss | None, str]:
    if found.heads:
        changes = [
            (head.change.drop, head) for head in found.heads if head.change is not None and head.score is not None
        ]
        if len(changes) < len(found.heads):
            return None, "not every head was scored"
        drop, head = max(changes, key=lambda entry: entry[0])
        assert head.score is not None
        unit, what, score = head.unit, f"{head.score.metric} of {head.name}", head.score
        change = head.change
    else:
        if found.change is None or found.score is None:
            return None, "it was not scored"
        drop, unit, what, score, change = found.change.drop, facts.unit, found.score.metric, found.score, found.change
    loss = Loss(
        value=drop,
        error=_error_of(change, score.samples),
        kind="metric",
        what=what,
        unit="points" if unit == "%" else "",
        split=score.split,
        samples=score.samples,
        sqnr_db=_worst_db(found),
    )
    return loss, ""


def _error_of(change: Change | None, samples: int) -> float | None:
    """Standard error of a difference of two shares of the same samples, in points: of those that only one of the two has right."""
    if change is None or change.right_to_wrong is None or change.wrong_to_right is None:
        return None
    return 100 * math.sqrt(change.right_to_wrong + change.wrong_to_right) / max(samples, 1)


def _of_decoded(found: Measurement) -> tuple[Loss | None, str]:
    decoded, fidelity = found.decoded, found.fidelity
    assert decoded is not None
    kept, added = decoded.kept_percent, decoded.added_percent
    if kept is None or added is None or fidelity is None:
        return None, f"the original gives no {decoded.unit} for these samples"
    value, what = max((100 - kept, "missing"), (added, "not the original's"))
    loss = Loss(
        value=value,
        kind="decoded results",
        what=f"{decoded.unit} {what}",
        unit="%",
        split=fidelity.split or "",
        samples=decoded.samples,
        sqnr_db=_worst_db(found),
    )
    return loss, ""


def _of_outputs(found: Measurement, facts: Facts) -> tuple[Loss | None, str]:
    fidelity = found.fidelity
    if fidelity is None or not fidelity.outputs:
        return None, (fidelity.reason if fidelity else None) or "its outputs were not compared"
    losses: list[_OfOutput] = []
    for output in fidelity.outputs:
        if not output.samples or output.other_shapes:
            return None, f"the output {output.name} could not be compared on every sample"
        if output.broken:
            return None, f"the output {output.name} has NaN or infinity where the original has numbers"
        losses += _of_output(output, facts.margins.get(output.name, ()))
    if not losses:
        return None, "no output has a figure to compare"
    worst = max(losses, key=lambda found: found.value)
    most = max(found.value + (found.error or 0.0) for found in losses)
    loss = Loss(
        value=worst.value,
        error=None if worst.error is None and most <= worst.value else most - worst.value,
        is_expected=worst.is_expected,
        kind="outputs",
        what=worst.what,
        unit="%",
        split=fidelity.split or "",
        samples=fidelity.samples,
        sqnr_db=_worst_db(found),
    )
    return loss, ""


class _OfOutput(NamedTuple):
    """What one figure of an output says of its loss, in percent. error: its standard error, None where the samples do not tell it."""

    value: float
    what: str
    error: float | None
    is_expected: bool = False


def _of_output(output: OutputFidelity, margins: Sequence[float]) -> Iterator[_OfOutput]:
    """margins: of more of the original's decisions than were compared, where they are known."""
    if output.identical:
        yield _OfOutput(0.0, f"{output.name}, identical", 0.0)
        return
    if output.churn is not None:
        is_few = output.score_change is not None
        error = None if output.churn_error is None or is_few else 100 * output.churn_error
        yield _OfOutput(100 * output.churn, f"changed decisions of {output.name}", error)
    if output.score_change is not None and output.churn is not None:
        moved = Moved(output.score_change, max(output.score_change_decisions, 1))
        changed = round(output.churn * output.decisions)
        told = expected_churn(margins, moved) if margins else output.expected_churn or 0.0
        value = 100 * min(told, most_churn(changed, output.decisions))
        # A root mean square of n values is right to 1 / sqrt(2 n), and what lies in a tail moves about twice as far.
        error = value * math.sqrt(2 / moved.seen)
        what = f"changed decisions of {output.name} that are expected of more samples"
        yield _OfOutput(value, what, error, is_expected=True)
    if output.cosine is not None:
        error = None if output.cosine_error is None else 100 * output.cosine_error
        yield _OfOutput(100 * (1 - output.cosine), f"100 x (1 - cosine) of {output.name}", error)


def _worst_db(found: Measurement) -> float | None:
    outputs = found.fidelity.outputs if found.fidelity else ()
    return min((output.sqnr_db for output in outputs if output.sqnr_db is not None), default=None)
