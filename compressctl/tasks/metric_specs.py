"""The metrics as the registry lists them. Light: the arithmetic is imported on use."""

from __future__ import annotations

from compressctl.core.source import MetricSpec

TEXT_EVALUATOR = ("jiwer", "pip install 'compressctl[recognition]'")
BOX_EVALUATOR = ("faster-coco-eval", 'pip install "compressctl[detection]"')

ACCURACY = MetricSpec(
    name="accuracy",
    summary="share of samples whose highest output is the label, in percent",
    tasks=("classification",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.metrics:accuracy",
)

R2 = MetricSpec(
    name="r2",
    summary="share of the labels' variance that the outputs explain, 1 is perfect",
    tasks=("regression",),
    higher_is_better=True,
    unit="",
    implementation="compressctl.tasks.metrics:r2",
)

RMSE = MetricSpec(
    name="rmse",
    summary="root of the mean squared error, in the labels' own unit",
    tasks=("regression",),
    higher_is_better=False,
    unit="",
    implementation="compressctl.tasks.metrics:rmse",
)

PERPLEXITY = MetricSpec(
    name="perplexity",
    summary="exp of the mean cross-entropy of each token given those before it: between how many tokens the model hesitates, "
    "1 is perfect; accuracy_drop bounds by how much it may rise",
    tasks=("language-model",),
    higher_is_better=False,
    unit="",
    implementation="compressctl.tasks.perplexity:perplexity",
)

SPEARMAN = MetricSpec(
    name="spearman",
    summary="rank correlation of pairs' cosine similarity with their labels, in percent; two samples in a row are a pair",
    tasks=("embedding",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.metrics:spearman",
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

MACRO_F1 = MetricSpec(
    name="macro_f1",
    summary="mean over the classes of F1, in percent",
    tasks=("classification",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.class_metrics:macro_f1",
    by_class="compressctl.tasks.class_metrics:f1_by_class",
)

BALANCED_ACCURACY = MetricSpec(
    name="balanced_accuracy",
    summary="mean over the classes of the share that is classified right, in percent",
    tasks=("classification",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.class_metrics:balanced_accuracy",
    by_class="compressctl.tasks.class_metrics:recall_by_class",
)

ROC_AUC = MetricSpec(
    name="roc_auc",
    summary="area under the ROC curve, of several classes the mean of each against the others, in percent",
    tasks=("classification",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.class_metrics:roc_auc",
)

MEAN_AVERAGE_PRECISION = MetricSpec(
    name="mean_average_precision",
    summary="mean over the labels of average precision, in percent",
    tasks=("multi-label",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.class_metrics:mean_average_precision",
    by_class="compressctl.tasks.class_metrics:average_precision_by_class",
)

MICRO_F1 = MetricSpec(
    name="micro_f1",
    summary="F1 over all labels of all samples, in percent",
    tasks=("multi-label",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.class_metrics:micro_f1",
)

TOKEN_F1 = MetricSpec(
    name="token_f1",
    summary="F1 over all tokens of classes other than 0, in percent",
    tasks=("token-classification",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.sequences:f1",
    by_class="compressctl.tasks.sequences:f1_by_class",
)

FRAME_ACCURACY = MetricSpec(
    name="frame_accuracy",
    summary="share of frames (tokens) with a label that are given it, in percent",
    tasks=("frame-classification", "token-classification"),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.sequences:accuracy",
)

FRAME_F1 = MetricSpec(
    name="frame_f1",
    summary="F1 over all frames of classes other than 0, in percent",
    tasks=("frame-classification",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.sequences:f1",
    by_class="compressctl.tasks.sequences:f1_by_class",
)

ACTIVE_F1 = MetricSpec(
    name="active_f1",
    summary="F1 over the active classes of all frames, in percent",
    tasks=("frame-multi-label",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.active_classes:f1",
    by_class="compressctl.tasks.active_classes:f1_by_class",
)

EQUAL_FRAMES = MetricSpec(
    name="equal_frames",
    summary="share of frames whose active classes are exactly those of the labels, in percent",
    tasks=("frame-multi-label",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.active_classes:equal_frames",
)

NDCG_AT_10 = MetricSpec(
    name="ndcg_at_10",
    summary="normalised discounted cumulative gain of each query's first ten, in percent",
    tasks=("ranking",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.ranking:ndcg_at_10",
)

RECIPROCAL_RANK = MetricSpec(
    name="reciprocal_rank",
    summary="mean over the queries of 1 / the place of the first relevant sample, in percent",
    tasks=("ranking",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.ranking:reciprocal_rank",
)

RECALL_AT_1 = MetricSpec(
    name="recall_at_1",
    summary="share of samples whose nearest other by cosine has the same label, in percent",
    tasks=("embedding",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.ranking:recall_at_1",
)

RECALL_AT_10 = MetricSpec(
    name="recall_at_10",
    summary="share of samples of whose ten nearest others one has the same label, in percent",
    tasks=("embedding",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.ranking:recall_at_10",
)

CER = MetricSpec(
    name="cer",
    summary="character error: characters to change, add and remove, in percent of the labels' characters",
    tasks=("recognition",),
    higher_is_better=False,
    unit="%",
    implementation="compressctl.tasks.text:cer",
    needs=TEXT_EVALUATOR,
)

WER = MetricSpec(
    name="wer",
    summary="word error: the same of words",
    tasks=("recognition",),
    higher_is_better=False,
    unit="%",
    implementation="compressctl.tasks.text:wer",
    needs=TEXT_EVALUATOR,
)

EXACT = MetricSpec(
    name="exact",
    summary="share of samples whose text is the label's, in percent",
    tasks=("recognition",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.text:exact",
)

MAP = MetricSpec(
    name="map",
    summary="average precision of boxes by COCO's rules, mean over IoU 0.50 to 0.95 and over classes, in percent",
    tasks=("detection",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.detection:average_precision",
    by_class="compressctl.tasks.detection:by_class",
    needs=BOX_EVALUATOR,
)

MAP50 = MetricSpec(
    name="map50",
    summary="average precision of boxes by COCO's rules at IoU 0.50",
    tasks=("detection",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.detection:average_precision_50",
    by_class="compressctl.tasks.detection:by_class_50",
    needs=BOX_EVALUATOR,
)

MAP75 = MetricSpec(
    name="map75",
    summary="average precision of boxes by COCO's rules at IoU 0.75",
    tasks=("detection",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.tasks.detection:average_precision_75",
    by_class="compressctl.tasks.detection:by_class_75",
    needs=BOX_EVALUATOR,
)
