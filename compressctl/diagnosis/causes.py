"""Why a stage lost what it lost: each tensor's own part in the noise, and a name for what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from compressctl.core.model import OnnxModel
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.diagnosis.activations import Activation, observed
from compressctl.diagnosis.document import Cause, CauseName
from compressctl.diagnosis.noise import Focus, Inputs, OutputNoise, Run
from compressctl.graph.codes import range_of, weight_values
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import GraphIndex, index
from compressctl.graph.replace_weights import with_weights
from compressctl.graph.simulate import with_rounded_activations
from compressctl.graph.sites import Kind, Site, find_sites, readers_past_moves
from compressctl.numerics.channel_statistics import channel_rows

_TRIED = 24
"""Tensors of each kind that are rounded alone: those whose own channels lose most."""

_LARGE_PART = 0.1
"""Of the noise: what makes less is no cause of its own, unless nothing makes more."""

_MOST_CAUSES = 4

_MASKED = 100.0
"""A mask's constant is at least so many times as large as everything that is no mask."""

_OUTLYING = 8.0
"""Channels' widest span over the median's from which three of eight bits are lost to it."""

_SHARED = 2.0
"""The joint range over an input's own from which that one loses a bit."""

_CUT = 0.5
_FLAT = 0.1


@dataclass(frozen=True)
class Found:
    """A cause, with what an edit may need. layers: nodes that could be left as they are. in_calibration: whether the range leaves out
    values of calibration samples too."""

    cause: Cause
    layers: tuple[str, ...]
    in_calibration: bool = False
    is_weight: bool = False

    @property
    def name(self) -> CauseName:
        return self.cause.name


@dataclass(frozen=True)
class Rounded:
    """A graph with a plan, its sites, and what the plan's activations hold on the calls that are diagnosed and on calibration's."""

    model: OnnxModel
    plan: QuantPlan
    calibration: Sequence[Inputs]
    noise: OutputNoise
    focus: Focus
    is_unlike: bool = False
    sites: tuple[Site, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sites", tuple(find_sites(self.model.body.graph, self.plan.float_nodes)))


def rounding_causes(rounded: Rounded, progress: Callable[[int, int], None]) -> list[Found]:
    """Causes among activations and weights of a plan, the one that makes most of the noise first."""
    body, plan = rounded.model.body, rounded.plan
    looked_up = index(body.graph)
    ranges = {name: quant for name, quant in plan.activations.items() if np.size(quant.scale) == 1}
    here, there = (observed(body, ranges, rounded.sites, calls) for calls in (rounded.noise.calls, rounded.calibration))
    stored = {name: values for name in plan.weights if (values := looked_up.array(name)) is not None}
    codes = {name: weight_values(values, plan.weights[name]) for name, values in stored.items()}
    lost = {name: _weight_noise(values, codes[name], plan.weights[name]) for name, values in stored.items()}
    suspects = sorted(here, key=lambda name: -here[name].noise)[:_TRIED]
    weights = sorted(lost, key=lambda name: -lost[name])[:_TRIED]
    whole = _alone(rounded, with_weights(body, codes), plan.activations)
    parts: dict[str, float] = {}
    for done, name in enumerate([*suspects, *weights], start=1):
        if name in codes:
            parts[name] = _alone(rounded, with_weights(body, {name: codes[name]}), {})
        else:
            parts[name] = _alone(rounded, body, {name: plan.activations[name]})
        progress(done, len(suspects) + len(weights))
    shares = {name: part / whole if whole > 0 else 0.0 for name, part in parts.items()}
    found = []
    for name in largest(shares):
        if name in codes:
            found.append(_weight_cause(rounded, name, stored[name], codes[name], shares[name]))
        else:
            found.append(_activation_cause(rounded, looked_up, name, here, there, shares[name]))
    return merged(found)


def largest(shares: Mapping[str, float]) -> list[str]:
    """The names whose share is a large part, the largest first; that one in any case."""
    order = sorted(shares, key=lambda name: -shares[name])
    return [name for place, name in enumerate(order) if place == 0 or shares[name] >= _LARGE_PART]


def merged(found: Sequence[Found]) -> list[Found]:
    """One for each name: what the others of it say is the same of more layers. A weight's whose layers an activation before it is in
    is left out: one makes the other."""
    by_name: dict[CauseName, Found] = {}
    for each in found:
        known = by_name.get(each.name)
        if each.is_weight and any(set(each.layers) <= set(other.layers) for other in by_name.values()):
            continue
        if known is None:
            by_name[each.name] = each
            continue
        layers = tuple(dict.fromkeys((*known.layers, *each.layers)))
        share = None if known.cause.share is None or each.cause.share is None else known.cause.share + each.cause.share
        by_name[each.name] = replace(
            known,
            cause=known.cause.model_copy(update={"layers": layers, "share": share}),
            layers=layers,
            in_calibration=known.in_calibration or each.in_calibration,
        )
    return list(by_name.values())[:_MOST_CAUSES]


def _alone(rounded: Rounded, body: onnx.ModelProto, activations: Mapping[str, TensorQuant]) -> float:
    """The noise in the output that lost most where nothing but this is rounded."""
    if activations:
        body, _ = with_rounded_activations(body, replace(rounded.plan, activations=activations))
    return rounded.focus.noise(rounded.noise.of(run_of(body, rounded.noise.names)), most=np.inf)


def run_of(body: onnx.ModelProto, names: Collection[str]) -> Run:
    """A graph's outputs, in this process."""
    return ActivationRecorder(body, list(names)).run


def _weight_noise(values: np.ndarray, codes: np.ndarray, quant: TensorQuant) -> float:
    """Noise to signal, the mean over output channels that hold anything."""
    return _rows_noise(*(channel_rows(part.astype(np.float64), quant.axis or 0) for part in (values, codes)))


def _rows_noise(rows: np.ndarray, others: np.ndarray) -> float:
    signal, noise = np.sum(rows**2, axis=1), np.sum((others - rows) ** 2, axis=1)
    alive = signal > 0
    return float(np.mean(noise[alive] / signal[alive])) if alive.any() else 0.0


def _touching(tensor: str, sites: Sequence[Site]) -> tuple[str, ...]:
    """Sites that make the tensor or read it, past what only moves values; none of these themselves unless there is nothing else."""
    readers = readers_past_moves(tensor, sites)
    touching = [site for site in sites if site.output == tensor or site.node in readers]
    return tuple(site.node for site in touching if site.kind is not Kind.MOVE) or tuple(site.node for site in touching)


def _activation_cause(
    rounded: Rounded,
    looked_up: GraphIndex,
    tensor: str,
    here: Mapping[str, Activation],
    there: Mapping[str, Activation],
    share: float,
) -> Found:
    found, layers = here[tensor], _touching(tensor, rounded.sites)
    low, high = range_of(found.quant)

    def named(
        name: CauseName, evidence: str, layers: tuple[str, ...] = layers, *, in_calibration: bool = False
    ) -> Found:
        cause = Cause(name=name, tensor=tensor, layers=layers, share=share, evidence=evidence)
        return Found(cause, layers, in_calibration)

    extreme = max(abs(low), abs(high))
    constant = masking_constant(looked_up, tensor, extreme)
    if constant is not None and found.ordinary * _MASKED <= extreme:
        return named(
            "mask constant",
            f"{constant[0]} puts {constant[1]:.3g} into it, so that a step of its codes is {found.step:.3g} while its other values reach "
            f"{found.ordinary:.3g}",
        )
    joined = _shared_scale(rounded, looked_up, tensor, here)
    if joined is not None:
        return named("shared scale", joined[0], joined[1])
    if found.share_cut > _CUT and found.outside:
        usual = there.get(tensor)
        in_calibration = usual is not None and usual.outside > 0 and usual.share_cut > _CUT
        beyond = f"{found.share_outside:.2%} of its values lie beyond its range of {low:.4g} to {high:.4g}, by which they are cut off"
        if rounded.is_unlike and not in_calibration:
            return named(
                "calibration unlike the test",
                f"{beyond}; of the calibration samples' {usual.share_outside if usual else 0:.2%}",
            )
        where = "on calibration samples too" if in_calibration else "which calibration samples stay inside"
        return named("saturating range", f"{beyond}, {where}", in_calibration=in_calibration)
    outliers = named(
        "outliers",
        f"its widest channel spans {found.outlying:.0f} times the median's and takes their codes: {found.flat} of {found.alive} channels vary by less "
        "than half a step",
    )
    if found.outlying >= _OUTLYING:
        return outliers
    if found.alive and found.flat >= _FLAT * found.alive:
        return named("dead channels", f"rounding makes {found.flat} of its {found.alive} channels that vary constant")
    if found.outlying >= _OUTLYING / 2:
        return outliers
    return named("rounding noise", f"its codes are {found.step:.3g} apart, which the output feels")


def _shared_scale(
    rounded: Rounded, looked_up: GraphIndex, tensor: str, here: Mapping[str, Activation]
) -> tuple[str, tuple[str, ...]] | None:
    """Where a Concat gives the tensor a scale that is too coarse for one of its inputs: evidence, and the layers that work on it."""
    for node in _joins(rounded.sites, looked_up, tensor):
        inputs = [name for name in node.input if name not in looked_up.initializers]
        spans = _spans(rounded, inputs)
        if node.output[0] not in here or len(spans) < 2:
            continue
        low, high = range_of(here[node.output[0]].quant)
        narrow = min(spans, key=lambda name: spans[name])
        if spans[narrow] * _SHARED > high - low:
            continue
        evidence = (
            f"{node.name} joins {narrow}, which spans {spans[narrow]:.3g}, with what spans {high - low:.3g}: it has "
            f"{255 * spans[narrow] / (high - low):.0f} of the 255 steps of {node.output[0]}"
        )
        here_rounded = {site.node for site in rounded.sites}
        return evidence, tuple(
            name for name in (node.name, *readers_past_moves(node.output[0], rounded.sites)) if name in here_rounded
        )
    return None


def _joins(sites: Sequence[Site], looked_up: GraphIndex, tensor: str) -> list[onnx.NodeProto]:
    """Concat nodes that read the tensor or make it, directly or before others that move its values."""
    found = [node for node in looked_up.consumers.get(tensor, []) if node.op_type == "Concat"]
    moves = {site.output: site.inputs[0] for site in sites if site.kind is Kind.MOVE}
    while tensor in moves:
        tensor = moves[tensor]
    maker = looked_up.producers.get(tensor)
    return [*found, maker] if maker is not None and maker.op_type == "Concat" else found


def _spans(rounded: Rounded, tensors: Sequence[str]) -> dict[str, float]:
    """Between the largest and the least value on the calls that are diagnosed."""
    recorder = ActivationRecorder(rounded.model.body, tensors)
    bounds = [
        {name: (float(values.min()), float(values.max())) for name, values in recorder.run(inputs).items()}
        for inputs in rounded.noise.calls
    ]
    return {name: max(each[name][1] for each in bounds) - min(each[name][0] for each in bounds) for name in tensors}


_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"}
_NEAR = 8
"""Nodes between a mask's constant and the tensor that it stands in, at most."""


def masking_constant(looked_up: GraphIndex, tensor: str, extreme: float) -> tuple[str, float] | None:
    """The node that brings a constant about as large as the tensor's extreme into it, layers in between excepted, and the constant."""
    names, seen = [tensor], set[str]()
    for _ in range(_NEAR):
        above: list[str] = []
        for name in names:
            node = looked_up.producers.get(name)
            if node is None or node.name in seen or (node.op_type in _LAYERS):
                continue
            seen.add(node.name)
            for read in node.input:
                constant = looked_up.array(read) if read else None
                if constant is None:
                    above.append(read)
                elif constant.dtype.kind == "f" and constant.size:
                    largest = constant.reshape(-1)[np.argmax(np.abs(constant))]
                    if abs(largest) >= extreme / 2 and (abs(largest) <= 2 * extreme or not np.isfinite(largest)):
                        return node.name, float(largest)
        names = above
    return None


def _weight_cause(rounded: Rounded, name: str, values: np.ndarray, codes: np.ndarray, share: float) -> Found:
    quant = rounded.plan.weights[name]
    layers = tuple(site.node for site in rounded.sites if site.weight == name)
    axis = next((site.weight_axis for site in rounded.sites if site.weight == name), 0)
    return Found(weight_cause(name, values, codes, axis, share, layers, quant), layers, is_weight=True)


def weight_cause(
    name: str,
    values: np.ndarray,
    others: np.ndarray,
    axis: int,
    share: float | None,
    layers: tuple[str, ...],
    quant: TensorQuant | None = None,
) -> Cause:
    """Why other numbers in a weight's place cost what they do. axis: of its outputs. quant: how it was rounded, if it was."""

    def named(cause: CauseName, evidence: str) -> Cause:
        return Cause(name=cause, tensor=name, layers=layers, share=share, evidence=evidence)

    rows, found = channel_rows(values, axis), channel_rows(others, axis)
    alive = np.any(rows != 0, axis=1)
    dead = int(np.count_nonzero(alive & ~np.any(found != 0, axis=1)))
    if dead and dead >= _FLAT * np.count_nonzero(alive):
        return named("dead channels", f"{dead} of its {int(np.count_nonzero(alive))} output channels have become zero")
    extremes = np.abs(rows[alive]).max(axis=1) if alive.any() else np.ones(1)
    ratio = float(extremes.max() / np.median(extremes))
    if quant is not None and quant.axis is None and ratio >= _OUTLYING:
        return named(
            "outliers", f"one scale for all output channels, the largest of which is {ratio:.0f} times the median one"
        )
    bits = None if quant is None else _bits(quant)
    if bits is not None and bits < 8:
        return named("few codes", f"{bits} bits leave it {_percent(_rows_noise(rows, found))} of its energy as noise")
    changed = f"its numbers changed by {_percent(_rows_noise(rows, found))} of their energy"
    return named("changed weights" if quant is None else "rounding noise", changed)


def _bits(quant: TensorQuant) -> int:
    if quant.quantized_min is not None and quant.quantized_max is not None:
        return int(quant.quantized_max - quant.quantized_min).bit_length()
    return int("".join(filter(str.isdigit, quant.dtype)) or 8)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.2g} %"
