"""What a `share.kmeans` stage can be told. Light: recipes are checked against this without numpy or torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, Section, TechniqueParams
from compressctl.core.patterns import Override
from compressctl.core.technique import ModelFacts, TechniqueSpec
from compressctl.training.supervision.params import SupervisedParams

Granularity = Literal["tensor", "scaled", "channel", "group"]

_ONE_BOOK = ("tensor", "scaled")


class ShareOverride(Override):
    """Another treatment for the weights that a pattern matches."""

    clusters: int | None = Field(None, ge=0, le=256, description="entries of its codebooks; 0 keeps the layer as it is")
    granularity: Granularity | None = Field(None, description="which weights of it share a codebook")


class Finetuning(SupervisedParams):
    """Training that moves the entries of codebooks; which weight has which entry stays, unless membership says otherwise."""

    epochs: int = Field(2, ge=0, le=100_000, description="passes over the train split")
    learning_rate: float = Field(
        0.002, gt=0, le=1e9, description="the highest; the schedule goes up to it and down from it"
    )
    weight_decay: float = Field(0.0, ge=0, le=1e9, description="of weights; biases and norms have none")
    gradient: Literal["mean", "sum"] = Field(
        "mean",
        description="of an entry, over its weights: the mean moves weights as far as training them alone would; the sum is the "
        "entry's own gradient, thousands of times larger, and wants a learning_rate to match",
    )
    assignment: Literal["fixed", "straight-through", "soft"] = Field(
        "fixed",
        description="which weight has which entry: stays; follows full-precision weights that are trained behind the shared ones; "
        "or is soft, each weight a mean of entries by nearness, until it is settled at each epoch's end (differentiable k-means)",
    )
    softness: float = Field(
        0.01,
        gt=0,
        le=1e9,
        description="assignment soft: the distance, as a share of the layer's spread, over which two entries are mixed",
    )


class SizeBudget(Section):
    """How many clusters each layer gets, by what they cost in bits and what they save in error."""

    bits: float = Field(gt=0, le=8, description="per weight, over all shared layers together, codebooks included")
    choices: tuple[int, ...] = Field(
        (2, 4, 8, 16, 32, 64), min_length=2, description="numbers of clusters to choose from"
    )
    sensitivity: Literal["error", "outputs"] = Field(
        "outputs",
        description="what an error in a layer is measured by: its own weights' (times their importance), or what it changes in "
        "the network's outputs on calibration data, one layer at a time",
    )

    @model_validator(mode="after")
    def _choices_are_numbers_of_clusters(self) -> SizeBudget:
        if any(not 2 <= choice <= 256 for choice in self.choices) or len(set(self.choices)) < 2:
            raise ValueError("choices are different numbers of clusters between 2 and 256, as in [4, 16, 64]")
        return self


class KmeansParams(TechniqueParams):
    """share.kmeans: the weights of a layer take few different values, so that a file holds small indices and a codebook."""

    clusters: int = Field(16, ge=2, le=256, description="entries of a codebook, the zero of pruned weights among them")
    granularity: Granularity = Field(
        "scaled",
        description="which weights share a codebook: all of a layer (tensor); all, after each output channel is divided by a scale "
        "of its own (scaled), which keeps depthwise networks alive; those of a channel, or of a group within one",
    )
    group_size: int = Field(
        64, ge=2, le=1_048_576, description="granularity group: neighbouring weights of a channel that share a codebook"
    )
    codebook: Literal["kmeans", "uniform", "power-of-two"] = Field(
        "kmeans", description="entries where they cost least, evenly spaced, or powers of two with signs"
    )
    init: Literal["optimal", "linear", "density", "k-means++"] = Field(
        "optimal",
        description="where k-means starts: the best codebook of the weights' histogram, entries evenly spaced, entries that stand "
        "for equally many weights, or drawn weights",
    )
    importance: Literal["none", "fisher", "activation"] = Field(
        "none",
        description="how much an error in a weight counts: all alike, by its squared gradient over labelled calibration data "
        "(torch models only), or by the energy of what it multiplies",
    )
    keep_zeros: bool = Field(True, description="weights that are zero stay so and are one entry of the codebook")
    codebook_bits: Literal[8, 16, 32] = Field(
        32, description="of an entry: float32, float16, or a whole number of steps of a 127th of the largest"
    )
    rate_weight: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="what a bit of an entropy coder counts, as a share of the layer's mean squared weight: weights go to entries "
        "that are used more often (0.001 to 0.05); for files that `pack` writes",
    )
    budget: SizeBudget | None = Field(None, description="choose the clusters of each layer instead, under a size")
    compensate: bool = Field(
        False,
        description="without fine-tuning, let each weight's error be made good by the later weights of its output, as GPTQ does, "
        "from calibration data; much better accuracy, some seconds a layer",
    )
    bias_correction: bool = Field(
        True,
        description="without fine-tuning, shift biases by the mean of what sharing changes in each output, where there is "
        "calibration data",
    )
    finetune: Finetuning | None = Field(None, description="training of the codebooks (torch models only)")
    embeddings: bool = Field(True, description="share the weights of embedding tables too")
    overrides: tuple[ShareOverride, ...] = Field((), description="exceptions by pattern, later ones win")

    def needs(self) -> Needs:
        found = super().needs()
        by_outputs = self.budget is not None and self.budget.sensitivity == "outputs"
        if self.compensate or self.importance != "none" or by_outputs:
            found |= Needs.of(Need.CALIBRATION_DATA)
        if self.importance == "fisher":
            found |= Needs.of(Need.LABELS, Need.TASK_LOSS, reads=(Need.TASK,))
        if self.corrects_bias:
            found |= Needs.of(reads=(Need.CALIBRATION_DATA,))
        return found

    @property
    def corrects_bias(self) -> bool:
        """Fine-tuning trains biases instead."""
        return self.bias_correction and self.finetune is None

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        yield from super().problems(facts)
        if facts.form is Form.ONNX and self.importance == "fisher":
            yield Problem(
                "gradients need a torch model, but the model is an ONNX graph here", "importance", "use activation"
            )
        many = [override.granularity or self.granularity for override in self.overrides]
        if self.rate_weight and any(granularity not in _ONE_BOOK for granularity in (self.granularity, *many)):
            yield Problem(
                "an entropy coder wants one codebook for a layer", "rate_weight", "use granularity tensor or scaled"
            )
        if self.rate_weight and self.codebook != "kmeans":
            yield Problem(f"entries of codebook {self.codebook} do not move", "rate_weight", "use codebook: kmeans")
        if self.compensate and (self.rate_weight or self.finetune is not None):
            yield Problem(
                "it decides which entry a weight takes, and so does "
                + ("rate_weight" if self.rate_weight else "fine-tuning"),
                "compensate",
                "leave one of the two out",
            )
        if self.codebook != "kmeans" and self.finetune is not None:
            yield Problem(
                f"fine-tuning would move entries off a codebook that is {self.codebook}", "finetune", "leave it out"
            )


KMEANS = TechniqueSpec(
    name="share.kmeans",
    version=3,
    summary="weights share few values by k-means; a much smaller file (storage: compressed), the same speed",
    params=KmeansParams,
    takes=(Form.TORCH, Form.ONNX),
    gives=None,
    sources=(
        "Han, Mao & Dally 2016, Deep Compression, section 3 (shared weights, codebooks trained by summed gradients)",
        "Wang & Song 2011, Ckmeans.1d.dp; Gronlund et al. 2017, Fast Exact k-Means in 1D, section 2.2",
        "Choi, El-Khamy & Lee 2017, Towards the Limit of Network Quantization, section 3 (importance by second derivatives)",
        "Chou, Lookabaugh & Gray 1989, Entropy-Constrained Vector Quantization, section III (rate)",
        "Cho et al. 2022, DKM: Differentiable k-Means Clustering Layer for Neural Network Compression, section 3.2 (soft)",
        "Zhou et al. 2017, Incremental Network Quantization, equation 2 (power-of-two)",
    ),
)
