"""Decoded results that the last bits of the inputs decide: counted on several inputs that nobody can tell apart.

A box whose score lies beside the threshold comes or goes with any rounding on the way to it. Of a few hundred boxes one input keeps a per
cent more or less than the next, so that a count on one input is a draw, and a file can hold a limit by luck.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from compressctl.core.backend import Session
from compressctl.core.data import Split
from compressctl.core.events import Events
from compressctl.core.model import OnnxModel, Signature
from compressctl.core.target import Target
from compressctl.core.tasks import Judge
from compressctl.measure.results import DecodedChange, DecodedDraws
from compressctl.measure.score import Predictions, decoded_change, predict_heads, scoring_batch, typed

NUDGES = (1 + 1e-6, 1 - 1e-6, 1 + 1e-5, 1 - 1e-5)
"""What inputs are multiplied by: a code of 8 bits is some hundred times as wide."""

_MOST_COUNTED = 5_000
"""Results of the original from which on one input's count is taken: luck is then a few of thousands."""


def with_draws(
    decoded: Mapping[str, DecodedChange | None],
    before: Mapping[str, Predictions | None],
    model: OnnxModel,
    open_: Callable[[], Session],
    split: Split,
    target: Target,
    judge: Judge,
    events: Events,
) -> dict[str, DecodedChange | None]:
    """What of the original's decoded results remains on nudged inputs too, in the mean; by head, an empty name where there are none.

    before: the original's results, of the inputs as they are. open_: gives a session of the model, where one is needed. The same as `decoded` where inputs are integers or sequences, where the
    recipe's own function reads several files, and of results that are all the same or many.
    """
    drawn = [name for name, found in decoded.items() if found is not None and _is_draw(found)]
    has_floats = any(spec.dtype in ("float32", "float64") for spec in model.signature.inputs)
    if not drawn or not has_floats or model.signature.states or judge.together is not None:
        return dict(decoded)
    session, size = open_(), scoring_batch(model, target)
    seen: dict[str, list[DecodedChange]] = {name: [found] for name in drawn if (found := decoded[name]) is not None}
    for factor in NUDGES:
        given = predict_heads(_Nudged(session, model.signature, factor), split, model.signature, size, events, judge)
        for name, counted in seen.items():
            one = decoded_change(before[name], given[name], judge.parts[name], None, events)
            counted += [] if one is None else [one]
    return {
        name: found if found is None or name not in seen else found.model_copy(update={"draws": _together(seen[name])})
        for name, found in decoded.items()
    }


def _is_draw(found: DecodedChange) -> bool:
    return 0 < found.reference < _MOST_COUNTED and found.equal_samples < found.samples


def _together(found: Sequence[DecodedChange]) -> DecodedDraws:
    kept = [100 * one.kept / one.reference for one in found]
    added = [100 * one.added / one.reference for one in found]
    return DecodedDraws(
        inputs=len(found),
        kept_percent=float(np.mean(kept)),
        kept_low=min(kept),
        kept_high=max(kept),
        added_percent=float(np.mean(added)),
        added_low=min(added),
        added_high=max(added),
    )


class _Nudged:
    """A session that is given its float inputs times a factor."""

    def __init__(self, session: Session, signature: Signature, factor: float) -> None:
        self._session = session
        self._signature = signature
        self._factor = factor

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._session.run(
            {
                name: values * values.dtype.type(self._factor) if values.dtype.kind == "f" else values
                for name, values in typed(inputs, self._signature).items()
            }
        )

    def repeat(self, inputs: Mapping[str, np.ndarray]) -> Callable[[], object]:
        return self._session.repeat(inputs)
