"""The parameters of each decoder, as recipes give them. Light: pydantic and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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


class ActiveParams(DecoderParams):
    outputs: dict[str, float] = Field(
        default_factory=dict,
        description="the outputs that hold scores, each with the threshold above which a class is active in a frame; their classes "
        "stand side by side. Default: the first output, with `threshold`",
    )
    threshold: float = Field(0.0, description="of the first output: 0 for logits, 0.5 for probabilities")
    axis: Literal[1, 2] = Field(2, description="of the outputs that counts classes; the other one counts frames")

    @model_validator(mode="after")
    def _one_threshold(self) -> ActiveParams:
        if self.outputs and "threshold" in self.model_fields_set:
            raise ValueError("`outputs` names a threshold for each output, so `threshold` has none to be of")
        return self


LONGEST_LETTER = 256
"""Characters. Vocabularies of byte pairs hold runs of 128 blanks."""

Letters = Annotated[list[Annotated[str, Field(max_length=LONGEST_LETTER)]], Field(min_length=1, max_length=1 << 21)]


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


Activation = Literal["none", "sigmoid", "softmax"]
BoxForm = Literal["cxcywh", "xyxy", "xywh", "yxyx"]
Side = Annotated[int, Field(ge=1, le=65_536)]


class BoxParams(DecoderParams):
    score: float = Field(
        0.25, ge=0, le=1, description="least score of a box; low ones, as in 0.001, for average precision"
    )
    iou: float | None = Field(
        0.45, ge=0, le=1, description="a box that overlaps a better one of its class by more is dropped; null: none is"
    )
    most: int = Field(300, ge=1, le=10_000, description="boxes of a sample, the best ones")
    class_agnostic: bool = Field(False, description="a box is dropped for a better one of any class")
    boxes: BoxForm = Field(
        "xyxy",
        description="a box's four numbers: centre and size (cxcywh), two corners (xyxy), a corner and the size (xywh), or two corners with "
        "y first (yxyx)",
    )
    input_size: tuple[Side, Side] | None = Field(
        None,
        description="the input's height and width, where boxes are shares of it, from 0 to 1; default: they are in pixels",
    )


class ScoredBoxParams(BoxParams):
    every_class: bool = Field(
        False, description="a box for each class that reaches the score, not for its best class alone"
    )
    activation: Activation = Field(
        "none", description="what makes scores of the file's numbers; none where the file has done so"
    )


class YoloParams(ScoredBoxParams):
    output: str | None = Field(None, description="the output that holds boxes and scores; default: the first")
    objectness: bool = Field(
        False,
        description="whether a fifth number says that there is an object, as in YOLOv5 and v7, by which scores are multiplied",
    )
    boxes_axis: Literal[1, 2] | None = Field(
        None, description="of the output that counts boxes; default: the longer one"
    )
    boxes: BoxForm = Field("cxcywh", description="a box's four numbers, as in `ssd`")


class SsdParams(ScoredBoxParams):
    boxes_output: str | None = Field(None, description="default: the only output (n, boxes, 4)")
    scores_output: str | None = Field(
        None, description="default: the only other output (n, boxes, classes), or (n, boxes) beside classes_output"
    )
    classes_output: str | None = Field(
        None,
        description="holds each box's class, where a file gives one score for each, as TensorFlow's detection_classes",
    )
    count_output: str | None = Field(None, description="holds how many boxes of each sample count, as num_detections")
    first_class: int = Field(
        0, ge=0, le=1_048_576, description="the number in classes_output that is class 0; 1 in TensorFlow's files"
    )
    background: int | None = Field(
        0, ge=-1, le=1_048_576, description="the class in scores_output that is no object; -1: the last; null: none is"
    )
    priors: str | None = Field(
        None,
        description="an .npz file, relative to the recipe, with an array `priors` (boxes, 4) from which the boxes are offsets",
    )
    priors_output: str | None = Field(None, description="the output that holds the priors instead")
    prior_boxes: BoxForm = Field("cxcywh", description="a prior's four numbers")
    variances: tuple[float, float] = Field(
        (0.1, 0.2), description="by which offsets of centre and of size are multiplied"
    )

    @model_validator(mode="after")
    def _one_place_of_priors(self) -> SsdParams:
        if self.priors is not None and self.priors_output is not None:
            raise ValueError("priors come from a file or from an output: name one")
        return self

    def files(self, base: Path) -> dict[str, Path]:
        return {} if self.priors is None else {"priors": base / self.priors}


class DetrParams(ScoredBoxParams):
    boxes_output: str | None = Field(None, description="default: the only output (n, queries, 4)")
    logits_output: str | None = Field(None, description="default: the only other output (n, queries, classes)")
    activation: Activation = Field(
        "softmax", description="softmax: the last class is that of no object; sigmoid, none: every class counts"
    )
    boxes: BoxForm = Field("cxcywh", description="a box's four numbers, as in `ssd`")
    iou: float | None = Field(
        None, ge=0, le=1, description="a box that overlaps a better one of its class by more is dropped"
    )


class FinishedParams(BoxParams):
    output: str | None = Field(None, description="the output (n, boxes, 6); default: the first")
    iou: float | None = Field(
        None, ge=0, le=1, description="a box that overlaps a better one of its class by more is dropped"
    )
