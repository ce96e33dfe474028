"""What `quantize.qat` can be told. Light: recipes are checked against this without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs
from compressctl.core.technique import TechniqueSpec
from compressctl.techniques.quantize.params import RangeMethod
from compressctl.techniques.quantize.trained_params import TrainedParams, check_trained

WeightType = Literal["int8", "int4", "int2"]


class QatOverride(BaseModel):
    """Another treatment for the layers that a pattern matches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    match: str = Field(
        description="shell-style pattern over layer names, weight names and operator types; matching nothing is an error",
        min_length=1,
    )
    weights: WeightType | Literal["float"] | None = Field(
        None, description="another width; float keeps the layer out of quantization"
    )
    ranges: RangeMethod | None = Field(None, description="how the output's first range is chosen")


class QatParams(TrainedParams):
    """quantize.qat: the network is trained with weights and activations rounded as the exported file will round them."""

    weights: WeightType = Field(
        "int8",
        description="how weights are rounded, a scale for each output channel: -127 to 127 (int8), -7 to 7 (int4), -1 to 1 "
        "(int2). Computed with in 8 bits whatever they are, so that fewer bits make files smaller, not faster",
    )
    first_and_last: Literal["int8", "same"] = Field(
        "int8", description="weights of the first and the last layer: 8 bits, as is usual, or like all others"
    )
    learn_scales: bool = Field(
        True,
        description="train the scales of activations, and of weights in fewer than 8 bits, too (LSQ); without, and in 8 bits, "
        "a weight's scale follows its channel's largest value, and activations keep their calibrated ranges",
    )
    ranges: RangeMethod = Field(
        "percentile", description="how activations' ranges are chosen from calibration, where training begins"
    )
    percentile: float = Field(99.999, gt=50, le=100, description="share of values, in percent, that `percentile` keeps")
    overrides: tuple[QatOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    def needs(self) -> Needs:
        """What training needs, and what quantize.static does: the network is calibrated before and after. It is scored too."""
        return super().needs() | Needs.of(Need.CALIBRATION_DATA, reads=(Need.TARGET, Need.SCORE))


QAT = TechniqueSpec(
    name="quantize.qat",
    version=1,
    summary="training with weights and activations rounded as the exported file will round them, in 8, 4 or 2 bits",
    params=QatParams,
    takes=Form.TORCH,
    gives=Form.ONNX,
    implementation="compressctl.techniques.quantize.qat:apply",
    destroys=("trainability: the weights are integers from here on",),
    quantizes=True,
    sources=(
        "Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        "Krishnamoorthi 2018, Quantizing deep convolutional networks for efficient inference, section 3.2.1",
        "Esser et al. 2020, Learned Step Size Quantization",
    ),
    check=check_trained,
    promises_speed=True,
)
