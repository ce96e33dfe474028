"""Layer by layer, each behind the layers that are settled already: how its weights are rounded, then what its bias is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from compressctl.core.data import Split
from compressctl.core.events import Events
from compressctl.core.model import Signature
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.graph.codes import weight_values
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import attribute, index
from compressctl.graph.replace_weights import with_weights
from compressctl.graph.simulate import with_rounded_activations
from compressctl.graph.sites import Site
from compressctl.numerics.adaround import Layer, adaround, nearest
from compressctl.techniques.quantize._bias import channel_means, correctable, shifted_back, with_biases
from compressctl.techniques.quantize._calibrate import batch_size, calibration_batches
from compressctl.techniques.quantize._rows import input_rows

_ROWS_BYTES = 128 * 1024**2
"""What the sampled inputs of one layer may take, of the float and of the quantized network each."""

_BATCH = 512
"""Rows that one step of AdaRound looks at."""


@dataclass(frozen=True)
class Learning:
    """How roundings are learned: steps of AdaRound, and the seed that draws its rows."""

    steps: int
    seed: int


@dataclass
class Settled:
    """weights: rounded values by initializer. biases: by node. errors: by node, the output's squared error with weights
    rounded to nearest and as they were rounded in the end, both against the square of the output."""

    weights: dict[str, np.ndarray] = field(default_factory=dict)
    biases: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """The float graph, what goes through it, and the plan for it. fixed: weights that lie on their codes already."""

    body: onnx.ModelProto
    signature: Signature
    split: Split
    plan: QuantPlan
    fixed: frozenset[str] = frozenset()


def settle(
    network: Network, sites: Sequence[Site], learning: Learning | None, events: Events, *, corrects_bias: bool
) -> Settled:
    """Every site with a weight, in graph order. A run through the network per tensor that such sites read.

    learning: None rounds to nearest. A weight that several sites read is rounded to nearest: what is good for one reader is
    not for the next. corrects_bias: b + E[W x] - E[W~ x~] for float inputs x and inputs x~ from the quantized network, so that
    each channel keeps its mean. Source: Nagel et al. 2020, section 3.3 (asymmetric reconstruction); Nagel et al. 2019,
    section 4.2 and appendix D (empirical bias correction, applied in the order of the layers).
    """
    settled = Settled()
    weighted = [site for site in sites if site.weight in network.plan.weights]
    readers = [site.weight for site in weighted]
    done = 0
    for tensor in dict.fromkeys(site.inputs[0] for site in weighted):
        together = [site for site in weighted if site.inputs[0] == tensor]
        open_ = [site for site in together if readers.count(site.weight) == 1 and site.weight not in network.fixed]
        learned = open_ if learning is not None else []
        corrected = [site for site in together if corrects_bias and correctable(site)]
        if learned or corrected:
            seen = _look(network, settled, tensor, learned)
            for site in learned:
                assert learning is not None
                rng = np.random.default_rng([learning.seed, weighted.index(site)])
                _round(network, site, seen.rows[site.node], settled, learning.steps, rng, site in corrected)
            for site in together:
                _round_to_nearest(network, site, settled)
            for site in corrected:
                _correct_bias(network, site, seen, settled)
        done += len(together)
        events.progress("settling layers", done, len(weighted))
    return settled


@dataclass
class _Seen:
    """rows: by node, what its weights are multiplied with in the float and in the quantized network, each (rows, columns).

    means: of the tensor over samples in both networks, None where its shape changes between batches.
    """

    rows: dict[str, tuple[np.ndarray, np.ndarray]]
    means: tuple[np.ndarray, np.ndarray] | None


def _look(network: Network, settled: Settled, tensor: str, learned: Sequence[Site]) -> _Seen:
    """Both networks up to one tensor, over the whole split."""
    so_far = with_biases(with_weights(network.body, settled.weights), settled.biases)
    simulated, names = with_rounded_activations(so_far, network.plan)
    name = names[tensor]
    coarse = ActivationRecorder(simulated, [name])
    exact = ActivationRecorder(network.body, [tensor])
    nodes = {node.name: node for node in network.body.graph.node}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in network.body.graph.initializer}
    rows: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {site.node: [] for site in learned}
    means = _Means()
    # Progress is counted in layers here.
    size = batch_size(network.split, network.signature, coarse.run)
    for inputs, samples in calibration_batches(network.split, network.signature, size, Events()):
        both = exact.run(inputs)[tensor], coarse.run(inputs)[name]
        batches = max(1, -(-len(network.split) // samples))
        for site in learned:
            shape = shapes[site.weight or ""]
            most = max(64, _ROWS_BYTES // (4 * (int(np.prod(shape)) // shape[site.weight_axis]) * batches))
            pair = [np.array(input_rows(values, nodes[site.node], shape, inputs, most).values) for values in both]
            rows[site.node].append((pair[0], pair[1]))
        means.add(both, samples)
    joined = {
        node: (np.concatenate([pair[0] for pair in parts]), np.concatenate([pair[1] for pair in parts]))
        for node, parts in rows.items()
    }
    return _Seen(joined, means.found())


class _Means:
    """Of two arrays over samples, as long as their shapes stay the same."""

    def __init__(self) -> None:
        self._sums: tuple[np.ndarray, np.ndarray] | None = None
        self._samples = 0
        self._same_shape = True

    def add(self, both: tuple[np.ndarray, np.ndarray], samples: int) -> None:
        sums = both[0].sum(axis=0, dtype=np.float64), both[1].sum(axis=0, dtype=np.float64)
        known = self._sums
        self._same_shape &= len(both[0]) == samples and (known is None or known[0].shape == sums[0].shape)
        if self._same_shape:
            self._sums = sums if known is None else (known[0] + sums[0], known[1] + sums[1])
            self._samples += samples

    def found(self) -> tuple[np.ndarray, np.ndarray] | None:
        if self._sums is None or not self._same_shape:
            return None
        return self._sums[0] / self._samples, self._sums[1] / self._samples


def _round(
    network: Network,
    site: Site,
    rows: tuple[np.ndarray, np.ndarray],
    settled: Settled,
    steps: int,
    rng: np.random.Generator,
    keeps_mean: bool,
) -> None:
    """Learn one weight's rounding. keeps_mean: the bias is corrected afterwards, so that only the rest is to be learned."""
    found = index(network.body.graph)
    node = next(node for node in network.body.graph.node if node.name == site.node)
    values, quant = found.array(site.weight or ""), network.plan.weights[site.weight or ""]
    assert values is not None
    groups = int(attribute(node, "group", 1)) if site.op == "Conv" else 1  # type: ignore[call-overload]
    bias = found.array(site.bias) if site.bias else None
    layer = _layer(values, quant, site, groups, bias)
    exact, coarse = (_grouped(part, groups) for part in rows)
    targets = layer.output(exact, layer.weight)
    if keeps_mean:
        # The bias will be b + E[W x] - E[W~ x~], whatever W~ is: the same as inputs without their mean, and this bias.
        shift = exact.mean(axis=1, keepdims=True) @ layer.weight.transpose(0, 2, 1)
        layer = replace(layer, bias=layer.bias + shift)
        coarse = coarse - coarse.mean(axis=1, keepdims=True)
    candidates = [nearest(layer), adaround(layer, coarse, targets, steps, _BATCH, rng)]
    errors = [layer.error(codes, coarse, targets) for codes in candidates]
    best = candidates[1] if errors[1] < errors[0] else candidates[0]
    power = max(float(np.mean(np.square(targets, dtype=np.float64))), 1e-30)
    settled.errors[site.node] = errors[0] / power, min(errors) / power
    settled.weights[site.weight or ""] = _stored(best * layer.scale, site, values)


def _round_to_nearest(network: Network, site: Site, settled: Settled) -> None:
    """What no rounding was learned for: the layers behind it shall see its codes too."""
    values = index(network.body.graph).array(site.weight or "")
    assert values is not None
    if site.weight not in settled.weights:
        settled.weights[site.weight or ""] = weight_values(values, network.plan.weights[site.weight or ""])


def _layer(values: np.ndarray, quant: TensorQuant, site: Site, groups: int, bias: np.ndarray | None) -> Layer:
    matrix = np.moveaxis(values, site.weight_axis, 0).reshape(values.shape[site.weight_axis], -1).astype(np.float32)
    rows = len(matrix)
    scale = np.broadcast_to(np.asarray(quant.scale, np.float32), (rows,))
    low, high = quant.quantized_min, quant.quantized_max
    assert low is not None
    assert high is not None
    flat = np.zeros(rows, np.float32) if bias is None else np.broadcast_to(bias.reshape(-1), (rows,))
    return Layer(
        matrix.reshape(groups, rows // groups, -1),
        scale.reshape(groups, rows // groups, 1),
        low,
        high,
        flat.astype(np.float32).reshape(groups, 1, rows // groups),
        site.clip if site.folded else (-np.inf, np.inf),
    )


def _stored(weight: np.ndarray, site: Site, values: np.ndarray) -> np.ndarray:
    """A (groups, out, in) weight as the graph stores it."""
    shape = np.moveaxis(values, site.weight_axis, 0).shape
    return np.ascontiguousarray(np.moveaxis(weight.reshape(shape), 0, site.weight_axis)).astype(values.dtype)


def _grouped(rows: np.ndarray, groups: int) -> np.ndarray:
    """(groups, rows, columns of a group) float32."""
    return np.ascontiguousarray(rows.reshape(len(rows), groups, -1).transpose(1, 0, 2), np.float32)


def _correct_bias(network: Network, site: Site, seen: _Seen, settled: Settled) -> None:
    if seen.means is None:
        return
    found = index(network.body.graph)
    node = next(node for node in network.body.graph.node if node.name == site.node)
    weight = found.array(site.weight or "")
    assert weight is not None
    used = settled.weights[site.weight or ""]
    exact, coarse = seen.means
    shift = channel_means(node, used, coarse, network.body) - channel_means(node, weight, exact, network.body)
    bias = found.array(site.bias) if site.bias else None
    settled.biases[site.node] = shifted_back(bias, shift, weight.dtype)
