"""Training from labels, from a teacher, or from both, as a part of other techniques. Light: recipes are checked against this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from compressctl.core.author_code import AuthorCode
from compressctl.core.needs import Need, Needs, Section
from compressctl.training.params import AdaptableParams, TrainingParams

ORIGINAL = "original"


class Network(Section):
    """A network that a function makes, with weights from a file."""

    factory: AuthorCode = Field(
        description='the function that makes the network: "file.py:name", relative to the recipe, or "package.module:name"'
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the factory")
    weights: str | None = Field(None, description="a .safetensors, .pt or .pth file that holds tensors only")


def _kind(value: Any) -> str:
    """A mapping is meant as a network, so that only what is wrong with it as one is said."""
    return "network" if isinstance(value, Mapping | Network) else "text"


Teaching = Annotated[Annotated[str, Tag("text")] | Annotated[Network, Tag("network")], Discriminator(_kind)]


LossName = Literal["kl", "dkd", "mse", "cosine", "boxes"]


@dataclass(frozen=True)
class TeacherLoss:
    """How a student's outputs are compared with the teacher's. name: None for what is usual for the task.

    temperature: divides both networks' logits before softmax. standardize: each sample's logits to mean 0 and deviation 1 first.
    """

    name: LossName | None = None
    temperature: float = 4.0
    standardize: bool = False
    dkd_alpha: float = 1.0
    dkd_beta: float = 8.0


class SupervisedParams(TrainingParams):
    """Training on the labels, and on the outputs of a teacher where one is named."""

    teacher: Teaching | None = Field(
        None,
        description="whose outputs are learned beside the labels: `original` (the recipe's own model), an .onnx file, a file of "
        "other weights for the recipe's model, or a network by factory",
    )
    temperature: float = Field(
        4.0,
        gt=0,
        le=1e9,
        description="of a teacher: divides both networks' logits before softmax, as in distill.logits",
    )
    teacher_weight: float = Field(
        0.9, ge=0, le=1e9, description="of a teacher: weight of the loss against it, which has the factor T^2 in it"
    )
    label_weight: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="beside a teacher: weight of the task's own loss on the labels; default: 0.1 where there are labels",
    )

    @model_validator(mode="after")
    def _weights_need_a_teacher(self) -> SupervisedParams:
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

    @property
    def teacher_loss(self) -> TeacherLoss:
        """How outputs are compared."""
        return TeacherLoss(temperature=self.temperature)


class RecoveryParams(SupervisedParams, AdaptableParams):
    """Training that makes up for what a stage took away, of all weights or of low-rank adapters."""


def teacher_needs(teacher: str | Network) -> tuple[Need, ...]:
    """The recipe's own model teaches, or lends its architecture to weights from a file."""
    return (Need.ORIGINAL,) if isinstance(teacher, str) and not teacher.endswith(".onnx") else ()


def teacher_files(teacher: str | Network, base: Path) -> dict[str, Path]:
    """Everything that decides who teaches. Raises UsageError for code that is not there."""
    if isinstance(teacher, Network):
        return network_files("teacher", teacher.factory, teacher.weights, base)
    if teacher == ORIGINAL:
        return {}
    path = base / teacher
    return {"teacher": path, **{f"teacher/{part.name}": part for part in _beside(path)}}


def network_files(role: str, factory: str | None, weights: str | None, base: Path) -> dict[str, Path]:
    """The code and the weights of a network that a function makes. role: "teacher" or "student"."""
    if factory is None:
        return {}
    from compressctl.sources.python_code import code_files

    found = {f"{role}/code/{name}": path for name, path in code_files(factory, base).items()}
    return found if weights is None else {**found, f"{role}/weights": base / weights}


def _beside(path: Path) -> list[Path]:
    """Where exporters put the weights of an .onnx file that are too large for it. Reading the file would need onnx."""
    usual = (path.with_name(path.name + ending) for ending in (".data", "_data"))
    return [other for other in usual if path.suffix == ".onnx" and other.is_file()]
