"""What each width of each layer costs the network's outputs, measured on calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx

from compressctl.core.backend import Session
from compressctl.core.data import Split
from compressctl.core.errors import UsageError
from compressctl.core.feeds import first_feeds
from compressctl.core.model import OnnxModel, Signature
from compressctl.core.technique import RunContext
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.replace_weights import with_weights
from compressctl.numerics.output_distance import kl_divergence, squared_distance

Kind = Literal["kl", "mse", "hessian"]
Distance = Callable[[np.ndarray, np.ndarray], float]
Inputs = Mapping[str, np.ndarray]

_STEP = 0.01
"""How far a weight is moved to feel the curvature, against its own root mean square: small enough for a parabola, large
enough for float32."""

SAMPLES = 256
_BATCH = 64
_KEPT_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class Probe:
    """inputs: batches, of `counts` samples. distance: between two outputs, summed over a model's outputs and averaged over samples."""

    inputs: tuple[Inputs, ...]
    counts: tuple[int, ...]
    distance: Distance

    def between(self, wanted: Sequence[Inputs], found: Sequence[Inputs]) -> float:
        each = [
            sum(self.distance(first[name], second[name]) for name in first)
            for first, second in zip(wanted, found, strict=True)
        ]
        return float(np.average(each, weights=self.counts))


def probe(split: Split, signature: Signature, samples: int, kind: Kind, at_once: int = _BATCH) -> Probe:
    """The first samples of a split; whole batches alone where the model takes nothing else."""
    found = first_feeds(split, signature, samples, at_once)
    distance = squared_distance if kind == "mse" else kl_divergence
    return Probe(tuple(feed.inputs for feed in found), tuple(feed.count for feed in found), distance)


@dataclass(frozen=True)
class Comparison:
    """A network's outputs against the same network's with something changed, batch by batch, since those of a language model are large.

    kept: the outputs of the first batches, as many as `_KEPT_BYTES` hold; the others are computed again each time.
    """

    session: Session
    seen: Probe
    run: RunContext
    kept: tuple[Inputs, ...]

    @staticmethod
    def of(model: OnnxModel, seen: Probe, run: RunContext) -> Comparison:
        """Raises UsageError where the run has no way to open a model."""
        session, kept, room = _opened(model, run), list[Inputs](), _KEPT_BYTES
        for inputs in seen.inputs:
            wanted = dict(session.run(dict(inputs)))
            room -= sum(values.nbytes for values in wanted.values())
            if room < 0:
                break
            kept.append(wanted)
        return Comparison(session, seen, run, tuple(kept))

    def cost(self, changed: OnnxModel) -> float:
        session = _opened(changed, self.run)
        each = []
        for place, inputs in enumerate(self.seen.inputs):
            wanted = self.kept[place] if place < len(self.kept) else self.session.run(dict(inputs))
            found = session.run(dict(inputs))
            each.append(sum(self.seen.distance(wanted[name], found[name]) for name in wanted))
        return float(np.average(each, weights=self.seen.counts))


def outputs(model: OnnxModel, seen: Probe, run: RunContext) -> list[Inputs]:
    """Of every batch, through the target's runtime. Raises UsageError where the run has no way to open a model."""
    session = _opened(model, run)
    return [dict(session.run(dict(inputs))) for inputs in seen.inputs]


def _opened(model: OnnxModel, run: RunContext) -> Session:
    if run.open is None:
        raise UsageError(
            "what a width costs is measured on the target's runtime, which takes a metric of the task",
            hint="set `metric`, or choose `sensitivity: hessian`",
        )
    return run.open(model)


def hessian_trace(
    body: onnx.ModelProto, weight: str, values: np.ndarray, seen: Probe, probes: int, rng: np.random.Generator
) -> float:
    """The trace of the Hessian of the outputs' distance by one weight, averaged over samples.

    Hutchinson's estimate, E[v^T H v] for random signs v, with v^T H v from the runtime alone: the distance d has its minimum 0
    at the network itself, so that d(W + e v) + d(W - e v) = e^2 v^T H v + O(e^4). For KL divergence H is the Fisher matrix,
    which is the loss's Hessian without the part that vanishes as the network fits (Gauss-Newton).
    Source: Dong et al. 2020, HAWQ-V2, section 3.1.
    """
    names = [output.name for output in body.graph.output]

    def run(changed: np.ndarray) -> list[Inputs]:
        tapped = ActivationRecorder(with_weights(body, {weight: changed.astype(values.dtype)}), names)
        return [{name: np.array(value) for name, value in tapped.run(inputs).items()} for inputs in seen.inputs]

    step = _STEP * max(float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))), 1e-12)
    wanted = run(values)
    found = []
    for _ in range(probes):
        direction = step * rng.choice([-1.0, 1.0], size=values.shape)
        found.append(sum(seen.between(wanted, run(values + sign * direction)) for sign in (1, -1)) / step**2)
    return float(np.mean(found))
