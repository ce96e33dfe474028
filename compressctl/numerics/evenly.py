"""Some of many, evenly spread."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def evenly(values: Sequence[int], most: int) -> list[int]:
    """At most so many of them in their order, evenly spread, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, most)]
