"""The metrics as the registry lists them. Light: the arithmetic is imported on use."""

from __future__ import annotations

from compressctl.core.source import MetricSpec

ACCURACY = MetricSpec(
    name="accuracy",
    summary="share of samples whose highest output is the label, in percent",
    tasks=("classification",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.measure.metrics:accuracy",
)

R2 = MetricSpec(
    name="r2",
    summary="share of the labels' variance that the outputs explain, 1 is perfect",
    tasks=("regression",),
    higher_is_better=True,
    unit="",
    implementation="compressctl.measure.metrics:r2",
)

RMSE = MetricSpec(
    name="rmse",
    summary="root of the mean squared error, in the labels' own unit",
    tasks=("regression",),
    higher_is_better=False,
    unit="",
    implementation="compressctl.measure.metrics:rmse",
)

PERPLEXITY = MetricSpec(
    name="perplexity",
    summary="exp of the mean cross-entropy of each token given those before it: between how many tokens the model hesitates, "
    "1 is perfect; accuracy_drop bounds by how much it may rise",
    tasks=("language-model",),
    higher_is_better=False,
    unit="",
    implementation="compressctl.measure.perplexity:perplexity",
)

SPEARMAN = MetricSpec(
    name="spearman",
    summary="rank correlation of pairs' cosine similarity with their labels, in percent; two samples in a row are a pair",
    tasks=("embedding",),
    higher_is_better=True,
    unit="%",
    implementation="compressctl.measure.metrics:spearman",
)
