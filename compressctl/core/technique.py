"""What a technique is: a light description that recipes are checked against, and the code that it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressctl.core.errors import StageError
from compressctl.core.failures import unusable
from compressctl.core.registry import Registry
from compressctl.core.tasks import Learning
from compressctl.core.whole_files import FolderInWriting

if TYPE_CHECKING:
    from pydantic import BaseModel

    from compressctl.core.backend import Session
    from compressctl.core.data import Dataset, SplitName
    from compressctl.core.events import Events
    from compressctl.core.model import Form, Model, Signature
    from compressctl.core.source import MetricSpec
    from compressctl.core.target import Target
    from compressctl.core.tasks import Decode, Distance, Loss, PairLoss, Task


@dataclass(frozen=True)
class ModelFacts:
    """What a check may know before a weight is loaded. form: what the stage would receive. original_form: the recipe's model's.
    weights_alone: whether nothing but weights was quantized."""

    form: Form
    target: Target
    signature: Signature | None = None
    quantized: bool = False
    weights_alone: bool = False
    original_form: Form | None = None


@dataclass(frozen=True)
class TechniqueSpec:
    """A technique as the registry lists it. The module that holds one imports no torch, onnx or numpy.

    params: a pydantic model with extra="forbid" and a description on every field; becomes part of the recipe's schema. As
    `TechniqueParams` it says what the stage reads beside its model; a plain model reads nothing else. takes: the form that it
    works on; several where it takes the model as it comes. gives: the form of its result, None for the form that it was
    given. implementation: `"module:function"`, an `Apply`, imported when the stage runs; by default `apply` in the file of the
    technique's name in this package. version: raise it when the same
    parameters give another result; it is part of the cache key. sources: papers, with the section or equation.
    quantizes: its result is quantized; of_weights_alone: activations stay float. destroys: what is no longer possible after it, in words. bisects: whether it can give
    parts of its work back until `run.accept` holds. promises_speed: whoever uses it expects a faster file, so a result that is slower than
    what the stage was given is undone.
    """

    name: str
    version: int
    summary: str
    params: type[BaseModel]
    takes: Form | tuple[Form, ...]
    gives: Form | None
    destroys: tuple[str, ...] = ()
    quantizes: bool = False
    of_weights_alone: bool = False
    bisects: bool = False
    sources: tuple[str, ...] = ()
    promises_speed: bool = False
    implementation: str = ""

    def __post_init__(self) -> None:
        if not self.implementation:
            object.__setattr__(self, "implementation", "{}.{}:apply".format(*_place(self.name)))

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that it works on."""
        return self.takes if isinstance(self.takes, tuple) else (self.takes,)

    def gives_from(self, form: Form) -> Form:
        """The form of its result when it is given a model in `form`."""
        return form if self.gives is None else self.gives


@dataclass(frozen=True)
class StageResult:
    """What a technique hands back. facts: ready for JSON, shown in the report.

    pinned: the stage as a recipe would say it that leaves nothing to search, `use` and params, where the technique searched.
    """

    model: Model
    facts: Mapping[str, Any] = field(default_factory=dict)
    pinned: Mapping[str, Any] | None = None


Clock = Callable[[Sequence["Model"]], tuple[float, ...]]
"""What several models take, measured in turn."""


class Scorer(Protocol):
    """The task's metric of a model on a split, measured through the target's runtime on the file it would be shipped as."""

    def __call__(self, model: Model, split: SplitName) -> float: ...


@dataclass(frozen=True)
class Acceptance:
    """Whether a model holds a stage's gate on the validation split. facts: what was measured, for the report.

    words: what missed, empty where it holds.
    """

    holds: bool
    facts: Mapping[str, Any]
    words: str = ""


@dataclass(frozen=True)
class RunContext:
    """What a stage is given beside its model. seed: this stage's own. folder: scratch space, gone after the run.

    What its params do not declare is not there: its first use raises UndeclaredReadError, naming what to declare.
    data: None when the recipe has none. target: threads, batch and options too where LATENCY is declared beside TARGET.
    score: None when the recipe has no labelled data. accept: holds the stage's gate against a model, where the technique shall give
    parts of its work back until one holds; None otherwise. baseline_score: the original model's on the validation split, measured
    when first called. open: the model built for the target's runtime, as it would be shipped, and opened.
    latency_ms: medians of several models' latency on the target's runtime at its batch and threads, interleaved; what a
    technique decides by, not what is reported; None where another runtime stands in for it here. latency_in: the same on another runtime of this machine, by backend. joules: what a call takes on the target's
    runtime, in the same way; raises MachineError where nothing counts it. original: a fresh copy of the model that the recipe loads. loss, distance, heads: the recipe
    author's own loss, the decoder's or a named one, how its params compare a student with a teacher, and what the labels of several heads teach; `learning` holds
    them with the task. metric: what score
    counts in. decode: what reads results, which the metric takes, off outputs; None where it takes the first output. base: the folder that the recipe's relative paths start from. checkpoint: a folder that outlives a killed run
    and is found again by the same stage of the same recipe; None without a cache. processes: how many carry out this stage
    together, each with the same model and the same measured numbers.
    """

    seed: int
    events: Events
    folder: Path
    target: Target
    data: Dataset | None = None
    score: Scorer | None = None
    baseline_score: Callable[[], float] | None = None
    open: Callable[[Model], Session] | None = None
    accept: Callable[[Model], Acceptance] | None = None
    task: Task = "classification"
    loss: Loss | PairLoss | None = None
    distance: Distance | None = None
    heads: Mapping[str, Learning] = field(default_factory=dict)
    metric: MetricSpec | None = None
    decode: Decode | None = None
    base: Path = Path()
    latency_ms: Clock | None = None
    latency_in: Callable[[str], Clock] | None = None
    joules: Clock | None = None
    original: Callable[[], Model] | None = None
    checkpoint: Path | None = None
    processes: int = 1

    @property
    def learning(self) -> Learning:
        """What labels teach."""
        return Learning(self.task, self.loss, self.heads, distance=self.distance)

    def clock(self) -> Clock:
        """`latency_ms`. Raises StageError where nothing on this machine runs what the target is to run."""
        if self.latency_ms is None:
            raise StageError(
                "the target's runtime is not on this machine, so that there is no latency to go by",
                hint="go by macs or parameters, or run it on the target",
            )
        return self.latency_ms

    def part(self, name: str) -> RunContext:
        """The same for one of several trainings of a stage, each with a place of its own to resume from."""
        return self if self.checkpoint is None else replace(self, checkpoint=self.checkpoint / name)

    def keep(self, name: str, write: Callable[[Path], object]) -> bool:
        """Let `write` write a file of the checkpoint, which is there whole or as it was before; False where it is not there now.

        A place that takes none is a warning: the stage can do without, and what resumes it later starts it again.
        """
        if self.checkpoint is None:
            return False
        try:
            self.checkpoint.mkdir(parents=True, exist_ok=True)
            with FolderInWriting(self.checkpoint) as folder:
                write(folder / name)
                (folder / name).replace(self.checkpoint / name)
        except Exception as error:
            refused = unusable(error)
            if refused is None:
                raise
            self.events.warn(f"what is done so far cannot be kept for a run that resumes this one: {refused}")
            return False
        return True


class Apply(Protocol):
    def __call__(self, model: Any, params: Any, run: RunContext) -> StageResult:
        """model: a TorchModel or an OnnxModel, as the spec's `takes` says; annotate which."""
        ...


_NAMES = (
    "quantize.static", "quantize.dynamic", "quantize.mixed", "quantize.weights", "quantize.qat", "quantize.binary", "cast",
    "unroll", "unfold", "finetune", "prune.channels", "prune.heads", "prune.layers", "prune.unstructured", "factorize.svd", "factorize.tucker",
    "factorize.cp", "share.kmeans", "distill.logits", "distill.features",
    "search.supernet", "search.architecture", "search.replacements", "replace.activations", "dynamic.exits", "dynamic.tokens",
    "dynamic.blocks", "dynamic.experts",
)  # fmt: skip


def _place(name: str) -> tuple[str, str]:
    """The family's module and the technique's own name."""
    family, _, own = name.rpartition(".")
    return f"compressctl.techniques.{family or own}", own


techniques: Registry[TechniqueSpec] = Registry(
    "technique",
    "compressctl.techniques",
    {name: f"{family}.params:{own.upper()}" for name, (family, own) in ((name, _place(name)) for name in _NAMES)},
)
