"""Where a network can be left: modules whose output is all that the rest of the network reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressctl.core.model import TorchModel
from compressctl.graph.index import reads
from compressctl.graph.lower import lower
from compressctl.graph.macs import node_macs
from compressctl.graph.shapes import shapes
from compressctl.graph.torch_outputs import traced_shapes
from compressctl.layers.calls import calls_of


@dataclass(frozen=True)
class Place:
    """name: the module. share: of the network's multiply-accumulates, what is behind one when its output is there. whole: all of those, of one sample.
    shape: of the output, (n, ...). axis: of its channels, 1 or -1. also: other modules that give the same."""

    name: str
    share: float
    whole: int
    shape: tuple[int, ...]
    axis: int
    also: tuple[str, ...] = ()

    @property
    def features(self) -> int:
        return self.shape[self.axis]


def places(model: TorchModel) -> list[Place]:
    """In the order in which they run, one for each state of the network; what has computed nothing yet, and its end, are none."""
    made = _outputs(model)
    found: dict[str, tuple[float, str]] = {}
    alike: dict[str, list[str]] = {}
    whole, bottlenecks = _bottlenecks(model)
    for name, tensor, share in bottlenecks:
        alike.setdefault(tensor, []).extend([name] if name in made else [])
        shorter = found.get(tensor)
        if name in made and (shorter is None or name.count(".") < shorter[1].count(".")):
            found[tensor] = share, name
    by_share = {share: (name, tensor) for tensor, (share, name) in found.items() if 0 < share < 1}
    return [
        Place(
            name,
            share,
            whole,
            tuple(made[name].shape),
            channel_axis(model.body, made[name].shape),
            tuple(other for other in alike[tensor] if other != name),
        )
        for share, (name, tensor) in by_share.items()
    ]


_LATEST = 0.9
"""Share of the network behind which leaving early is not worth a head."""


def spread(candidates: Sequence[Place], count: int) -> list[Place]:
    """`count` of them, or all, whose shares divide the network most evenly. Those behind nearly all of it save nothing."""
    candidates = [place for place in candidates if place.share <= _LATEST]
    if len(candidates) <= count:
        return list(candidates)
    left, chosen = list(candidates), []
    for number in range(1, count + 1):
        # The last ones are needed by the exits that are still to come.
        within = left[: len(left) - (count - number)]
        best = min(within, key=lambda place: abs(place.share - number / (count + 1)))
        chosen.append(best)
        left = left[left.index(best) + 1 :]
    return chosen


def _outputs(model: TorchModel) -> dict[str, Tensor]:
    """By module that runs once: its output, where that is one tensor of floats with the samples along axis 0."""
    found = {
        name: _only_tensor(calls[0][2])
        for name, calls in calls_of(model.body, _inputs(model)).items()
        if name and len(calls) == 1
    }
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _only_tensor(output: object) -> Tensor | None:
    if isinstance(output, list | tuple) and len(output) == 1:
        output = output[0]
    if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1 and output.shape[0] == _SAMPLES:
        return output
    return None


_SAMPLES = 2


def _inputs(model: TorchModel) -> list[Tensor]:
    """Ones, since a mask of zeros lets nothing through."""
    specs = model.signature.inputs
    return [
        torch.ones(shape, dtype=getattr(torch, spec.dtype))
        for spec, shape in zip(specs, traced_shapes(specs, _SAMPLES), strict=True)
    ]


def channel_axis(network: nn.Module, shape: Sequence[int]) -> int:
    """Of the channels of features (n, ...): -1 where a normalization over the last axis has its size, as in transformers (LayerNorm, RMSNorm, and what their networks call so); 1 elsewhere."""
    by_channel = (_BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)
    norms = [
        module
        for module in network.modules()
        if type(module).__name__.endswith("Norm") and not isinstance(module, by_channel)
    ]
    weights = [weight for module in norms for weight in module.parameters(recurse=False)]
    sizes = {weight.shape[-1] for weight in weights}
    return -1 if shape[-1] in sizes or len(shape) == 2 else 1


def _bottlenecks(model: TorchModel) -> tuple[int, list[tuple[str, str, float]]]:
    """The network's multiply-accumulates, and modules behind which a single tensor is still read that anything was multiplied for: module, tensor and the share of
    what came before."""
    proto = lower(model).body
    graph = proto.graph
    given = dict(
        zip((spec.name for spec in model.signature.inputs), traced_shapes(model.signature.inputs, 1), strict=True)
    )
    known = shapes(proto, inputs=given)
    spent = [node_macs(node, known) or 0 for node in graph.node]
    whole = sum(spent) or 1
    computed, last_read = _computed(graph, spent), _last_reads(graph)
    names = {name for name, _ in model.body.named_modules() if name}
    under = [_modules(node.name, names) for node in graph.node]
    ends = {name: place for place, own in enumerate(under) for name in own}
    found, live, before = [], set[str](), 0
    for place, node in enumerate(graph.node):
        before += spent[place]
        live |= {name for name in node.output if name in computed and last_read.get(name, -1) > place}
        live = {name for name in live if last_read[name] > place}
        if len(live) != 1:
            continue
        (tensor,) = live
        found += [
            (name, tensor, before / whole) for name in under[place] if ends[name] == place and tensor in node.output
        ]
    return whole, found


def _computed(graph: onnx.GraphProto, spent: Sequence[int]) -> set[str]:
    """Tensors that something was multiplied for, or looked up in a table of weights: masks and positions are not among them."""
    tables = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1}
    found: set[str] = set()
    for node, macs in zip(graph.node, spent, strict=True):
        if macs or (found | tables) & set(reads(node)):
            found |= set(node.output)
    return found


def _last_reads(graph: onnx.GraphProto) -> Mapping[str, int]:
    found = {name: place for place, node in enumerate(graph.node) for name in reads(node)}
    return found | {output.name: len(graph.node) for output in graph.output}


def _modules(node: str, names: set[str]) -> list[str]:
    """The module that a node is called after, and those around it."""
    path = node.split("/")[0]
    if path not in names:
        path = re.sub(r"_\d+$", "", path)
    parts = path.split(".")
    return [way for length in range(1, len(parts) + 1) if (way := ".".join(parts[:length])) in names]
