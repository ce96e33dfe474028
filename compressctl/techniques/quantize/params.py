"""What `quantize.*` stages can be told. Light: recipes are checked against this without numpy or a runtime."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import ModelFacts, TechniqueSpec

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]


class Override(BaseModel):
    """Another treatment for the nodes that a pattern matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(
        description="shell-style pattern over node names, weight names and operator types; matching nothing is an error",
        min_length=1,
    )
    weights: Literal["int8", "int4", "float"] | None = Field(
        None, description="another width of the weights; float keeps the node out of quantization"
    )
    ranges: RangeMethod | None = Field(None, description="how the output's range is chosen")


class StaticParams(TechniqueParams):
    """quantize.static: weights of 8 or 4 bits and 8-bit activations with ranges fixed by calibration."""

    ranges: RangeMethod = Field(
        "percentile",
        description="how an activation's range is chosen from calibration: everything seen (minmax), without the tails "
        "(percentile), nearest distribution (entropy), least squared error (mse)",
    )
    percentile: float = Field(99.999, gt=50, le=100, description="share of values, in percent, that `percentile` keeps")
    weights: Literal["int8", "int4"] = Field(
        "int8",
        description="width of the weights; int4 are codes from -8 to 7 on the scale of least squared error, which integer "
        "kernels multiply as 8 bits: a plain file holds one to a byte, `storage: compressed` two",
    )
    rounding: Literal["nearest", "adaround"] = Field(
        "nearest",
        description="to the nearest code, or up or down as each layer's output on calibration data asks for (adaround): "
        "what 4 bits need; takes a run of the calibration split and some learning per layer",
    )
    rounding_steps: int = Field(2000, ge=1, description="adaround: steps of learning per layer")
    per_channel: bool = Field(True, description="a scale for each output channel of a weight instead of one for all")
    saturation_guard: Literal["auto", "pairs", "reduce_range", "off"] = Field(
        "auto",
        description="on processors that add pairs of 8-bit products in 16 bits: limit each channel just so that no pair "
        "can overflow (pairs), or store weights in 7 bits (reduce_range); auto is pairs where the target needs it",
    )
    equalize: bool = Field(
        False,
        description="give the channels between two convolutions, or two Gemm, equal weight ranges first; Clip (ReLU6) "
        "between them forbids it",
    )
    smoothquant_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="SmoothQuant's alpha, 0.5 for most: how much of activations' outliers the weights of matrix products "
        "take over; needs a calibration split. Default: none",
    )
    bias_correction: Literal["layerwise"] | bool = Field(
        True,
        description="take the mean error that rounding causes out of the biases: by the float network's inputs in one run "
        "(true), or layer by layer with the inputs that the quantized network has there (layerwise, what adaround always does)",
    )
    overrides: tuple[Override, ...] = Field((), description="exceptions by pattern, later ones win")

    def needs(self) -> Needs:
        """The target decides the saturation guard."""
        return super().needs() | Needs.of(Need.CALIBRATION_DATA, reads=(Need.TARGET,))


Bits = Literal[8, 4, 3, 2]
WeightMethod = Literal["rtn", "gptq", "awq", "hqq"]
Granularity = Literal["tensor", "channel", "group"]


class WeightOverride(BaseModel):
    """Another treatment for the weights of the nodes that a pattern matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(
        description="shell-style pattern over node names, weight names and operator types; matching nothing is an error",
        min_length=1,
    )
    bits: Bits | Literal["float"] | None = Field(None, description="another width; float leaves the weight as it is")
    method: WeightMethod | None = Field(None, description="another way to round")
    symmetric: bool | None = Field(None, description="codes around zero, or with a zero point")
    granularity: Granularity | None = Field(None, description="how many weights share a scale")
    group_size: int | None = Field(None, ge=16, description="weights of a row that share a scale; a power of two")

    @field_validator("group_size")
    @classmethod
    def _power_of_two(cls, value: int | None) -> int | None:
        return value if value is None else _checked_group(value)


class WeightsParams(TechniqueParams):
    """quantize.weights: weights alone in 8 to 2 bits, activations left as they are."""

    bits: Bits = Field(
        4, description="of each weight; 3 are computed with 3-bit numbers and stored in 4, since no runtime reads 3"
    )
    method: WeightMethod = Field(
        "rtn",
        description="round to nearest (rtn); make each rounding error good in the columns that follow (gptq); scale "
        "input channels so that important weights are rounded finely (awq); fit the grid to all but the outliers, "
        "without data (hqq)",
    )
    symmetric: bool = Field(False, description="codes around zero, without zero points")
    granularity: Granularity = Field(
        "group",
        description="how many weights share a scale: all of a tensor, an output channel's, or a group of its inputs; "
        "convolutions take at least a whole channel",
    )
    group_size: int = Field(32, ge=16, description="weights of a row that share a scale; a power of two")
    clip_search: bool = Field(True, description="search each range for the least squared error instead of covering all")
    damping: float = Field(
        0.01, gt=0, le=1, description="gptq: share of the Hessian's mean diagonal that is added to it"
    )
    act_order: bool = Field(True, description="gptq: columns with the largest inputs first; the stored order stays")
    propagate_error: bool = Field(
        False,
        description="gptq: calibrate each layer behind the layers that are already rounded; takes a run per layer",
    )
    overrides: tuple[WeightOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    def needs(self) -> Needs:
        """GPTQ and AWQ look at what each layer is given, for all weights or for those of an override."""
        methods = {self.method, *(override.method for override in self.overrides)}
        return super().needs() | Needs.of(*((Need.CALIBRATION_DATA,) if methods & {"gptq", "awq"} else ()))

    @field_validator("group_size")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        return _checked_group(value)


class DynamicOverride(BaseModel):
    """Another treatment for the nodes that a pattern matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(
        description="shell-style pattern over node names, weight names and operator types; matching nothing is an error",
        min_length=1,
    )
    weights: Literal["int8", "float"] = Field(description="float keeps the node out of quantization")


class DynamicParams(TechniqueParams):
    """quantize.dynamic: 8-bit weights, and activations in 8 bits by the range that each inference shows."""

    per_channel: bool = Field(True, description="a scale for each output of a weight instead of one for all")
    saturation_guard: Literal["auto", "pairs", "reduce_range", "off"] = Field(
        "auto",
        description="on processors that add pairs of 8-bit products in 16 bits: limit each channel just so that no pair "
        "can overflow (pairs), or store weights in 7 bits (reduce_range); auto is pairs where the target needs it",
    )
    embeddings: Literal["int8", "int4", "float"] = Field(
        "int8", description="of embeddings' tables: int8 with one scale per entry, int4 in groups of 32, or float"
    )
    smoothquant_alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="SmoothQuant's alpha, 0.5 for most: how much of activations' outliers the weights of matrix products "
        "take over; needs a calibration split. Default: none",
    )
    overrides: tuple[DynamicOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    def needs(self) -> Needs:
        """SmoothQuant looks at the largest activations; the target decides the saturation guard."""
        seen = () if self.smoothquant_alpha is None else (Need.CALIBRATION_DATA,)
        return super().needs() | Needs.of(*seen, reads=(Need.TARGET,))


def check_dynamic(params: DynamicParams, facts: ModelFacts) -> list[Problem]:
    return _already_quantized(facts)


def _checked_group(value: int) -> int:
    if value & (value - 1):
        nearest = 1 << round(value.bit_length() - 0.5)
        raise ValueError(f"{value} is not a power of two, which kernels need; the next is {nearest}")
    return value


def check_weights(params: WeightsParams, facts: ModelFacts) -> list[Problem]:
    return _already_quantized(facts)


def check_static(params: StaticParams, facts: ModelFacts) -> list[Problem]:
    return _already_quantized(facts)


def _already_quantized(facts: ModelFacts) -> list[Problem]:
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
    version=4,
    summary="integers for weights (8 or 4 bits) and activations (8 bits), ranges fixed by calibration",
    params=StaticParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    implementation="compressctl.techniques.quantize.static:apply",
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    bisects=True,
    sources=(
        "Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        "Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, sections 4.1, 4.2",
        "Xiao et al. 2022, SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
        "Nagel et al. 2020, Up or Down? Adaptive Rounding for Post-Training Quantization, equations 21 to 25",
    ),
    check=check_static,
    promises_speed=True,
)

WEIGHTS = TechniqueSpec(
    name="quantize.weights",
    version=2,
    summary="weights alone in 8, 4, 3 or 2 bits, embeddings and tied weights included",
    params=WeightsParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    implementation="compressctl.techniques.quantize.weights:apply",
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    bisects=True,
    sources=(
        "Frantar et al. 2022, GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
        "Lin et al. 2023, AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration",
        "Badri and Shaji 2023, Half-Quadratic Quantization of Large Machine Learning Models",
    ),
    check=check_weights,
)

DYNAMIC = TechniqueSpec(
    name="quantize.dynamic",
    version=2,
    summary="8-bit weights, and activations quantized while the model runs: for transformers, without calibration",
    params=DynamicParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    implementation="compressctl.techniques.quantize.dynamic:apply",
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    bisects=True,
    sources=("ONNX, operator DynamicQuantizeLinear-11", "Zafrir et al. 2019, Q8BERT: Quantized 8Bit BERT"),
    check=check_dynamic,
    promises_speed=True,
)
