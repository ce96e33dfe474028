"""What rounding does to a network's outputs on a few calibration samples, by layer: which layers are better left in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from compressctl.core.data import Split
from compressctl.core.events import Events
from compressctl.core.feeds import first_feeds
from compressctl.core.model import Signature
from compressctl.core.quant import QuantPlan
from compressctl.graph.execute import ActivationRecorder
from compressctl.graph.index import reads
from compressctl.graph.simulate import leading_to, with_rounded_activations
from compressctl.graph.sites import Site
from compressctl.numerics.channel_statistics import ChannelStatistics, channel_statistics, noise_to_signal

_SAMPLES = 16

_TOLERABLE_DB = 20.0
"""Signal to noise of the outputs from which on every layer is rounded: noise of a tenth of the signal."""

_ENOUGH_DB = 26.0
"""Where layers are left in float, they are until here: noise of a twentieth."""

_GAIN_DB = 0.4
"""What a layer in float must bring at least; by each hundredth of the arithmetic that it takes."""

MOST = 0.1
"""Of all multiply-accumulates, what may stay float."""

_SUSPECTS = 24
"""Tensors whose layers are tried: those with the fewest codes for an ordinary channel's values."""


class OutputNoise:
    """The noise that rounding activations adds to a graph's outputs."""

    def __init__(self, body: onnx.ModelProto, signature: Signature, split: Split) -> None:
        self.body = body
        self._names = [output.name for output in body.graph.output]
        self._calls = [feed.inputs for feed in first_feeds(split, signature, _SAMPLES, 1)]
        self._wanted = self._run(body)

    def sqnr_db(self, plan: QuantPlan) -> float:
        """Signal to noise under a plan, in dB: the mean over outputs of the mean over their channels.

        Channels count alike: scores below 1 that stand beside boxes in pixels are as much a part of the output.
        """
        rounded, _ = with_rounded_activations(self.body, plan)
        found = self._run(leading_to(rounded, self._names))
        return float(
            np.mean([_decibels(self._wanted[name], found[name]) for name in self._names if self._wanted[name]])
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


_FLOOR = 1e-6


def _decibels(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    ratios = noise_to_signal(wanted, found, _channels(wanted[0]))
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
    noise: OutputNoise, plan: QuantPlan, layers: Sequence[Site], macs: Mapping[str, int], events: Events
) -> dict[str, str]:
    """The few layers that are better left in float, with the reason; none where the outputs' noise is tolerable.

    Such a layer brings much noise for little work: often the first ones, in which a few channels have a range many times that of the
    others and share its scale with them. layers: that may stay float. macs: by node, of all layers.
    """
    before = noise.sqnr_db(plan)
    if before >= _TOLERABLE_DB or len(layers) < 2:
        return {}
    total = max(sum(macs.values()), 1)
    floats: dict[str, str] = {}
    now, work = before, 0.0
    gains = {}
    suspects = _suspects(noise, plan, layers)
    for done, group in enumerate(suspects, start=1):
        gains[group] = noise.sqnr_db(_with_floats(plan, group)) - before
        events.progress("looking for layers that rounding hurts most", done, len(suspects))
    for group in sorted(suspects, key=lambda group: -gains[group]):
        left = [layer for layer in group if layer not in floats]
        share = sum(macs.get(layer, 0) for layer in left) / total
        if not left or now >= _ENOUGH_DB or work + share > MOST:
            continue
        found = noise.sqnr_db(_with_floats(plan, [*floats, *left]))
        if found - now >= _GAIN_DB * max(1.0, 100 * share):
            why = f"rounding costs the outputs {found - now:.1f} dB here, in {share:.1%} of the arithmetic"
            floats.update(dict.fromkeys(left, why))
            now, work = found, work + share
    for layer in _enclosed(noise.body.graph, [layer.node for layer in layers], floats, macs) if floats else ():
        share = macs.get(layer, 0) / total
        if work + share <= MOST:
            floats[layer] = (
                "it stands between layers that stay float, so that integers would cost a conversion on both sides"
            )
            work += share
    return floats


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


def _suspects(noise: OutputNoise, plan: QuantPlan, layers: Sequence[Site]) -> list[tuple[str, ...]]:
    """The layers that read or make a tensor, for the tensors with the least signal to noise: they are float together or not at all."""
    groups: dict[tuple[str, ...], None] = {}
    decibels = noise.channels_db(plan)
    for tensor in sorted(decibels, key=lambda tensor: decibels[tensor]):
        touching = tuple(layer.node for layer in layers if tensor in (*layer.inputs, layer.output))
        groups.update(dict.fromkeys([touching] if touching else []))
    return list(groups)[:_SUSPECTS]


def _with_floats(plan: QuantPlan, nodes: Collection[str]) -> QuantPlan:
    return replace(plan, float_nodes={**plan.float_nodes, **dict.fromkeys(nodes, "float")})
