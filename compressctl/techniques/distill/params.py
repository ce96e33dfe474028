"""What `distill.*` stages can be told. Light: recipes are checked against this without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from compressctl.core.author_code import AuthorCode
from compressctl.core.errors import Problem
from compressctl.core.model import Form
from compressctl.core.needs import Need, Needs, Section
from compressctl.core.technique import ModelFacts, TechniqueSpec
from compressctl.training.params import AdaptableParams
from compressctl.training.supervision.params import (
    ORIGINAL,
    LossName,
    TeacherLoss,
    Teaching,
    network_files,
    teacher_files,
    teacher_needs,
)


class Student(Section):
    """The network to train: one that a function makes, or the teacher's architecture with fewer channels."""

    factory: AuthorCode | None = Field(
        None, description='the function that makes it: "file.py:name" or "package.module:name"'
    )
    args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments for the factory")
    weights: str | None = Field(None, description="a file of tensors that the factory's network starts from")
    width_multiplier: float | None = Field(
        None, gt=0, lt=1, description="share of the teacher's channels that is kept in every layer that can lose some"
    )
    init: Literal["pruned", "random"] = Field(
        "pruned", description="a shrunk student starts from the teacher's most important channels, or from scratch"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Student:
        if (self.factory is None) == (self.width_multiplier is None):
            raise ValueError("a student comes from `factory` or from `width_multiplier`: give one of them")
        if self.factory is None and (self.args or self.weights):
            raise ValueError("args and weights belong to `factory`")
        if self.factory is not None and self.init == "random":
            raise ValueError("init belongs to `width_multiplier`; leave `weights` out for a student from scratch")
        return self


class DistillParams(AdaptableParams):
    """What both ways to distill share."""

    takes_quantized = True

    teacher: Teaching = Field(
        ORIGINAL,
        description="`original` (the recipe's own model), an .onnx file, a file of other weights for the recipe's model, "
        "or a network by factory",
    )
    student: Student | None = Field(
        None, description="the network to train; default: the model as the earlier stages left it"
    )
    label_weight: float | None = Field(
        None,
        ge=0,
        le=1e9,
        description="weight of the task's own loss on the labels; default: the technique's own where there are labels, else 0",
    )
    data_free: Literal["random", "generated"] | None = Field(
        None,
        description="train without data, on noise with the statistics that the teacher's first BatchNorm expects (random), "
        "or on inputs that are optimized until they look like training data to the teacher (generated)",
    )
    data_free_samples: int = Field(4096, ge=1, le=2_147_483_647, description="samples per epoch in data-free mode")
    data_free_mean: float = Field(
        0.0, description="mean of random inputs where no BatchNorm of the teacher tells it, as for an ONNX teacher"
    )
    data_free_std: float = Field(
        1.0, gt=0, le=1e9, description="standard deviation of random inputs where nothing tells it"
    )
    data_free_steps: int = Field(
        200, ge=1, le=1_000_000, description="optimization steps for each batch of `generated` inputs"
    )

    @model_validator(mode="after")
    def _labels_need_data(self) -> DistillParams:
        if self.data_free is not None and self.label_weight:
            raise ValueError("data-free inputs have no labels: leave label_weight out")
        return self

    def needs(self) -> Needs:
        """Samples, unless it is data-free; labels where they have a weight. Both networks are scored wherever they can be."""
        scored = Needs.of(reads=(Need.VALIDATION_DATA, Need.LABELS, Need.TASK, Need.METRIC))
        taught = Needs.of(reads=teacher_needs(self.teacher))
        if self.data_free is not None:
            return scored | taught
        return (
            scored
            | taught
            | Needs.of(Need.TRAINING_DATA, *((Need.LABELS, Need.TASK_LOSS) if self.label_weight else ()))
        )

    def files(self, base: Path) -> Mapping[str, Path]:
        """Everything that decides who teaches and who learns."""
        student = self.student
        factory, weights = (None, None) if student is None else (student.factory, student.weights)
        return {**teacher_files(self.teacher, base), **network_files("student", factory, weights, base)}

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        """What is impossible whatever the networks look like."""
        yield from super().problems(facts)
        if facts.form is Form.ONNX and (self.student is None or self.student.factory is None):
            yield Problem(
                "what shall learn must be a torch model, but the model is an ONNX graph here",
                "student",
                "give the student by `factory`, or put this stage before those that work on ONNX graphs",
            )
        if self.lora is not None and self.student is not None and self.student.init == "random":
            hint = "leave lora out, or let the student start from the teacher's channels (init: pruned)"
            yield Problem("adapters add to weights that are worth keeping, and these are random", "lora", hint)
        by_onnx = self.has_onnx_teacher(facts)
        if by_onnx and self.data_free == "generated":
            hint = "use data_free: random, or give the teacher as a torch network"
            yield Problem("inputs are generated by gradients, which an ONNX teacher has none of", "data_free", hint)
        if by_onnx and self.student is not None and self.student.width_multiplier is not None:
            hint = "give the student by `factory`, or the teacher as a torch network"
            yield Problem("only a torch teacher can be shrunk, and this one is an ONNX file", "student", hint)

    def has_onnx_teacher(self, facts: ModelFacts) -> bool:
        if self.teacher == ORIGINAL:
            return facts.original_form is Form.ONNX
        return isinstance(self.teacher, str) and self.teacher.endswith(".onnx")


class LogitsParams(DistillParams):
    """distill.logits: a student learns to give the teacher's outputs."""

    loss: LossName | None = Field(
        None,
        description="how outputs are compared: kl and dkd take them as logits; default: kl for classification and language "
        "models (per token), cosine for embeddings, boxes where `decode: yolo` reads them (candidate by candidate: scores, and the overlap of "
        "boxes), mse otherwise",
    )
    temperature: float = Field(4.0, gt=0, le=1e9, description="divides both networks' logits before softmax")
    teacher_weight: float = Field(
        0.9, ge=0, le=1e9, description="weight of the loss against the teacher, which has the factor T^2 in it"
    )
    standardize: bool = Field(
        False,
        description="scale each sample's logits to mean 0 and deviation 1 first, so that only their order and shape count",
    )
    dkd_alpha: float = Field(1.0, ge=0, le=1e9, description="dkd: weight of how sure the teacher is of the right class")
    dkd_beta: float = Field(8.0, ge=0, le=1e9, description="dkd: weight of how the teacher ranks the other classes")

    @property
    def teacher_loss(self) -> TeacherLoss:
        """How outputs are compared."""
        return TeacherLoss(self.loss, self.temperature, self.standardize, self.dkd_alpha, self.dkd_beta)


class LayerPair(Section):
    """Layers by module path. A * stands for one part of a path; patterns pair up in order."""

    teacher: str = Field(description="module path in the teacher, as in layer2 or blocks.*.attn", min_length=1)
    student: str = Field(description="module path in the student", min_length=1)


class FeaturesParams(DistillParams):
    """distill.features: a student learns to have the teacher's inner features."""

    method: Literal["hints", "attention", "relational", "contrastive"] = Field(
        "attention",
        description="hints: the features themselves, through an adapter where widths differ; attention: where they are large; "
        "relational: distances and angles between samples; contrastive: which sample they belong to",
    )
    layers: tuple[LayerPair, ...] = Field(
        (),
        description="pairs of layers; default: the last module of each resolution that both networks have (of the last one "
        "only for relational and contrastive)",
    )
    feature_weight: float = Field(
        1.0, ge=0, le=1e9, description="weight of the loss between features, relative to the method's usual one"
    )
    logits_weight: float = Field(
        0.0, ge=0, le=1e9, description="weight of the KL divergence between outputs, beside the features"
    )
    temperature: float = Field(4.0, gt=0, le=1e9, description="divides both networks' logits before softmax")
    distance_weight: float = Field(
        1.0, ge=0, le=1e9, description="relational: weight of the distances between pairs of samples"
    )
    angle_weight: float = Field(2.0, ge=0, le=1e9, description="relational: weight of the angles in triples of samples")
    contrast_temperature: float = Field(0.1, gt=0, le=1e9, description="contrastive: divides the similarities")
    contrast_dim: int = Field(
        128, ge=2, le=65_536, description="contrastive: dimensions of the space in which features are compared"
    )

    def problems(self, facts: ModelFacts) -> Iterator[Problem]:
        yield from super().problems(facts)
        if self.has_onnx_teacher(facts):
            hint = "use distill.logits, or give the teacher as a torch network"
            yield Problem("an ONNX teacher gives outputs and no features", "teacher", hint)


LOGITS = TechniqueSpec(
    name="distill.logits",
    version=2,
    summary="a smaller network learns to give a teacher's outputs, with labels or without",
    params=LogitsParams,
    takes=(Form.TORCH, Form.ONNX),
    gives=Form.TORCH,
    sources=(
        "Hinton et al. 2015, Distilling the Knowledge in a Neural Network, section 2",
        "Zhao et al. 2022, Decoupled Knowledge Distillation, equation 7",
        "Sun et al. 2024, Logit Standardization in Knowledge Distillation, section 4",
        "Yin et al. 2020, Dreaming to Distill: Data-Free Knowledge Transfer via DeepInversion, section 3.2",
    ),
)

FEATURES = TechniqueSpec(
    name="distill.features",
    version=2,
    summary="a smaller network learns to have a teacher's inner features",
    params=FeaturesParams,
    takes=(Form.TORCH, Form.ONNX),
    gives=Form.TORCH,
    sources=(
        "Romero et al. 2015, FitNets: Hints for Thin Deep Nets, section 2.2",
        "Zagoruyko and Komodakis 2017, Paying More Attention to Attention, equation 2",
        "Park et al. 2019, Relational Knowledge Distillation, equations 6 to 10",
        "Tian et al. 2020, Contrastive Representation Distillation, section 3",
    ),
)
