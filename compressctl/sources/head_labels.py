"""Labels of several heads as one array: a field for each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compressctl.core.errors import UsageError


def join_heads(labels: Mapping[str, np.ndarray], place: str) -> np.ndarray:
    """(n,) with a field for each head, of its labels' dtype and shape. labels: by head, (n, ...).

    Raises UsageError where they are of different length.
    """
    sizes = {name: len(values) for name, values in labels.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise UsageError(f"{place}: heads have labels for different numbers of samples: {shown}")
    joined = np.empty(
        next(iter(sizes.values()), 0), dtype=[(name, values.dtype, values.shape[1:]) for name, values in labels.items()]
    )
    for name, values in labels.items():
        joined[name] = values
    return joined
