"""factorize.svd: two layers of a low rank in the place of one."""

from __future__ import annotations

from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.layers.layer import Layer
from compressctl.techniques.factorize._factorize import factorize
from compressctl.techniques.factorize._splits import Way
from compressctl.techniques.factorize._svd_split import ChannelSplit, SpatialSplit
from compressctl.techniques.factorize.params import SvdParams


def apply(model: Model, params: SvdParams, run: RunContext) -> StageResult:
    return factorize(model, params, run, lambda one: _ways(one.layer, one.conv or "auto"))


def _ways(layer: Layer, conv: str) -> list[Way]:
    kernel = layer.outline.kernel
    if layer.is_linear:
        return [Way(layer, "channel", ChannelSplit.of)]
    if conv == "skip":
        return []
    spatial = [Way(layer, "spatial", SpatialSplit.of, (kernel[0], 1))] if len(kernel) == 2 and min(kernel) > 1 else []
    channel = [Way(layer, "channel", ChannelSplit.of, kernel)]
    if conv == "spatial":
        return spatial or channel
    return channel if conv == "channel" else [*spatial, *channel]
