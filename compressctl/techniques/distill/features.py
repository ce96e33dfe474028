"""distill.features: a student learns to have the teacher's inner features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from compressctl.core.errors import UsageError
from compressctl.core.model import Model
from compressctl.core.technique import RunContext, StageResult
from compressctl.graph.torch_outputs import named_outputs
from compressctl.techniques.distill._adapters import Embeddings, adapter, reinitialise, same_places, vectors
from compressctl.techniques.distill._feature_losses import angle_loss, attention_transfer, contrast, distance_loss
from compressctl.techniques.distill._layers import Pair, listening, pair_layers
from compressctl.techniques.distill._preflight_warnings import warn_of_heat, warn_of_untaught_end
from compressctl.techniques.distill._setup import conclude, label_loss, prepare, samples_of
from compressctl.techniques.distill._synthetic import Afresh
from compressctl.techniques.distill.params import FeaturesParams
from compressctl.training.data import TensorBatch
from compressctl.training.lora.train import train_adaptable
from compressctl.training.objective import Objective
from compressctl.training.supervision.distances import squared_difference
from compressctl.training.supervision.kd import as_classes, kl
from compressctl.training.supervision.load_teacher import check_outputs, in_torch
from compressctl.training.supervision.loss_history import LossHistory
from compressctl.training.supervision.objective import LabelLoss
from compressctl.training.supervision.teacher import CachedTeacher, TorchTeacher
from compressctl.training.supervision.teacher_loss import class_axis

_LABEL_WEIGHT = 1.0
_USUAL_WEIGHT = {"hints": 1.0, "attention": 10.0, "relational": 25.0, "contrastive": 0.8}
"""What each method's loss is multiplied by so that it stands beside a cross-entropy. Relational and contrastive: as their
authors do. Attention: between their 1 at 32x32 places and 16 at 8x8, for a distance instead of a mean over places. A hint,
a mean over normalised features, is of that size already."""

FeatureLoss = Callable[[Tensor, Tensor, nn.Module, TensorBatch], Tensor]
"""Student's features, teacher's features, the companion that belongs to the pair, the batch: a scalar."""


def apply(model: Model, params: FeaturesParams, run: RunContext) -> StageResult:
    """Train the student, with adapters beside it that are thrown away after."""
    if params.logits_weight > 0:
        warn_of_heat(model.history, params.temperature, run.events)
    lesson = prepare(model, params, run)
    teacher = in_torch(lesson.teacher, "distill.features")
    student = lesson.student.model
    if params.logits_weight > 0:
        check_outputs(teacher.model, student)
    pairs = _pairs(params, teacher.network, student.body, samples_of(lesson, 2))
    companions = nn.ModuleList(_companion(params, pair) for pair in pairs)
    reinitialise(companions, run.seed)
    labels, label_weight = label_loss(params, lesson, _LABEL_WEIGHT)
    warn_of_untaught_end(labels is None and params.logits_weight == 0, run.events)
    ledger = LossHistory()
    objective: Objective = FeaturesObjective(
        teacher, pairs, companions, _loss(params), params, labels, label_weight, class_axis(run.task), ledger
    )
    if lesson.draw is not None:
        objective = Afresh(objective, lesson.draw, student.signature)
    trained = train_adaptable(student, objective, params, lesson.run, [ledger], teacher=CachedTeacher(teacher, 0))
    facts = {
        "layers": [{"teacher": pair.teacher, "student": pair.student} for pair in pairs],
        "method": params.method,
        "label_weight": label_weight,
        "loss_parts": ledger.by_part,
    }
    return StageResult(
        replace(student, body=trained.network), {**conclude(lesson, trained.network), **facts, **trained.facts}
    )


def _pairs(params: FeaturesParams, teacher: nn.Module, student: nn.Module, samples: tuple[Tensor, ...]) -> list[Pair]:
    """Raises UsageError for pairs that the method cannot compare."""
    found = pair_layers(params.layers, teacher, student, samples)
    if not params.layers and params.method in ("relational", "contrastive"):
        found = found[-1:]
    for pair in found:
        shapes = f"{pair.teacher} {list(pair.teacher_shape)} and {pair.student} {list(pair.student_shape)}"
        if len(pair.teacher_shape) != len(pair.student_shape) and params.method in ("hints", "attention"):
            raise UsageError(
                f"layers: {shapes} are not of one kind",
                hint="pair feature maps with feature maps, or use method: relational",
            )
        if params.method == "attention" and len(pair.teacher_shape) < 3:
            raise UsageError(f"layers: {shapes} have no places to attend to", hint="use method: hints for vectors")
        if (
            params.method == "attention"
            and len(pair.teacher_shape) == 3
            and pair.teacher_shape[1] != pair.student_shape[1]
        ):
            raise UsageError(f"layers: {shapes} have different numbers of tokens", hint="use method: relational")
    return found


def _companion(params: FeaturesParams, pair: Pair) -> nn.Module:
    if params.method == "hints":
        return adapter(pair.student_shape, pair.teacher_shape)
    if params.method == "contrastive":
        widths = [shape[1] if len(shape) == 4 else shape[-1] for shape in (pair.student_shape, pair.teacher_shape)]
        return Embeddings(widths[0], widths[1], params.contrast_dim)
    return nn.Identity()


def _loss(params: FeaturesParams) -> FeatureLoss:
    def hints(student: Tensor, teacher: Tensor, companion: nn.Module, batch: TensorBatch) -> Tensor:
        """Source: Romero et al. 2015, FitNets, equation 3 (as a mean, so that it does not grow with the layer's size)."""
        return squared_difference(*same_places(companion(student), teacher))

    def attention(student: Tensor, teacher: Tensor, companion: nn.Module, batch: TensorBatch) -> Tensor:
        return attention_transfer(*same_places(student, teacher))

    def relational(student: Tensor, teacher: Tensor, companion: nn.Module, batch: TensorBatch) -> Tensor:
        first, second = vectors(student), vectors(teacher)
        loss = params.distance_weight * distance_loss(first, second)
        return loss + params.angle_weight * angle_loss(first, second) if params.angle_weight else loss

    def contrastive(student: Tensor, teacher: Tensor, companion: nn.Module, batch: TensorBatch) -> Tensor:
        labels = batch.labels if isinstance(batch.labels, Tensor) else None
        classes = labels if labels is not None and labels.ndim == 1 and not labels.is_floating_point() else None
        first, second = companion(student, teacher)
        return contrast(first, second, params.contrast_temperature, classes)

    return {"hints": hints, "attention": attention, "relational": relational, "contrastive": contrastive}[params.method]


class FeaturesObjective(nn.Module):
    """The mean loss over the pairs of layers, with the labels' and the logits' beside it.

    A module, so that the companions are trained along. The teacher is no part of it.
    """

    def __init__(
        self,
        teacher: TorchTeacher,
        pairs: Sequence[Pair],
        companions: nn.ModuleList,
        loss: FeatureLoss,
        params: FeaturesParams,
        labels: LabelLoss | None,
        label_weight: float,
        class_axis: int,
        ledger: LossHistory,
    ) -> None:
        super().__init__()
        self.companions = companions
        self.teacher, self.pairs, self.loss, self.params = teacher, pairs, loss, params
        self.labels, self.label_weight, self.class_axis, self.ledger = labels, label_weight, class_axis, ledger

    def forward(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        with listening(self.teacher.network, [pair.teacher for pair in self.pairs]) as theirs:
            taught = self.teacher(batch.inputs)
        with listening(network, [pair.student for pair in self.pairs]) as ours:
            outputs = next(iter(named_outputs(network(*batch.inputs)).values()))
        losses = [
            self.loss(ours[pair.student], theirs[pair.teacher], companion, batch)
            for pair, companion in zip(self.pairs, self.companions, strict=True)
        ]
        weight = self.params.feature_weight * _USUAL_WEIGHT[self.params.method]
        parts: dict[str, Tensor] = {self.params.method: weight * sum(losses[1:], start=losses[0]) / len(losses)}
        if self.params.logits_weight > 0:
            classes = (as_classes(outputs, self.class_axis), as_classes(taught, self.class_axis))
            parts["teacher"] = self.params.logits_weight * kl(*classes, self.params.temperature)
        if self.labels is not None:
            parts["labels"] = self.label_weight * self.labels(outputs, batch)
        return self.ledger.total(parts, len(outputs) if network.training else 0)
