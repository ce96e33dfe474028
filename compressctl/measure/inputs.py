"""Random inputs that fit a signature: for timing, and for comparing two forms of a model where there is no data."""

from __future__ import annotations

import numpy as np

from compressctl.core.model import Signature
from compressctl.measure.served import concrete


def random_inputs(signature: Signature, batch: int) -> dict[str, np.ndarray]:
    """Standard normal values for floats, ones for integers; the same every time."""
    rng = np.random.default_rng(0)
    inputs = {}
    for spec in signature.inputs:
        shape = concrete(spec, batch)
        values = rng.standard_normal(shape) if spec.dtype.startswith("float") else np.ones(shape)
        inputs[spec.name] = values.astype(spec.dtype)
    return inputs
