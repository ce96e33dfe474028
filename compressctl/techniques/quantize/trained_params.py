"""What the quantizations that train share. Light: recipes are checked against this without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from compressctl.core.errors import Problem
from compressctl.core.technique import ModelFacts, Need
from compressctl.techniques.distill.params import ORIGINAL, LogitsParams, Teaching
from compressctl.techniques.distill.params import files as teacher_files
from compressctl.training.params import TrainingParams


class TrainedParams(TrainingParams):
    """A network learns with rounded numbers, from labels, from a teacher, or from both."""

    teacher: Teaching | None = Field(
        None,
        description="whose outputs are learned beside the labels: `original` (the recipe's own model), an .onnx file, a file of "
        "other weights for the recipe's model, or a network by factory. Few bits want one",
    )
    temperature: float = Field(
        4.0, gt=0, description="of a teacher: divides both networks' logits before softmax, as in distill.logits"
    )
    teacher_weight: float = Field(
        0.9, ge=0, description="of a teacher: weight of the loss against it, which has the factor T^2 in it"
    )
    label_weight: float | None = Field(
        None,
        ge=0,
        description="beside a teacher: weight of the task's own loss on the labels; default: 0.1 where there are labels",
    )
    freeze_norms: float = Field(
        0.9,
        ge=0,
        le=1,
        description="share of the epochs after which BatchNorm uses its running means and variances, as the exported file "
        "does, and no longer each batch's; 1 for never. Frozen while the learning rate is high, training may swing",
    )

    @model_validator(mode="after")
    def _weights_need_a_teacher(self) -> TrainedParams:
        if self.teacher is None and self.label_weight is not None:
            raise ValueError("label_weight weighs labels against a teacher: name one, or leave label_weight out")
        return self


def as_logits(params: TrainedParams) -> LogitsParams:
    """The teacher's part, as distill.logits takes it."""
    return LogitsParams(
        teacher=ORIGINAL if params.teacher is None else params.teacher,
        temperature=params.temperature,
        weight=params.teacher_weight,
        label_weight=params.label_weight,
        augment=params.augment,
        mixup=params.mixup,
    )


def some_need(params: TrainedParams) -> frozenset[Need]:
    """A teacher needs no labels."""
    is_taught_alone = params.teacher is not None and params.label_weight == 0
    return frozenset({Need.TRAINING_DATA} if is_taught_alone else {Need.TRAINING_DATA, Need.LABELS})


def files(params: TrainedParams, base: Path) -> Mapping[str, Path]:
    """Everything that decides who teaches."""
    return {} if params.teacher is None else teacher_files(as_logits(params), base)


def check_trained(params: TrainedParams, facts: ModelFacts) -> list[Problem]:
    found = []
    if facts.quantized:
        found.append(
            Problem(
                "the model is already quantized by an earlier stage",
                path="use",
                hint="quantize once; use `overrides` to treat parts differently",
            )
        )
    if params.epochs == 0:
        found.append(
            Problem(
                "this technique is its training: rounding alone, without an epoch, leaves nothing usable",
                "epochs",
                "set 1 or more, or use quantize.static or quantize.weights, which need no training",
            )
        )
    return found
