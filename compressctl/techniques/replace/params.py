"""What `replace.*` can be told. Light: recipes are checked against this without numpy or torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compressctl.core.model import Form
from compressctl.core.needs import TechniqueParams
from compressctl.core.technique import TechniqueSpec

Kind = Literal[
    "hardswish", "silu", "gelu", "mish", "elu", "selu", "celu", "prelu", "leaky_relu", "softplus", "softsign"
]


class ActivationsParams(TechniqueParams):
    """replace.activations: other activations in the place of those that kernels for integers do not have."""

    of: tuple[Kind, ...] = Field(
        ("hardswish", "silu", "gelu", "mish"), min_length=1, description="activations that are replaced"
    )
    by: Literal["relu", "relu6", "hardswish"] = Field(
        "relu",
        description="what comes in their place: relu and relu6 are part of a convolution's integer kernel; relu6 bounds what has to be rounded",
    )
    match: str = Field(
        "*", min_length=1, description="shell-style pattern over the names of modules; matching none is an error"
    )


ACTIVATIONS = TechniqueSpec(
    name="replace.activations",
    version=2,
    summary="activations that no integer kernel computes become ones that are part of a convolution's; training makes up for it",
    params=ActivationsParams,
    takes=Form.TORCH,
    gives=Form.TORCH,
    sources=("EfficientNet-Lite, Liu 2020 (TensorFlow blog): ReLU6 in the place of swish, for kernels of integers",),
)
