"""What rounding does to a network's outputs on a few calibration samples, by layer: which layers are better left in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import onnx

from compressctl.core.data import Split
from compressctl.core.events import Events
from compressctl.core.feeds import first_feeds, whole_feeds
from compressctl.core.model import Signature
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.graph.codes import weight_values
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import index, reads
from compressctl.graph.replace_weights import with_weights
from compressctl.graph.simulate import with_rounded_activations
from compressctl.graph.sites import Site, activations, find_sites
from compressctl.numerics.channel_statistics import ChannelStatistics, channel_rows, channel_statistics, noise_to_signal

_SAMPLES = 16
_MOST_CALLS = 128
"""Calibration samples out of which these are chosen."""

_TOLERABLE_DB = 20.0
"""Signal to noise of the outputs from which on every layer is rounded: noise of a tenth of the signal."""

_ENOUGH_DB = 26.0
"""Where layers are left in float, they are until here: noise of a twentieth."""


@dataclass(frozen=True)
class Allowance:
    """What may stay float. most: of all multiply-accumulates. gain_db: what a layer in float must bring at least, by each hundredth of the arithmetic
    that it takes. suspects: activations that are rounded alone, those with the fewest codes for an ordinary channel's values."""

    most: float = 0.1
    gain_db: float = 0.4
    suspects: int = 24


def allowance(asked: float | None) -> Allowance:
    """Few layers that stand out, unless somebody says how much may be spent: then those that bring most for it, as long as they bring anything."""
    return Allowance() if asked is None else Allowance(asked, gain_db=0.05, suspects=100)


Ratios = tuple[np.ndarray, ...]
"""Noise to signal by output, (channels,) each; NaN of channels that are zero throughout."""


class OutputNoise:
    """The noise that a plan's rounding adds to a graph's outputs. weights: how they are rounded, whatever stays float of a plan."""

    def __init__(
        self, body: onnx.ModelProto, signature: Signature, split: Split, weights: Mapping[str, TensorQuant]
    ) -> None:
        self.body = body
        self._names = [output.name for output in body.graph.output]
        stored = index(body.graph)
        self._codes = {
            name: weight_values(values, quant)
            for name, quant in weights.items()
            if (values := stored.array(name)) is not None
        }
        chosen = self._telling(signature, split)
        self._calls = [
            feed.inputs
            for place, feed in enumerate(islice(whole_feeds(split, signature, 1), _MOST_CALLS))
            if place in chosen
        ]
        self._wanted = {name: values for name, values in self._run(body).items() if values}

    def sqnr_db(self, plan: QuantPlan) -> float:
        """Signal to noise under a plan, in dB: the mean over outputs of the mean over their channels.

        Channels count alike: scores below 1 that stand beside boxes in pixels are as much a part of the output.
        """
        return decibels(self.ratios(plan))

    def ratios(self, plan: QuantPlan, exact: Collection[str] = ()) -> Ratios:
        """exact: weights that are not rounded."""
        weights = {site.weight for site in find_sites(self.body.graph, plan.float_nodes) if site.weight not in exact}
        return self._ratios(
            plan, with_weights(self.body, {name: codes for name, codes in self._codes.items() if name in weights})
        )

    def alone(self, plan: QuantPlan, tensor: str) -> Ratios:
        """Where nothing but one activation, or one weight, is rounded."""
        quant = plan.activations.get(tensor)
        if quant is not None:
            return self._ratios(replace(plan, activations={tensor: quant}), self.body)
        return self._ratios(replace(plan, activations={}), with_weights(self.body, {tensor: self._codes[tensor]}))

    def rounds(self, weight: str | None) -> bool:
        return weight in self._codes

    def _ratios(self, plan: QuantPlan, body: onnx.ModelProto) -> Ratios:
        rounded, _ = with_rounded_activations(body, plan)
        found = self._run(rounded)
        return tuple(
            noise_to_signal(wanted, found[name], _channels(wanted[0])) for name, wanted in self._wanted.items()
        )

    def channels_db(self, plan: QuantPlan) -> dict[str, float]:
        """By activation, signal to rounding noise of its channels, the mean over those that vary; outliers take codes from the rest."""
        tensors = list(plan.activations)
        recorder = ActivationRecorder(self.body, tensors)
        sums: dict[str, ChannelStatistics] = {}
        for inputs in self._calls:
            for tensor, values in recorder.run(inputs).items():
                seen = channel_statistics(values, _channels(values))
                sums[tensor] = sums[tensor].added(seen) if tensor in sums else seen
        found = {}
        for tensor, statistics in sums.items():
            noise = float(plan.activations[tensor].scale) ** 2 / 12
            alive = statistics.variance > 1e-12
            if alive.any():
                found[tensor] = float(np.mean(10 * np.log10(statistics.variance[alive] / noise)))
        return found

    def _run(self, body: onnx.ModelProto) -> dict[str, list[np.ndarray]]:
        recorder = ActivationRecorder(body, self._names)
        outputs: dict[str, list[np.ndarray]] = {name: [] for name in self._names}
        for inputs in self._calls:
            for name, values in recorder.run(inputs).items():
                if values.dtype.kind == "f":
                    outputs[name].append(np.array(values))
        return outputs

    def _telling(self, signature: Signature, split: Split) -> set[int]:
        """Places of the calls in which the outputs' channels hold most of what they hold in all; the first where outputs have no channels.

        A detector finds nothing in most pictures, and what rounding does to its scores shows in the others.
        """
        recorder = ActivationRecorder(self.body, self._names)
        energies: dict[str, list[np.ndarray]] = {}
        for feed in islice(whole_feeds(split, signature, 1), _MOST_CALLS):
            for name, values in recorder.run(feed.inputs).items():
                if values.dtype.kind == "f" and _channels(values) is not None:
                    rows = channel_rows(values, _channels(values)).astype(np.float64)
                    energies.setdefault(name, []).append(np.einsum("ij,ij->i", rows, rows))
            if not energies:
                return set(range(_SAMPLES))
        shares: list[np.ndarray] = []
        for found in energies.values():
            if len({len(each) for each in found}) == 1:
                total = np.sum(found, axis=0)
                shares.append(
                    np.divide(found, total, out=np.zeros((len(found), len(total))), where=total > 0).sum(axis=1)
                )
        order = np.argsort(-np.sum(shares, axis=0), kind="stable") if shares else range(_SAMPLES)
        return {int(place) for place in order[:_SAMPLES]}


_FLOOR = 1e-6


def decibels(ratios: Ratios) -> float:
    """Signal to noise, the mean over outputs of the mean over their channels."""
    return float(np.mean([_mean_db(found) for found in ratios]))


def _mean_db(ratios: np.ndarray) -> float:
    heard = np.isfinite(ratios)
    if not heard.any():
        return float(-10 * np.log10(_FLOOR))
    return float(np.mean(-10 * np.log10(np.clip(ratios[heard], _FLOOR, 1.0))))


def _channels(values: np.ndarray) -> int | None:
    return 1 if values.ndim > 2 else None


def macs_of(body: onnx.ModelProto, signature: Signature, split: Split, sites: Sequence[Site]) -> dict[str, int]:
    """Multiply-accumulates of the sites with weights, by node, for the split's first sample; nothing for an empty split."""
    weighted = [site for site in sites if site.weight]
    calls = first_feeds(split, signature, 1, 1)
    if not calls or not weighted:
        return {}
    sizes = {tensor.name: tuple(tensor.dims) for tensor in body.graph.initializer}
    values = ActivationRecorder(body, [site.output for site in weighted]).run(calls[0].inputs)
    return {
        site.node: int(values[site.output].size * np.prod(sizes[site.weight]) // sizes[site.weight][site.weight_axis])
        for site in weighted
        if site.weight
    }


def outlying(
    noise: OutputNoise,
    plan: QuantPlan,
    layers: Sequence[Site],
    macs: Mapping[str, int],
    allowed: Allowance,
    events: Events,
) -> dict[str, str]:
    """The few layers that are better left in float, with the reason; none where the outputs' noise is tolerable.

    Such a layer brings much noise for little work: often the first ones, in which a few channels have a range many times that of the
    others and share its scale with them. layers: that may stay float. macs: by node, of all layers.
    """
    before = noise.sqnr_db(plan)
    if before >= _TOLERABLE_DB or len(layers) < 2:
        return {}
    floats, share = _noisy(_measured(noise, plan, layers, allowed.suspects, events), layers, macs, allowed)
    total = max(sum(macs.values()), 1)
    for layer in _enclosed(noise.body.graph, [layer.node for layer in layers], floats, macs) if floats else ():
        if share + macs.get(layer, 0) / total <= allowed.most:
            floats[layer] = (
                "it stands between layers that stay float, so that integers would cost a conversion on both sides"
            )
            share += macs.get(layer, 0) / total
    # Noises add up only as far as they do not meet; what is decided is the network.
    return floats if floats and noise.sqnr_db(_with_floats(plan, floats)) >= before + allowed.gain_db else {}


@dataclass(frozen=True)
class Measured:
    """Noise of tensors, each rounded `alone`, and of all `others` together. Independent noises add up in power.

    Source: Lin, Talathi and Annapureddy 2016, Fixed Point Quantization of Deep Convolutional Networks, section 3.
    """

    graph: onnx.GraphProto
    plan: QuantPlan
    alone: Mapping[str, Ratios]
    others: Ratios

    def sqnr_db(self, floats: Collection[str]) -> float:
        """With these nodes in float: of the measured tensors those count that are rounded still."""
        sites = find_sites(self.graph, {*self.plan.float_nodes, *floats})
        rounded = dict.fromkeys([*activations(sites), *(site.weight for site in sites if site.weight)])
        parts = [self.others, *(self.alone[tensor] for tensor in rounded if tensor in self.alone)]
        return decibels(tuple(np.sum(ratios, axis=0) for ratios in zip(*parts, strict=True)))


def _measured(noise: OutputNoise, plan: QuantPlan, layers: Sequence[Site], most: int, events: Events) -> Measured:
    """The activations with the least signal to noise of their own, and the weights of the layers that read or make one."""
    own = noise.channels_db(plan)
    suspects = sorted(own, key=lambda tensor: own[tensor])[:most]
    touching = [layer for layer in layers if {*layer.inputs, layer.output}.intersection(suspects)]
    weights = dict.fromkeys(layer.weight for layer in touching if layer.weight and noise.rounds(layer.weight))
    others = {tensor: quant for tensor, quant in plan.activations.items() if tensor not in suspects}
    alone = {}
    for done, tensor in enumerate([*suspects, *weights], start=1):
        alone[tensor] = noise.alone(plan, tensor)
        events.progress("looking for layers that rounding hurts most", done, len(suspects) + len(weights))
    return Measured(noise.body.graph, plan, alone, noise.ratios(replace(plan, activations=others), exact=weights))


def _noisy(
    measured: Measured, layers: Sequence[Site], macs: Mapping[str, int], allowed: Allowance
) -> tuple[dict[str, str], float]:
    """Layers to leave in float, and their share of the arithmetic: those that take most noise away for their work come first.

    The layers that read or make an activation are float together, or not at all.
    """
    total = max(sum(macs.values()), 1)
    groups = dict.fromkeys(
        tuple(layer.node for layer in layers if tensor in (*layer.inputs, layer.output, layer.weight))
        for tensor in measured.alone
    )
    floats: dict[str, str] = {}
    now, work = measured.sqnr_db(()), 0.0
    while now < _ENOUGH_DB:
        best: tuple[float, float, float, list[str]] | None = None
        for group in groups:
            left = [layer for layer in group if layer not in floats]
            share = sum(macs.get(layer, 0) for layer in left) / total
            if not left or work + share > allowed.most:
                continue
            gain = measured.sqnr_db([*floats, *left]) - now
            worth = gain / max(1.0, 100 * share)
            if worth >= allowed.gain_db and (best is None or worth > best[0]):
                best = worth, gain, share, left
        if best is None:
            break
        _, gain, share, left = best
        why = f"rounding costs the outputs {gain:.1f} dB here, in {share:.1%} of the arithmetic"
        floats.update(dict.fromkeys(left, why))
        now, work = now + gain, work + share
    return floats, work


def _enclosed(
    graph: onnx.GraphProto, layers: Collection[str], floats: Collection[str], macs: Mapping[str, int]
) -> list[str]:
    """Layers that float ones separate from the largest part of the network."""
    groups = {layer: {layer} for layer in layers if layer not in floats}
    sources: dict[str, frozenset[str]] = {}
    for node in graph.node:
        made = frozenset[str]().union(*(sources.get(name, frozenset()) for name in reads(node)))
        if node.name in groups:
            together = groups[node.name].union(*(groups[layer] for layer in made))
            groups.update(dict.fromkeys(together, together))
        if node.name in layers:
            made = frozenset({node.name} - set(floats))
        sources.update(dict.fromkeys(node.output, made))
    largest = max(groups.values(), key=lambda group: sum(macs.get(layer, 0) for layer in group), default=set[str]())
    return [layer for layer in layers if layer in groups and layer not in largest]


def _with_floats(plan: QuantPlan, nodes: Collection[str]) -> QuantPlan:
    return replace(plan, float_nodes={**plan.float_nodes, **dict.fromkeys(nodes, "float")})
