"""The quantized part of a graph as the clock sees it: what can be put in float, what takes the same time, where conversions stand."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import onnx

from compressctl.graph.macs import node_macs
from compressctl.graph.shapes import LARGEST_READ, Shape, shapes
from compressctl.graph.sites import Kind, Site, find_sites

Placement = frozenset[str]
"""The nodes that compute in float of those that could compute in integers."""

_MOST_KINDS = 24
"""Kinds of layers that are told apart: each is timed. The smaller ones are one kind for each operator."""

_OPERATIONS_PER_VALUE = 32
"""What reading, rounding and writing a value costs, in multiply-accumulates. It only ranks layers by what they may bring."""


@dataclass(frozen=True)
class Unit:
    """A node that rounds. kind: equal for nodes that take the same time. work: about, in multiply-accumulates."""

    node: str
    kind: Hashable
    work: float


@dataclass(frozen=True)
class Link:
    """Codes that one unit makes and another reads, perhaps past nodes that move values. values: how many."""

    maker: str
    reader: str
    values: int


@dataclass(frozen=True)
class Regions:
    """units: by node, in graph order. graph: whose sites they are. floats: nodes that stay float whatever is chosen."""

    units: Mapping[str, Unit]
    links: tuple[Link, ...]
    graph: onnx.GraphProto
    floats: frozenset[str] = frozenset()

    @cached_property
    def everything(self) -> Placement:
        return frozenset(self.units)

    @cached_property
    def kinds(self) -> dict[Hashable, Placement]:
        """Nodes by kind, those with the most work first."""
        members: dict[Hashable, list[Unit]] = defaultdict(list)
        for unit in self.units.values():
            members[unit.kind].append(unit)
        ordered = sorted(members.items(), key=lambda entry: -sum(unit.work for unit in entry[1]))
        return {kind: frozenset(unit.node for unit in units) for kind, units in ordered}

    @cached_property
    def place(self) -> dict[str, int]:
        """Of each unit in the graph's order."""
        return {node: number for number, node in enumerate(self.units)}

    def closed(self, floats: Collection[str]) -> Placement:
        """With the units that then compute in float as well: what combines values does where none of them is an integer."""
        left = {site.node for site in find_sites(self.graph, self.floats | frozenset(floats))}
        return frozenset(node for node in self.units if node not in left)

    def parts(self, nodes: Collection[str]) -> list[Placement]:
        """The nodes in groups that stand together, in graph order."""
        group = {node: node for node in nodes}

        def root(node: str) -> str:
            while group[node] != node:
                node = group[node]
            return node

        for link in self.links:
            if link.maker in group and link.reader in group:
                group[root(link.reader)] = root(link.maker)
        members: dict[str, list[str]] = defaultdict(list)
        for node in self.ordered(nodes):
            members[root(node)].append(node)
        return [frozenset(part) for part in members.values()]

    def ordered(self, nodes: Iterable[str]) -> list[str]:
        return sorted(nodes, key=self.place.__getitem__)

    def work(self, nodes: Iterable[str]) -> float:
        return sum(self.units[node].work for node in nodes)


def find_regions(
    body: onnx.ModelProto,
    sites: Sequence[Site],
    floats: Collection[str],
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> Regions:
    """sites: that compute in integers unless the clock says otherwise. inputs: shapes of the call that is timed, where they are this graph's."""
    is_own = bool(inputs) and set(inputs or {}) == {value.name for value in body.graph.input}
    known = shapes(body, inputs=inputs if is_own else None)
    active = {site.node for site in find_sites(body.graph, floats)}
    rounding = [site for site in sites if site.kind is not Kind.MOVE and site.node in active]
    units = _units(body.graph, rounding, known)
    return Regions(units, _links(sites, units, known), _without_weights(body.graph), frozenset(floats))


def _without_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    """With large constants of no elements and their rank, which is all that finding sites asks of them, many times."""
    light = onnx.GraphProto(node=graph.node, input=graph.input, output=graph.output)
    for tensor in graph.initializer:
        is_large = math.prod(tensor.dims) > LARGEST_READ
        light.initializer.append(
            onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0] * len(tensor.dims))
            if is_large
            else tensor
        )
    return light


def _units(graph: onnx.GraphProto, sites: Sequence[Site], known: Mapping[str, Shape]) -> dict[str, Unit]:
    nodes = {node.name: node for node in graph.node}
    makers = {site.output for site in sites}
    units = {
        site.node: Unit(site.node, _kind(nodes[site.node], site, known, makers), _work(nodes[site.node], known))
        for site in sites
    }
    work: dict[Hashable, float] = defaultdict(float)
    for unit in units.values():
        work[unit.kind] += unit.work
    told_apart = set(sorted(work, key=lambda kind: -work[kind])[:_MOST_KINDS])
    return {
        node: unit if unit.kind in told_apart else replace(unit, kind=(nodes[node].op_type,))
        for node, unit in units.items()
    }


def _kind(node: onnx.NodeProto, site: Site, known: Mapping[str, Shape], makers: Collection[str]) -> Hashable:
    """Operator, attributes and shapes, and which of the inputs are integers before."""
    attributes = tuple(sorted(entry.SerializeToString() for entry in node.attribute))
    sizes = tuple(known.get(name) for name in (*node.input, site.output))
    return (
        node.op_type,
        attributes,
        sizes,
        site.folded is not None,
        site.needs_output,
        tuple(name in makers for name in site.inputs),
    )


def _work(node: onnx.NodeProto, known: Mapping[str, Shape]) -> float:
    values = sum(_values(known.get(name)) for name in (node.input[0], node.output[0]))
    return float(node_macs(node, known) or 0) + _OPERATIONS_PER_VALUE * values


def _values(shape: Shape | None) -> int:
    return math.prod(size or 1 for size in shape) if shape else 1


def _links(sites: Sequence[Site], units: Mapping[str, Unit], known: Mapping[str, Shape]) -> tuple[Link, ...]:
    made_by: dict[str, str] = {}
    links = []
    for site in sites:
        makers = [(made_by[name], name) for name in site.inputs if name in made_by]
        if site.kind is Kind.MOVE:
            if makers:
                made_by[site.output] = makers[0][0]
        elif site.node in units:
            links += [Link(maker, site.node, _values(known.get(name))) for maker, name in makers]
            if site.needs_output:
                made_by[site.output] = site.node
    return tuple(links)
