"""The parameters of each decoder, as recipes give them. Light: pydantic and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from compressctl.core.author_code import AuthorCode


class DecoderParams(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)

    def files(self, base: Path) -> dict[str, Path]:
        """What decides what the decoder does, besides its params: files that they name, by a name of their own."""
        return {}


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


Letters = Annotated[list[str], Field(min_length=1, max_length=1 << 21)]


class CtcParams(DecoderParams):
    alphabet: str | Letters = Field(
        description="the letters in the order of the classes, with or without the blank: a list, a text file with one on each line, or "
        "the .onnx file whose metadata hold them (PP-OCR's `character`); files relative to the recipe"
    )
    blank: int = Field(0, ge=-1, le=2_097_152, description="class of the blank, -1 for the last one")
    space: bool = Field(False, description="whether a space follows the alphabet, as in PP-OCR's models")
    output: str | None = Field(
        None, description="the output that holds the scores, logits or probabilities; default: the first"
    )
    axes: Literal["ntc", "tnc", "nct"] = Field(
        "ntc",
        description="how samples (n), time (t) and classes (c) stand in the output, once axes that the file names are in place",
    )
    lengths: str | None = Field(
        None, description="the output that holds how many steps of each sample count; default: all do"
    )

    def files(self, base: Path) -> dict[str, Path]:
        return {"alphabet": base / self.alphabet} if isinstance(self.alphabet, str) else {}


class TokenTextParams(DecoderParams):
    vocabulary: str | Letters = Field(
        description="the tokens in the order of their numbers: a list, a text file with one on each line, or a .json file with a list or "
        "{token: number}; relative to the recipe"
    )
    end: str | int | None = Field(None, description="token, or its number, at which the text ends; default: nowhere")
    skip: tuple[str | int, ...] = Field((), description="tokens, or their numbers, that are no text: start, padding")
    joiner: str = Field("", max_length=16, description="what stands between tokens")
    word_mark: str | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="what marks the begin of a word in the vocabulary, as \u2581: becomes a space",
    )
    output: str | None = Field(None, description="the output that holds token numbers or scores; default: the first")
    lengths: str | None = Field(
        None, description="the output that holds how many tokens of each sample count; default: all do"
    )

    def files(self, base: Path) -> dict[str, Path]:
        return {"vocabulary": base / self.vocabulary} if isinstance(self.vocabulary, str) else {}
