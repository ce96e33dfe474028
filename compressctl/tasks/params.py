"""The parameters of each decoder, as recipes give them. Light: pydantic and nothing else."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from compressctl.core.author_code import AuthorCode


class DecoderParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


class PythonDecoderParams(DecoderParams):
    function: AuthorCode = Field(
        description='the function that reads results off outputs: "file.py:name", relative to the recipe, or "package.module:name". It '
        "is given the outputs by name, samples along axis 0, and returns one result for each sample, in the task's form"
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the function")


class ArgmaxParams(DecoderParams):
    output: str | None = Field(None, description="the output that holds the scores; default: the first")
    axis: int = Field(1, ge=-3, le=3, description="of the output that counts classes")
    threshold: float = Field(
        0.0, description="of a single score, above which a pixel is of class 1; 0.5 for probabilities"
    )


class SequenceParams(DecoderParams):
    output: str | None = Field(None, description="the output that holds the scores; default: the first")
    axis: int = Field(-1, ge=-2, le=2, description="of the output that counts classes")
    threshold: float = Field(
        0.0, description="of a single score, above which a token or frame is of class 1; 0.5 for probabilities"
    )
