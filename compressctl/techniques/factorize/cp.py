"""factorize.cp: depthwise convolutions between two 1 x 1 convolutions in the place of one."""

from __future__ import annotations

import math
from functools import partial

from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.layer import Layer
from compressctl.techniques.factorize._cp_split import cp_split
from compressctl.techniques.factorize._factorize import factorize
from compressctl.techniques.factorize._splits import Way
from compressctl.techniques.factorize.params import CpParams


def apply(model: Model, params: CpParams, run: RunContext) -> StageResult:
    return factorize(model, params, run, lambda one: _ways(one.layer, split_kernel=params.split_kernel))


def _ways(layer: Layer, *, split_kernel: bool) -> list[Way]:
    kernel = layer.outline.kernel
    if math.prod(kernel) == 1:
        return []
    return [Way(layer, "cp", partial(cp_split, split_kernel=split_kernel), (1,) * len(kernel))]
