"""What `cast` stages can be told. Light: recipes are checked against this without numpy or a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import ModelFacts, TechniqueSpec


class CastParams(TechniqueParams):
    """cast: 16-bit floats."""

    dtype: Literal["float16", "bfloat16"] = Field(
        "float16", description="float16 has more digits, bfloat16 the range of float32"
    )
    scope: Literal["auto", "weights", "all"] = Field(
        "auto",
        description="weights: stored in 16 bits and widened when the file is loaded, computed in float32; all: the graph "
        "computes in 16 bits; auto is all on a GPU and weights on a processor, which has few 16-bit kernels",
    )
    exclude: tuple[str, ...] = Field(
        (),
        description="shell-style patterns over node names and operator types, and for scope weights names of weights, that "
        "stay float32; matching nothing is an error",
    )
    keep_io: bool = Field(True, description="the model's inputs and outputs stay float32")

    def needs(self) -> Needs:
        return super().needs() | Needs.of(reads=(Need.TARGET,) if self.scope == "auto" else ())

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        yield from super().problems(facts)
        on_processor = facts.target.device == "cpu" and facts.target.backend == "onnxruntime"
        if self.dtype == "bfloat16" and self.scope == "all" and on_processor:
            yield Problem(
                "ONNX Runtime has no bfloat16 kernels for processors",
                path="dtype",
                hint="use `scope: weights`, which stores bfloat16 and computes in float32, or float16",
            )
        if not self.keep_io and (self.dtype == "bfloat16" or self.scope == "weights"):
            yield Problem(
                "inputs and outputs can only change their type with `dtype: float16` and `scope: all`",
                path="keep_io",
                hint="leave keep_io at true",
            )


CAST = TechniqueSpec(
    name="cast",
    version=4,
    summary="float16 or bfloat16 instead of float32, in the file alone or in the computation too",
    params=CastParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    destroys=("trainability: the graph's numbers have 16 bits from here on",),
    quantizes=True,
    sources=("Micikevicius et al. 2018, Mixed Precision Training, section 3",),
)
