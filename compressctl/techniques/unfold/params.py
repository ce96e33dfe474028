"""What `unfold` can be told. Light: recipes are checked against this without numpy or torch."""

from __future__ import annotations

from pydantic import Field

from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import TechniqueSpec


class UnfoldParams(TechniqueParams):
    """unfold: convolutions without a norm get a BatchNorm behind them that changes nothing until it is trained."""

    match: str = Field(
        "*", min_length=1, description="shell-style pattern over the names of convolutions; matching none is an error"
    )
    samples: int = Field(
        1024, ge=2, le=2_147_483_647, description="training samples that means and variances are measured on"
    )

    def needs(self) -> Needs:
        """Samples, from calibration where there are none to train on. No labels."""
        return super().needs() | Needs.of(reads=(Need.TRAINING_DATA, Need.CALIBRATION_DATA))


UNFOLD = TechniqueSpec(
    name="unfold",
    version=1,
    summary="BatchNorms that were folded into convolutions come back, with the same function, so that the network trains as it once did",
    params=UnfoldParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=("Ioffe & Szegedy 2015, Batch Normalization, section 3.1: what a scale and a shift can undo",),
)
