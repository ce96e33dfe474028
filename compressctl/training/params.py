"""How a stage trains: the fields that fine-tuning, distillation and quantization-aware training share. Light."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from compressctl.core.errors import Problem
from compressctl.core.needs import Need, Needs, Section, TechniqueParams
from compressctl.core.technique import ModelFacts


class Augmentation(Section):
    """What is done to images while they train, anew for each sample in each epoch. Inputs without height and width stay."""

    crop_padding: int = Field(
        0,
        ge=0,
        le=4096,
        description="pixels by which an image is moved at most, up, down or sideways; what comes in at an edge is the image "
        "mirrored there. 4 is usual for 32x32",
    )
    horizontal_flip: bool = Field(
        False, description="mirror every second image from left to right; not for text or digits"
    )
    cutout: int = Field(
        0,
        ge=0,
        le=4096,
        description="side, in pixels, of a square that is set to 0, the mean of data that data.mean normalises",
    )

    @property
    def is_on(self) -> bool:
        return bool(self.crop_padding or self.horizontal_flip or self.cutout)


class TrainingParams(TechniqueParams):
    """Part of a stage's own params where training is what it does, a section of them where training recovers a loss."""

    is_training = True

    epochs: int = Field(5, ge=0, le=100_000, description="passes over the train split")
    batch_size: int = Field(128, ge=1, le=1_048_576, description="samples per step, over all processes together")
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = Field(
        "sgd", description="what turns gradients into steps; adam and adamw want a learning_rate near 0.001"
    )
    learning_rate: float = Field(
        0.01, gt=0, le=1e9, description="the highest; the schedule goes up to it and down from it"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd and rmsprop: the share of the last step that is kept")
    nesterov: bool = Field(True, description="of sgd: look ahead along the momentum; needs momentum")
    weight_decay: float = Field(5e-4, ge=0, le=1e9, description="of weights; biases and norms have none")
    schedule: Literal["cosine", "linear", "step", "one-cycle", "constant"] = Field(
        "cosine",
        description="how the learning rate falls: along half a cosine, on a line, by step_factor at each of step_at, or after "
        "a long rise during which momentum falls (one-cycle)",
    )
    warmup: float | None = Field(
        None, ge=0, le=1, description="share of the steps in which the rate rises; default: 0.05, for one-cycle 0.3"
    )
    step_at: tuple[float, ...] = Field(
        (0.5, 0.75), description="of schedule step: shares of the training after which the rate falls, between 0 and 1"
    )
    step_factor: float = Field(0.1, gt=0, lt=1, description="of schedule step: what the rate is multiplied by")
    clip_norm: float | None = Field(None, gt=0, le=1e9, description="largest norm of all gradients together")
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the weights, as in 0.999; the average is scored and kept",
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of each label that is spread over all classes")
    other_outputs_weight: float = Field(
        0.1,
        ge=0,
        le=1e9,
        description="of a network with several outputs, whose labels belong to the first: weight of the loss that holds each of "
        "the others to the original model's, log(1 + its mean squared difference / that output's variance); 0 trains the first alone",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=1e9,
        description="how strongly pairs of samples are mixed: alpha of the Beta distribution, 0.2 is mild, 0 off",
    )
    augment: Augmentation = Field(Augmentation(), description="random changes to images")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="bfloat16 computes products in 16 bits, up to twice as fast on processors and GPUs that can, slower where layers are "
        "narrow (a warning says so); weights stay float32; a processor that cannot trains in float32, with a warning",
    )
    checkpoint: Literal["best", "last"] = Field(
        "best",
        description="the epoch whose weights are kept: the best one on the validation split (the start counts as one), or the "
        "last; without a validation split the last",
    )
    patience: int | None = Field(
        None, ge=1, le=100_000, description="stop after that many epochs without a better score on the validation split"
    )
    recalibrate_bn: bool = Field(
        False, description="measure BatchNorm's means and variances anew on training samples before an epoch is scored"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingParams:
        if any(not 0 < share < 1 for share in self.step_at):
            raise ValueError("step_at holds shares of the training, between 0 and 1, as in [0.5, 0.75]")
        return self

    def needs(self) -> Needs:
        """Labelled samples to learn from; the validation split and the metric choose the epoch that is kept.

        The original holds the outputs that have no labels.
        """
        learning = Needs.of(Need.TRAINING_DATA, Need.LABELS, Need.TASK_LOSS, reads=(Need.TASK,))
        held = (Need.ORIGINAL,) if self.other_outputs_weight else ()
        return super().needs() | learning | Needs.of(reads=(Need.VALIDATION_DATA, Need.METRIC, *held))

    @property
    def inputs_vary(self) -> bool:
        """Whether augmentation makes a sample another one in each epoch."""
        return self.augment.is_on or self.mixup > 0

    @property
    def warmup_share(self) -> float:
        if self.warmup is not None:
            return self.warmup
        return 0.3 if self.schedule == "one-cycle" else 0.05


Pattern = Annotated[str, Field(min_length=1)]


class Lora(Section):
    """Low-rank adapters: the weights stay as they are, and a product of two thin matrices beside each is trained."""

    rank: int = Field(
        8,
        ge=1,
        le=65_536,
        description="inner size of each product B A, where a layer has a weight of out x in, B is out x rank and A rank x in; of a "
        "convolution with groups, of each group's",
    )
    alpha: float = Field(16.0, gt=0, le=1e9, description="products are multiplied by alpha / rank")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of what enters a product that is set to 0 while it trains"
    )
    match: Pattern | Annotated[tuple[Pattern, ...], Field(min_length=1)] | None = Field(
        None,
        description="shell-style pattern, or several, over names of layers and their types; matching nothing is an error. Default: "
        "every Linear and convolution but those whose result is an output (heads), and those whose weight has a lower rank",
    )


class AdaptableParams(TrainingParams):
    """Training that can be of low-rank adapters alone."""

    lora: Lora | None = Field(
        None,
        description="train low-rank adapters instead of the weights, and add them to the weights at the end: nothing of them is left "
        "in the network. BatchNorm's statistics follow the samples as in other training",
    )

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        yield from super().problems(facts)
        if self.lora is not None and self.epochs == 0:
            yield Problem("with 0 epochs no adapter is trained", "lora", "give epochs of 1 or more, or leave lora out")
