"""What `unroll` stages can be told. Light: recipes are checked against this without numpy or a runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, TechniqueParams
from compressctl.core.technique import ModelFacts, TechniqueSpec

Factor = Annotated[int, Field(ge=1, le=64)]


class UnrollParams(TechniqueParams):
    """unroll: several positions of a convolution at once."""

    lanes: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None,
        description="outputs that the runtime's float kernels compute at once; default: as this processor has, 16 or 8",
    )
    positions: dict[str, tuple[Factor, Factor]] = Field(
        default_factory=dict,
        description="rows and columns of positions that become outputs, by shell-style pattern over names of nodes and weights; then "
        "nothing is measured and the others stay. Default: what is fastest here",
    )

    takes_quantized: ClassVar[bool] = True

    def needs(self) -> Needs:
        timed = () if self.positions else (Need.LATENCY, Need.TARGET)
        return super().needs() | Needs.of(reads=timed)

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        yield from super().problems(facts)
        if facts.target.device != "cpu":
            yield Problem(
                "a GPU computes few outputs at full speed already",
                hint="leave the stage out, or set `target.device: cpu`",
            )


UNROLL = TechniqueSpec(
    name="unroll",
    version=1,
    summary="convolutions with few outputs compute several positions at once: exact, and faster where measured so",
    params=UnrollParams,
    takes=Form.ONNX,
    gives=Form.ONNX,
    sources=("Shi et al. 2016, Is the deconvolution layer the same as a convolutional layer?, section 2",),
    promises_speed=True,
)
