"""Learning rate and momentum as functions of the step, so that a resumed run needs to know nothing but where it was."""

from __future__ import annotations

import math

from compressctl.training.params import TrainingParams

_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1 / 10_000
"""Shares of the highest rate; those of fastai and PyTorch's OneCycleLR."""

_ONE_CYCLE_MOMENTUM = (0.95, 0.85)


def rate(step: int, steps: int, params: TrainingParams) -> float:
    """The share, above 0 and at most 1, of the learning rate at a step counted from 0, of `steps` in all.

    Source: Loshchilov and Hutter 2016 (cosine); Smith and Topin 2017 (one-cycle); He et al. 2015 (steps).
    """
    rising = round(params.warmup_share * steps)
    if step < rising:
        share = (step + 1) / (rising + 1)
        return _between(_ONE_CYCLE_START, 1.0, share) if params.schedule == "one-cycle" else share
    done = min(1.0, (step - rising) / max(1, steps - rising))
    match params.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        case "one-cycle":
            return _between(1.0, _ONE_CYCLE_END, done)
        case "step":
            return params.step_factor ** sum(step >= share * steps for share in params.step_at)


def momentum(step: int, steps: int, params: TrainingParams) -> float:
    """sgd's momentum at a step: as given, except for one-cycle, where it falls while the rate rises and back."""
    if params.schedule != "one-cycle":
        return params.momentum
    high, low = _ONE_CYCLE_MOMENTUM
    rising = round(params.warmup_share * steps)
    if step < rising:
        return _between(high, low, (step + 1) / (rising + 1))
    return _between(low, high, min(1.0, (step - rising) / max(1, steps - rising)))


def _between(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
