"""The same architecture with fewer channels in every layer that can lose some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from compressctl.core.errors import NothingToCompressError
from compressctl.layers.channels.dependency_groups import Group, find_coupling, nearest_width, permitted_widths
from compressctl.layers.channels.surgery import cut, removal
from compressctl.layers.channels.verify_group import proven
from compressctl.layers.channels.weights import channel_norms

_STEP = 8
"""Widths become multiples of it, narrow ones of half of it."""

_NARROW = 32


@dataclass(frozen=True)
class Shrunk:
    """widths: "32 -> 16" by the first layer of each group that shares a width. whole: why others kept theirs."""

    network: nn.Module
    widths: Mapping[str, str]
    whole: Mapping[str, str]


def shrink(network: nn.Module, inputs: Sequence[Tensor], share: float) -> Shrunk:
    """A copy with the share of channels that is largest in every group of layers that share a width.

    The size of a channel is the L2 norm of its weights in all layers of its group.
    Raises NothingToCompressError when nothing can be cut.
    """
    coupling = proven(find_coupling(network, inputs), network, inputs)
    kept = {group.name: kept_units(group, share) for group in coupling.groups}
    smaller = [group for group in coupling.groups if kept[group.name] < group.units]
    if not smaller:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(coupling.fixed.items())[:3])
        raise NothingToCompressError(
            f"no layer of the teacher can lose channels{f' ({reasons})' if reasons else ''}",
            hint="give the student by `factory`",
        )
    weakest = {group.name: np.argsort(channel_norms(network, group, 2), kind="stable") for group in smaller}
    units = {group.name: weakest[group.name][: group.units - kept[group.name]] for group in smaller}
    widths = {group.name: f"{group.width} -> {kept[group.name] * group.width // group.units}" for group in smaller}
    return Shrunk(cut(network, removal(smaller, units)), widths, coupling.fixed)


def kept_units(group: Group, share: float) -> int:
    """About this share of a group's units: channels in multiples of 8, of 4 below 32, and never more than there are."""
    step = _STEP // 2 if share * group.width < _NARROW else _STEP
    return nearest_width(permitted_widths(group, step, 0.0), share * group.units)
