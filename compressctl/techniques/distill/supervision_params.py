"""Training from labels, from a teacher, or from both, as a part of other techniques. Light: recipes are checked against this."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from compressctl.core.needs import Need, Needs
from compressctl.techniques.distill.params import ORIGINAL, LogitsParams, Teaching, teacher_files, teacher_needs
from compressctl.training.params import TrainingParams


class TaughtParams(TrainingParams):
    """Training on the labels, and on the outputs of a teacher where one is named."""

    teacher: Teaching | None = Field(
        None,
        description="whose outputs are learned beside the labels: `original` (the recipe's own model), an .onnx file, a file of "
        "other weights for the recipe's model, or a network by factory",
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

    @model_validator(mode="after")
    def _weights_need_a_teacher(self) -> TaughtParams:
        if self.teacher is None and self.label_weight is not None:
            raise ValueError("label_weight weighs labels against a teacher: name one, or leave label_weight out")
        return self

    def needs(self) -> Needs:
        """What training needs; beside a teacher labels are read where they are, unless the recipe gives them a weight."""
        found = super().needs()
        if self.teacher is None:
            return found
        requires = found.requires if self.label_weight else found.requires - {Need.LABELS, Need.TASK_LOSS}
        return Needs(requires, found.reads | {Need.LABELS, *teacher_needs(self.teacher)})

    def files(self, base: Path) -> Mapping[str, Path]:
        """Everything that decides who teaches."""
        return {} if self.teacher is None else teacher_files(self.teacher, base)


def as_logits(params: TaughtParams) -> LogitsParams:
    """The teacher's part, as distill.logits takes it."""
    return LogitsParams(
        teacher=ORIGINAL if params.teacher is None else params.teacher,
        temperature=params.temperature,
        weight=params.teacher_weight,
        label_weight=params.label_weight,
        augment=params.augment,
        mixup=params.mixup,
    )
