"""What the quantizations that train share. Light: recipes are checked against this without torch."""

from __future__ import annotations

from pydantic import Field

from compressctl.core.errors import Problem
from compressctl.core.technique import ModelFacts
from compressctl.training.supervision.params import SupervisedParams


class TrainedParams(SupervisedParams):
    """A network learns with rounded numbers, from labels, from a teacher, or from both. Few bits want a teacher."""

    freeze_bn_after: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of the epochs after which BatchNorm uses its running means and variances, as the exported file "
        "does, and no longer each batch's; 1 for never. Frozen while the learning rate is high, training may swing",
    )


def check_trained(params: TrainedParams, facts: ModelFacts) -> list[Problem]:
    found = []
    if facts.quantized:
        found.append(
            Problem(
                "the model is already quantized by an earlier stage",
                path="use",
                hint="quantize once; use `overrides` to treat parts differently",
            )
        )
    if params.epochs == 0:
        found.append(
            Problem(
                "this technique is its training: rounding alone, without an epoch, leaves nothing usable",
                "epochs",
                "set 1 or more, or use quantize.static or quantize.weights, which need no training",
            )
        )
    return found
