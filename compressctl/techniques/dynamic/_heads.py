"""How large the heads of exits are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from compressctl.sources.modules.exit_heads import ConvHead
from compressctl.techniques.dynamic._places import Place


def stride_of(place: Place) -> int:
    """Of a head's first convolution, so that what it makes is about as large as a few of its kernels; 0 for what is no map."""
    if len(place.shape) != 4 or place.axis != 1:
        return 0
    return int(np.clip(max(place.shape[2:]) // _MAP, 1, _LARGEST_STRIDE))


_MAP, _LARGEST_STRIDE = 8, 8


def width_of(chosen: Sequence[Place], asked: Literal["auto"] | int) -> int:
    """Channels of all heads' first convolutions: as many as keep the dearest head at a twentieth of the network's arithmetic."""
    if asked != "auto":
        return asked
    widths = range(_NARROWEST, _WIDEST + 1, _NARROWEST)
    kept = (width for width in widths if all(head_macs(place, width) <= _HEAD * place.whole for place in chosen))
    return max(kept, default=_NARROWEST)


_NARROWEST, _WIDEST, _HEAD = 8, 128, 0.05


def head_macs(place: Place, width: int) -> int:
    """Of one sample; 0 for what is no map, whose heads have no convolutions."""
    stride = stride_of(place)
    return 0 if not stride else ConvHead.macs(place.features, (place.shape[2], place.shape[3]), width, stride)
