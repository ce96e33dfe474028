"""What `quantize.binary` can be told. Light: recipes are checked against this without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from compressctl.core.model import Form
from compressctl.core.technique import TechniqueSpec
from compressctl.techniques.quantize.trained_params import TrainedParams, check_trained


class BinaryParams(TrainedParams):
    """quantize.binary: weights of two or three values per output channel, trained."""

    levels: Literal["binary", "ternary"] = Field(
        "binary", description="a weight is -s or s (1 bit), or -s, 0 or s (2 bits); s belongs to its output channel"
    )
    estimator: Literal["ede", "straight-through"] = Field(
        "ede",
        description="how gradients pass the sign: by a curve that grows steeper from epoch to epoch (IR-Net's error decay "
        "estimator), or as if there were no sign",
    )
    balance: bool = Field(
        True,
        description="binary: shift each channel's weights to mean 0 first, so that half of them are positive (Libra-PB)",
    )
    threshold: Literal["twn", "learned"] = Field(
        "twn",
        description="ternary: which weights become 0: those below 0.7 of their channel's mean magnitude (twn), or those below "
        "half of a step that is trained (learned)",
    )
    first_and_last: Literal["int8", "float"] = Field(
        "int8",
        description="the first and the last layer, which few bits hurt most: weights on a grid of 255 values, or as they are",
    )
    checkpoint: Literal["best", "last"] = Field(
        "last",
        description="the epoch whose weights are kept: the last, since gradients are truest there, or the best one",
    )
    freeze_bn_after: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the epochs after which BatchNorm uses its running means and variances and no longer each "
        "batch's; 1 for never: each weight that changes its sign moves them",
    )
    exclude: tuple[str, ...] = Field(
        (), description="shell-style patterns of layers that keep their weights; matching nothing is an error"
    )

    @model_validator(mode="after")
    def _belongs_to_its_levels(self) -> BinaryParams:
        if self.levels == "binary" and self.threshold == "learned":
            raise ValueError("threshold belongs to levels: ternary")
        return self


BINARY = TechniqueSpec(
    name="quantize.binary",
    version=2,
    summary="weights of 1 or 2 bits with a scale per output channel, trained; activations stay float until quantize.static",
    params=BinaryParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    implementation="compressctl.techniques.quantize.binary:apply",
    destroys=("further training: it would move weights off their two or three values",),
    sources=(
        "Rastegari et al. 2016, XNOR-Net, section 3.1 (the scale)",
        "Qin et al. 2020, Forward and Backward Information Retention for Accurate Binary Neural Networks, sections 3.2, 3.3",
        "Li and Liu 2016, Ternary Weight Networks, section 2.2",
    ),
    check=check_trained,
)
