"""The decoders as the registry lists them. Light: the work is imported on use."""

from __future__ import annotations

from compressctl.core.source import DecoderSpec
from compressctl.tasks.params import (
    ActiveParams,
    ArgmaxParams,
    CtcParams,
    DetrParams,
    FinishedParams,
    PythonDecoderParams,
    SequenceParams,
    SsdParams,
    TokenTextParams,
    YoloParams,
)

PYTHON = DecoderSpec(
    name="python",
    summary="a function of your own that reads each sample's result off the outputs",
    tasks=(),
    params=PythonDecoderParams,
    implementation="compressctl.tasks.author_functions:decoder",
)

ARGMAX = DecoderSpec(
    name="argmax",
    summary="the class of each pixel with the highest score",
    tasks=("segmentation",),
    params=ArgmaxParams,
    implementation="compressctl.tasks.segmentation:argmax",
)

TOKENS = DecoderSpec(
    name="tokens",
    summary="the class of each token with the highest score",
    tasks=("token-classification",),
    params=SequenceParams,
    implementation="compressctl.tasks.sequences:decoder",
)

FRAMES = DecoderSpec(
    name="frames",
    summary="the class of each frame with the highest score, or one score's side of a threshold",
    tasks=("frame-classification",),
    params=SequenceParams,
    implementation="compressctl.tasks.sequences:decoder",
)

ACTIVE = DecoderSpec(
    name="active",
    summary="the classes of each frame whose scores are above a threshold, any number of them",
    tasks=("frame-multi-label",),
    params=ActiveParams,
    implementation="compressctl.tasks.active_classes:decoder",
)

CTC = DecoderSpec(
    name="ctc",
    summary="text by the likeliest letter of each step, repeats and blanks left out",
    tasks=("recognition",),
    params=CtcParams,
    implementation="compressctl.tasks.text:ctc",
    loss="compressctl.tasks.losses:ctc",
)

SEQUENCE = DecoderSpec(
    name="sequence",
    summary="text of tokens, one after the other up to an end token",
    tasks=("recognition",),
    params=TokenTextParams,
    implementation="compressctl.tasks.text:tokens",
)

YOLO = DecoderSpec(
    name="yolo",
    summary="boxes with their classes' scores in one output, as YOLO's, before overlapping ones are dropped",
    tasks=("detection",),
    params=YoloParams,
    implementation="compressctl.tasks.box_decoders:yolo",
    distance="compressctl.tasks.losses:yolo",
)

SSD = DecoderSpec(
    name="ssd",
    summary="boxes and scores in two outputs, as SSD's and TensorFlow's, with or without priors",
    tasks=("detection",),
    params=SsdParams,
    implementation="compressctl.tasks.box_decoders:ssd",
)

DETR = DecoderSpec(
    name="detr",
    summary="boxes and logits of queries in two outputs, as DETR's",
    tasks=("detection",),
    params=DetrParams,
    implementation="compressctl.tasks.box_decoders:detr",
)

FINISHED = DecoderSpec(
    name="finished",
    summary="boxes, score, class in one output, of a file that drops overlapping boxes itself",
    tasks=("detection",),
    params=FinishedParams,
    implementation="compressctl.tasks.box_decoders:finished",
)
