"""Proof that a coupling is right: cutting half of the channels must compute what zeroing them computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.graph.torch_outputs import named_outputs
from compressctl.techniques.prune.coupling import OUTPUT, Coupling, Group
from compressctl.techniques.prune.surgery import cut, mask, removal

_TOLERANCE = 1e-3
"""Float32 sums in another order differ by some 1e-6 of the largest output; a wrong coupling moves it by its own size."""


def proven(coupling: Coupling, network: nn.Module, inputs: Sequence[Tensor]) -> Coupling:
    """The groups that can be cut without any other effect; the others become fixed, with what went wrong as the reason.

    All groups are tried at once; only when that fails, one by one.
    """
    shaken = _shaken(network)
    if not coupling.groups or _fault(shaken, coupling.groups, inputs) is None:
        return coupling
    good: list[Group] = []
    fixed = dict(coupling.fixed)
    for group in coupling.groups:
        fault = _fault(shaken, [group], inputs) or (_fault(shaken, [*good, group], inputs) if good else None)
        if fault is None:
            good.append(group)
        else:
            fixed.update(dict.fromkeys(group.layers, fault))
    return replace(coupling, groups=tuple(good), fixed=fixed)


def _fault(network: nn.Module, groups: Sequence[Group], inputs: Sequence[Tensor]) -> str | None:
    """What is wrong with cutting a random half of these groups, None when nothing is."""
    generator = np.random.default_rng(0)
    units = {group.name: generator.permutation(group.units)[: group.units // 2] for group in groups}
    gone = removal(groups, units)
    expected = _outputs(network, inputs)
    try:
        smaller = cut(network, gone)
        found = _outputs(smaller, inputs)
        reference = _outputs(mask(network, gone), inputs)
    except Exception as error:
        line = next(iter(str(error).splitlines()), "")[:160]
        return f"its width is written into the network's code or tied to something unknown ({line})"
    if [value.shape for value in found] != [value.shape for value in expected]:
        return OUTPUT
    for ours, theirs in zip(found, reference, strict=True):
        if not torch.allclose(ours, theirs, rtol=0, atol=_TOLERANCE * max(1e-3, float(theirs.abs().max()))):
            return "removing its channels would change others too: something between the layers mixes or moves channels"
    return None


def _outputs(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [value.float() for value in named_outputs(network(*inputs)).values()]


def _shaken(network: nn.Module) -> nn.Module:
    """A copy in which no weight is zero or equals its neighbour, so that every wrong coupling shows in the outputs."""
    shaken = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in shaken.parameters():
            if parameter.is_floating_point():
                spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.3 * spread or 0.1))
    return shaken
