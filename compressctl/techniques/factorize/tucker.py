"""factorize.tucker: a small convolution between two 1 x 1 convolutions in the place of one."""

from __future__ import annotations

import math

from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.layer import Layer
from compressctl.techniques.factorize._factorize import factorize
from compressctl.techniques.factorize._splits import Way
from compressctl.techniques.factorize._tucker_split import tucker_split
from compressctl.techniques.factorize.params import TuckerParams


def apply(model: Model, params: TuckerParams, run: RunContext) -> StageResult:
    return factorize(model, params, run, lambda one: _ways(one.layer))


def _ways(layer: Layer) -> list[Way]:
    kernel = layer.outline.kernel
    return [Way(layer, "tucker", tucker_split, (1,) * len(kernel))] if math.prod(kernel) > 1 else []
