"""One of a model's outputs, by its name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compressctl.core.errors import UsageError


def output_named(outputs: Mapping[str, np.ndarray], name: str | None) -> np.ndarray:
    """The output of that name, the first without one. Raises UsageError where there is none."""
    if name is None:
        name = next(iter(outputs))
    if name not in outputs:
        raise UsageError(f"the model has no output {name!r} to decode", hint=f"it has {', '.join(outputs)}")
    found = outputs[name]
    if found.dtype.kind not in "biuf":
        raise UsageError(
            f"the output {name} holds no numbers ({found.dtype.name}), and a decoder reads numbers",
            hint="name another output with `output`",
        )
    return found
