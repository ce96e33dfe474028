"""quantize.mixed: each layer in 8 bits, in 4, or in float, by what that costs, within budgets of size and speed.

Weights alone are chosen for in _mixed_weights.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressctl.core.errors import StageError, UsageError
from compressctl.core.model import OnnxModel
from compressctl.core.technique import RunContext, StageResult
from compressctl.numerics.knapsack import Limit, choose
from compressctl.techniques.quantize._as_overrides import ambiguous, as_overrides
from compressctl.techniques.quantize._candidates import Candidates, Layer, find_layers
from compressctl.techniques.quantize._mixed_weights import apply_weights_only
from compressctl.techniques.quantize._sensitivity import SAMPLES, Kind, hessian_trace, outputs, probe
from compressctl.techniques.quantize.params import MixedParams, StaticParams, Width
from compressctl.techniques.quantize.static import Seen, observe
from compressctl.techniques.quantize.static import apply as apply_static

_TOGETHER = 16
"""Models that are timed in one go: each holds a session."""

_TRIES = 3
"""Plans that are timed before the stage gives up: the times of layers do not add up exactly."""

Costs = Mapping[Layer, Mapping[Width, float]]
Chosen = Mapping[Layer, Width]


def apply(model: OnnxModel, params: MixedParams, run: RunContext) -> StageResult:
    """Measure what each width of each layer costs, choose, and quantize so. Raises StageError when no choice fits."""
    if params.weights_only is not None:
        return apply_weights_only(model, params, params.weights_only, sensitivity_of(params, run), run)
    rounded = params.static.model_copy(
        update={"rounding": "nearest", "bias_correction": params.static.bias_correction is not False}
    )
    seen = observe(model, rounded, run)
    if seen.fixed:
        raise StageError(
            f"{', '.join(list(seen.fixed)[:4])}: quantized before, and quantize.mixed chooses widths of float weights",
            hint="quantize.static keeps their codes; or begin with the float model",
        )
    candidates = Candidates(model, seen, rounded, run.target)
    layers = find_layers(seen, params.widths, per_channel=params.static.per_channel)
    kind = sensitivity_of(params, run)
    costs = _measured(model, seen, layers, candidates, params, kind, run)
    clock = None if params.speedup is None else _Clock.read(model, layers, candidates, params.speedup, run)
    limit = None if params.size is None else _size_limit(layers, params.size)
    chosen = _chosen(layers, costs, limit, clock)
    explicit = _as_static(params.static, chosen, seen)
    result = apply_static(model, explicit, run)
    facts = {
        **result.facts,
        "sensitivity": kind,
        "layers": {", ".join(layer.nodes): _why(layer, chosen[layer], costs[layer], clock) for layer in layers},
        "weight_bytes": sum(layer.bytes[width] for layer, width in chosen.items()),
        **({} if limit is None else {"weight_bytes_allowed": int(limit)}),
        **({} if clock is None else {"speedup_when_chosen": round(clock.speedup_of(chosen), 3)}),
        "written_out": "recipe.pinned.yaml in the run's folder says the same for quantize.static",
    }
    return StageResult(result.model, facts, {"use": "quantize.static", **explicit.model_dump(mode="json")})


def sensitivity_of(params: MixedParams, run: RunContext) -> Kind:
    has_classes = run.task in ("classification", "language-model")
    if params.sensitivity == "kl" and not has_classes:
        raise UsageError(
            f"sensitivity: kl compares probabilities of classes, and the task is {run.task}",
            hint="choose mse or hessian",
        )
    return params.sensitivity or ("kl" if has_classes else "mse")


def _measured(
    model: OnnxModel,
    seen: Seen,
    layers: Sequence[Layer],
    candidates: Candidates,
    params: MixedParams,
    kind: Kind,
    run: RunContext,
) -> Costs:
    """By layer and width, in the unit of `kind`. Only their order and their sums count."""
    assert run.data is not None
    by_task: Kind = "kl" if run.task in ("classification", "language-model") else "mse"
    probed = probe(
        run.data.split("calibration"),
        model.signature,
        params.samples or SAMPLES,
        by_task if kind == "hessian" else kind,
    )
    wanted = [] if kind == "hessian" else outputs(model, probed, run)
    costs: dict[Layer, dict[Width, float]] = {}
    for done, layer in enumerate(layers):
        if len(layer.bytes) == 1:
            costs[layer] = dict.fromkeys(layer.bytes, 0.0)
        elif kind == "hessian":
            rng = np.random.default_rng([run.seed, done])
            trace = hessian_trace(seen.body, layer.weight, candidates.values(layer), probed, params.probes, rng)
            costs[layer] = {
                width: 0.5 * trace * float(np.mean(candidates.rounding_error(layer, width).astype(np.float64) ** 2))
                for width in layer.bytes
            }
        else:
            costs[layer] = {
                width: 0.0
                if width == "float"
                else probed.between(wanted, outputs(candidates.alone(layer, width), probed, run))
                for width in layer.bytes
            }
        run.events.progress("measuring sensitivity", done + 1, len(layers))
    return costs


def _size_limit(layers: Sequence[Layer], size: float) -> float:
    """Bytes; up to 1 it is a share of what the weights take in float."""
    return size * sum(layer.float_bytes for layer in layers) if size <= 1 else size


def _chosen(layers: Sequence[Layer], costs: Costs, limit: float | None, clock: _Clock | None) -> Chosen:
    """The widths with the least sum of costs. Where speed is asked for, the choice itself is timed too."""
    options = [list(layer.bytes) for layer in layers]
    limits = []
    if limit is not None:
        limits.append(Limit([list(layer.bytes.values()) for layer in layers], limit))
    slack = None if clock is None else clock.slack_ms
    for _ in range(_TRIES):
        timed = [] if clock is None or slack is None else [Limit(clock.added_ms(layers), slack)]
        found = choose([[costs[layer][width] for width in layer.bytes] for layer in layers], [*limits, *timed])
        if found is None:
            raise _nothing_fits(layers, limit, clock)
        chosen = {layer: options[n][option] for n, (layer, option) in enumerate(zip(layers, found, strict=True))}
        if clock is None or slack is None or (over := clock.over_ms(chosen)) <= 0:
            return chosen
        slack -= over
    assert clock is not None
    raise StageError(
        f"no choice was timed at {clock.wanted}x: the last one ran at {clock.speedup_of(chosen):.2f}x",
        hint="ask for less speed, or run on a quiet machine: single layers' times were too uncertain to add up",
    )


def _nothing_fits(layers: Sequence[Layer], limit: float | None, clock: _Clock | None) -> StageError:
    least = sum(min(layer.bytes.values()) for layer in layers)
    parts = []
    if limit is not None:
        parts.append(f"the smallest has {least:,} bytes of weights where {int(limit):,} are allowed")
    if clock is not None:
        parts.append(f"the fastest is expected at {clock.fastest(layers):.2f}x where {clock.wanted}x is asked for")
    return StageError(
        f"no choice of widths is within the budget: {'; '.join(parts)}",
        hint="loosen `size` or `speedup`, or allow more in `widths`",
    )


def _as_static(params: StaticParams, chosen: Chosen, seen: Seen) -> StaticParams:
    """What the choice is in terms of quantize.static: an override for each node, behind the recipe's own."""
    widths = {node: width for layer, width in chosen.items() for node in layer.nodes}
    for node in ambiguous(widths, seen.treated.sites):
        raise UsageError(f"{node} names more than one thing in this graph, so that no override can mean it alone")
    return params.model_copy(update={"overrides": (*params.overrides, *as_overrides(widths))})


def _why(layer: Layer, width: Width, costs: Mapping[Width, float], clock: _Clock | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"width": width, "bytes": layer.bytes[width]}
    if len(layer.bytes) == 1:
        return {**facts, "why": "an override decides" if width != "float" else "an override keeps it float"}
    facts["cost"] = {option: float(f"{cost:.4g}") for option, cost in costs.items()}
    if clock is not None and layer in clock.float_adds_ms:
        facts["float_adds_ms"] = round(clock.float_adds_ms[layer], 5)
    return facts


@dataclass(frozen=True)
class _Clock:
    """Medians in milliseconds on the target's runtime. wanted: the speedup that is asked for.

    integer_ms: everything that may be integer is. float_adds_ms: by layer, what it adds to that in float.
    """

    float_ms: float
    integer_ms: float
    float_adds_ms: Mapping[Layer, float]
    wanted: float
    model: OnnxModel
    candidates: Candidates
    run: RunContext

    @classmethod
    def read(
        cls, model: OnnxModel, layers: Sequence[Layer], candidates: Candidates, wanted: float, run: RunContext
    ) -> _Clock:
        """4 bits take as long as 8, since the kernels are the same."""
        clock = run.clock()
        whole: dict[Layer, Width] = {layer: _integer(layer) for layer in layers}
        float_ms, integer_ms = clock([model, candidates.model(whole)])
        free = [layer for layer in layers if "float" in layer.bytes and len(layer.bytes) > 1]
        adds: dict[Layer, float] = {}
        for start in range(0, len(free), _TOGETHER):
            part = free[start : start + _TOGETHER]
            models = [candidates.model({**whole, layer: "float"}) for layer in part]
            reference, *times = clock([candidates.model(whole), *models])
            adds.update({layer: time - reference for layer, time in zip(part, times, strict=True)})
            run.events.progress("timing layers", start + len(part), len(free))
        return cls(float_ms, integer_ms, adds, wanted, model, candidates, run)

    @property
    def slack_ms(self) -> float:
        """What layers in float may add."""
        return self.float_ms / self.wanted - self.integer_ms

    def added_ms(self, layers: Sequence[Layer]) -> list[list[float]]:
        """By layer, of each of its widths."""
        return [
            [self.float_adds_ms.get(layer, 0.0) if width == "float" else 0.0 for width in layer.bytes]
            for layer in layers
        ]

    def over_ms(self, chosen: Chosen) -> float:
        """How much longer a choice takes than it may, timed beside the float network. Negative when it holds."""
        float_ms, chosen_ms = self.run.clock()([self.model, self.candidates.model(chosen)])
        return chosen_ms - float_ms / self.wanted

    def speedup_of(self, chosen: Chosen) -> float:
        float_ms, chosen_ms = self.run.clock()([self.model, self.candidates.model(chosen)])
        return float_ms / chosen_ms

    def fastest(self, layers: Sequence[Layer]) -> float:
        """The speedup that the times of single layers promise at best."""
        return self.float_ms / max(self.integer_ms + sum(min(part) for part in self.added_ms(layers)), 1e-9)


def _integer(layer: Layer) -> Width:
    return next((width for width in layer.bytes if width != "float"), "float")
