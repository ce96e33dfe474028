"""What a stage reads beside its model, said by its own params: what it must have, and what it reads where it is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from compressctl.core.errors import Problem
from compressctl.core.model import Form

if TYPE_CHECKING:
    from compressctl.core.backend import ProductWeights
    from compressctl.core.data import SplitName
    from compressctl.core.technique import ModelFacts


class Need(StrEnum):
    """One thing of a run that a stage can be handed.

    The splits, one by one. LABELS: of their samples. TASK, METRIC: `run.task`, `run.metric`.
    TASK_LOSS: that the task has a loss of its own, which custom has not. SCORE: `run.score` and
    `run.baseline_score`. SESSION: `run.open`. LATENCY: `run.latency_ms`, `run.latency_in`, and how the target serves. TARGET: the target's
    backend, device and profile. ENERGY: `run.joules`. ORIGINAL: `run.original`.
    """

    TRAINING_DATA = "training data"
    VALIDATION_DATA = "validation data"
    CALIBRATION_DATA = "calibration data"
    LABELS = "labels"
    TASK = "task"
    TASK_LOSS = "a task with a loss"
    METRIC = "metric"
    SCORE = "scores"
    SESSION = "sessions of the runtime"
    LATENCY = "latencies"
    TARGET = "target"
    ENERGY = "energy"
    ORIGINAL = "original model"


SPLITS: Mapping[Need, SplitName] = {
    Need.TRAINING_DATA: "train",
    Need.VALIDATION_DATA: "validation",
    Need.CALIBRATION_DATA: "calibration",
}
"""No stage is handed the test split: it reports."""

FROM_DATA = frozenset({*SPLITS, Need.LABELS, Need.SCORE})
"""What only a recipe with a data section can hand over."""

SCORED = frozenset({Need.METRIC, Need.SCORE, Need.SESSION})
"""What there is where the recipe has data and a metric."""

MEASURED = frozenset({Need.SCORE, Need.SESSION, Need.LATENCY, Need.ENERGY})
"""What comes from the target's runtime."""


@dataclass(frozen=True)
class Needs:
    """requires: what a stage cannot work without; a recipe that lacks it is refused before anything runs.

    reads: what else it looks at where the recipe has it. Both are handed over and part of the stage's cache key; nothing
    else is.
    """

    requires: frozenset[Need] = frozenset()
    reads: frozenset[Need] = frozenset()

    @staticmethod
    def of(*requires: Need, reads: tuple[Need, ...] = ()) -> Needs:
        return Needs(frozenset(requires), frozenset(reads))

    @property
    def all(self) -> frozenset[Need]:
        return self.requires | self.reads

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.requires | other.requires, self.reads | other.reads)

    def __contains__(self, need: Need) -> bool:
        return need in self.all

    def any_of(self, needs: frozenset[Need]) -> bool:
        return bool(self.all & needs)


class Section(BaseModel):
    """A mapping in a recipe: it has no keys but its own, and nobody changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TechniqueParams(Section):
    """Params of a technique, or a section of them. They say what their stage reads; what they do not say it is not handed.

    A section that is TechniqueParams itself speaks for itself: what it needs, its files and problems are found by its field.
    takes_quantized: whether a model that an earlier stage has quantized is no problem; takes_rounded_weights: whether one is none of which weights alone
    were, which keep their codes. is_training: as a section, works on
    torch models alone.
    """

    takes_quantized: ClassVar[bool] = False
    takes_rounded_weights: ClassVar[bool] = False
    is_training: ClassVar[bool] = False

    def needs(self) -> Needs:
        """What a stage with these params reads. Overrides add their own to `super().needs()`, which asks the sections."""
        found = Needs()
        for section in self._sections().values():
            found |= section.needs()
        return found

    def files(self, base: Path) -> Mapping[str, Path]:
        """The files that these params name, by a name that does not depend on where they lie; their contents are part of
        the cache key. base: the folder that the recipe's paths start from. Raises UsageError for code that is not there."""
        return {
            f"{name}/{file}": path
            for name, section in self._sections().items()
            for file, path in section.files(base).items()
        }

    def problems(self, facts: ModelFacts) -> Iterable[Problem]:
        """What is wrong with these params beyond what each field refuses, as far as it shows before a weight is loaded."""
        for name, section in self._sections().items():
            if section.is_training and facts.form is Form.ONNX:
                hint = f"leave {name} out, or give the model as torch (source: python, or trainable: true beside source: onnx)"
                yield Problem("training needs a torch model, but the model is an ONNX graph here", name, hint)
            yield from (replace(problem, path=f"{name}.{problem.path}") for problem in section.problems(facts))

    @property
    def leaves_activations(self) -> bool:
        """Whether a stage that could quantize activations leaves them in float with these params, so that its file promises no speed."""
        return False

    def products(self) -> Sequence[ProductWeights]:
        """How the stage stores weights of matrix products alone, which an older runtime may not read."""
        return ()

    def runtimes(self) -> Sequence[str]:
        """The backends in which the stage holds a limit by measuring, "" for the target's."""
        return ()

    def _sections(self) -> dict[str, TechniqueParams]:
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, TechniqueParams)}


def declared_needs(params: BaseModel) -> Needs:
    """What the params declare; nothing where they are a plain pydantic model."""
    return params.needs() if isinstance(params, TechniqueParams) else Needs()


def declared_problems(params: BaseModel, facts: ModelFacts) -> Iterable[Problem]:
    return params.problems(facts) if isinstance(params, TechniqueParams) else ()


def leaves_activations(params: BaseModel) -> bool:
    return isinstance(params, TechniqueParams) and params.leaves_activations


def declared_products(params: BaseModel) -> Sequence[ProductWeights]:
    return params.products() if isinstance(params, TechniqueParams) else ()


def declared_runtimes(params: BaseModel) -> Sequence[str]:
    return params.runtimes() if isinstance(params, TechniqueParams) else ()


def declared_files(params: BaseModel, base: Path) -> Mapping[str, Path]:
    return params.files(base) if isinstance(params, TechniqueParams) else {}
