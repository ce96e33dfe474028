"""One scale for everything that a concatenation joins, where that costs little: joining is then copying, in every runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from compressctl.core.quant import TensorQuant
from compressctl.graph.codes import range_of
from compressctl.graph.sites import Kind, Site, readers_past_moves
from compressctl.numerics.affine import asymmetric

_WIDEST = 16.0
"""Sharing may cost four bits: the error that a tensor gains by it is then still the one that its neighbours' codes have, which it meets
in the same products."""

_WIDEST_TO_JOIN = 2.0
"""In ONNX Runtime one bit, since it joins tensors of several scales nearly as fast, and what reads a tensor before it is joined would
meet the error too."""


def share_scales(plan: Mapping[str, TensorQuant], sites: Sequence[Site], backend: str) -> dict[str, TensorQuant]:
    """The plan with uint8 tensors that meet in Concat, directly or through one another, quantized alike.

    A tensor keeps its own scale when it is much narrower than the group, and all do when the common range would let through
    what a folded Relu cuts off.
    """
    widest = _WIDEST_TO_JOIN if backend == "onnxruntime" else _WIDEST
    shared = dict(plan)
    made_by = {site.output: site for site in sites}
    for group in _groups(sites):
        bounds = {tensor: range_of(plan[tensor]) for tensor in group if tensor in plan}
        if len(bounds) < 2 or any(plan[tensor].dtype != "uint8" for tensor in bounds):
            continue
        low, high = min(bound[0] for bound in bounds.values()), max(bound[1] for bound in bounds.values())
        members = [tensor for tensor, bound in bounds.items() if widest * (bound[1] - bound[0]) >= high - low]
        cut = [made_by[tensor].clip[0] for tensor in members if tensor in made_by and made_by[tensor].folded]
        if any(low < bound for bound in cut):
            continue
        scale, zero_point = asymmetric(low, high)
        common = TensorQuant("uint8", np.asarray(scale), np.asarray(zero_point, dtype=np.uint8))
        shared.update(dict.fromkeys(members, common))
    return shared


def too_narrow(
    plan: Mapping[str, TensorQuant], sites: Sequence[Site], macs: Mapping[str, int], most: float
) -> dict[str, str]:
    """Sites that stay float, with the reason: a Concat whose codes a much narrower input would lose its signal in, such as scores
    beside boxes in pixels, and what reads it.

    plan: each tensor by its own range. macs: of sites, by node; readers that take more than the share `most` of these are rounded still.
    """
    floats: dict[str, str] = {}
    for site in sites:
        if site.op != "Concat" or any(tensor not in plan for tensor in (*site.inputs, site.output)):
            continue
        low, high = range_of(plan[site.output])
        spans = {tensor: bound[1] - bound[0] for tensor in site.inputs for bound in [range_of(plan[tensor])]}
        narrowest = min(spans, key=lambda tensor: spans[tensor])
        if _WIDEST * spans[narrowest] >= high - low:
            continue
        readers = readers_past_moves(site.output, sites)
        if sum(macs.get(reader, 0) for reader in readers) <= most * sum(macs.values()):
            why = f"shared scale: {narrowest} would have {255 * spans[narrowest] / (high - low):.0f} of the 255 steps of {site.output}"
            floats |= dict.fromkeys([site.node, *readers], why)
    return floats


def _groups(sites: Sequence[Site]) -> list[list[str]]:
    """Tensors joined by Concat, and by what moves values and so keeps their scale."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for site in sites:
        if site.op == "Concat" or site.kind is Kind.MOVE:
            for tensor in site.inputs:
                parent[root(tensor)] = root(site.output)
    joined = {root(site.output) for site in sites if site.op == "Concat"}
    groups: dict[str, list[str]] = {}
    for name in list(parent):
        if root(name) in joined:
            groups.setdefault(root(name), []).append(name)
    return list(groups.values())
