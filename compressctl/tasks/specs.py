"""The decoders, and the metrics of decoded results, as the registries list them. Light: the work is imported on use."""

from __future__ import annotations

from compressctl.core.source import DecoderSpec, MetricSpec
from compressctl.tasks.params import ArgmaxParams, PythonDecoderParams

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

MEAN_IOU = MetricSpec(
    name="mean_iou",
    summary="mean over the classes of intersection over union, all pixels together, in percent",
    tasks=("segmentation",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.segmentation:mean_iou",
    by_class="compressctl.tasks.segmentation:iou_by_class",
)
