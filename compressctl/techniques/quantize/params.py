"""What `quantize.*` stages can be told. Light: recipes are checked against this without numpy or a runtime."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.technique import ModelFacts, Need, TechniqueSpec

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]


class Override(BaseModel):
    """Another treatment for the nodes that a pattern matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(
        description="shell-style pattern over node names, weight names and operator types; matching nothing is an error",
        min_length=1,
    )
    weights: Literal["int8", "float"] | None = Field(None, description="float keeps the node out of quantization")
    ranges: RangeMethod | None = Field(None, description="how the output's range is chosen")


class StaticParams(BaseModel):
    """quantize.static: 8-bit weights and activations with ranges fixed by calibration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ranges: RangeMethod = Field(
        "percentile",
        description="how an activation's range is chosen from calibration: everything seen (minmax), without the tails "
        "(percentile), nearest distribution (entropy), least squared error (mse)",
    )
    percentile: float = Field(99.999, gt=50, le=100, description="share of values, in percent, that `percentile` keeps")
    per_channel: bool = Field(True, description="a scale for each output channel of a weight instead of one for all")
    saturation_guard: Literal["auto", "pairs", "reduce_range", "off"] = Field(
        "auto",
        description="on processors that add pairs of 8-bit products in 16 bits: limit each channel just so that no pair "
        "can overflow (pairs), or store weights in 7 bits (reduce_range); auto is pairs where the target needs it",
    )
    bias_correction: bool = Field(True, description="take the mean error that rounded weights cause out of the biases")
    overrides: tuple[Override, ...] = Field((), description="exceptions by pattern, later ones win")


def check_static(params: StaticParams, facts: ModelFacts) -> list[Problem]:
    if facts.quantized:
        return [
            Problem(
                "the model is already quantized by an earlier stage",
                path="use",
                hint="quantize once; use `overrides` to treat parts differently",
            )
        ]
    return []


STATIC = TechniqueSpec(
    name="quantize.static",
    version=2,
    summary="8-bit integers for weights and activations, ranges fixed by calibration",
    params=StaticParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    implementation="compressctl.techniques.quantize.static:apply",
    needs=frozenset({Need.CALIBRATION_DATA}),
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    bisects=True,
    sources=(
        "Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        "Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, section 4.2",
    ),
    check=check_static,
)
