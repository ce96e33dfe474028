"""One of a model's outputs, by its name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compressctl.core.errors import UsageError


def output_named(outputs: Mapping[str, np.ndarray], name: str | None) -> np.ndarray:
    """The output of that name, the first without one. Raises UsageError where there is none."""
    if name is None:
        return next(iter(outputs.values()))
    if name not in outputs:
        raise UsageError(f"the model has no output {name!r} to decode", hint=f"it has {', '.join(outputs)}")
    return outputs[name]
