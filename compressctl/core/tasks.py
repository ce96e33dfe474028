"""What a model's outputs mean: which labels a task takes, what scores it, and how its results are read. Light."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from compressctl.core.backend import Session
    from compressctl.core.data import Batch, Split
    from compressctl.core.source import MetricSpec

Task = Literal[
    "classification",
    "multi-label",
    "regression",
    "embedding",
    "ranking",
    "token-classification",
    "frame-classification",
    "frame-multi-label",
    "segmentation",
    "recognition",
    "detection",
    "language-model",
    "custom",
]

Loss = Callable[..., Any]
"""A function of a recipe author's, of outputs and labels as tensors, that gives a scalar tensor."""

PairLoss = Literal["cosent", "cosine"]
"""Losses between the vectors of pairs and the pairs' scores; see training/pair_losses.py."""

Distance = Callable[[Any, Any], Any]
"""A function of a student's and a teacher's outputs as tensors that gives a scalar tensor."""

Decode = Callable[[Mapping[str, "np.ndarray"]], Sequence[Any]]
"""Reads every sample's result off the outputs of one call, by name, (n, ...) samples along axis 0: n results in the task's form."""


UNLABELLED = (-100, 255)
"""Labels of pixels, tokens and frames that do not count: torch's and Pascal VOC's."""


@dataclass(frozen=True)
class TaskSpec:
    """labels: what they are. metric: what scores where a recipe names nothing, None for tasks without one of their own.

    decoder: what reads results where a recipe names nothing; None where the first output itself is scored, or where a recipe must say.
    class_axis: of the first output, counts classes; None for tasks whose outputs are no scores of classes. has_loss: whether training has
    one for it. results: the "module:attribute" of what compares results with the original's own; None where outputs are not decoded.
    """

    labels: str
    metric: str | None = None
    decoder: str | None = None
    results: str | None = None
    class_axis: int | None = None
    has_loss: bool = True


TASKS: dict[Task, TaskSpec] = {
    "classification": TaskSpec("(n,) classes, whole numbers from 0", "accuracy", class_axis=1),
    "multi-label": TaskSpec(
        "(n, classes) of 0 and 1: any number of classes at once. The first output has a score for each, of logits or probabilities",
        "mean_average_precision",
    ),
    "regression": TaskSpec("as many numbers per sample as the first output has", "r2"),
    "embedding": TaskSpec(
        "scores of pairs, one on both samples, which are two in a row (source: sentence_pairs); to train on, wanted vectors or classes too",
        "spearman",
    ),
    "language-model": TaskSpec(
        "the tokens themselves, (n, tokens); the data may leave them out. Training and measuring both shift: the logits at "
        "position t predict the label at t + 1. -100, and padding by attention_mask, do not count. Labels that are shifted already "
        "are refused",
        "perplexity",
        class_axis=-1,
    ),
    "ranking": TaskSpec(
        "(n, 2): the query that a sample belongs to, and how relevant it is (0 and above); the first output has one score for each sample",
        "ndcg_at_10",
    ),
    "token-classification": TaskSpec(
        "a class for each token, (n, tokens) whole numbers from 0; -100 does not count",
        "token_f1",
        "tokens",
        "compressctl.tasks.sequences:TOKENS",
        class_axis=-1,
    ),
    "frame-classification": TaskSpec(
        "a class for each frame (of sound, a video, a signal), (n, frames) whole numbers from 0; -100 does not count",
        "frame_accuracy",
        "frames",
        "compressctl.tasks.sequences:FRAMES",
        class_axis=-1,
    ),
    "frame-multi-label": TaskSpec(
        "(n, frames, classes) of 0 and 1: any number of classes in each frame (notes of music, sounds of a scene)",
        "active_f1",
        "active",
        "compressctl.tasks.active_classes:ACTIVE",
    ),
    "segmentation": TaskSpec(
        "a class for each pixel, (n, height, width) whole numbers from 0; -100 and 255 do not count",
        "mean_iou",
        "argmax",
        "compressctl.tasks.segmentation:PIXELS",
        class_axis=1,
    ),
    "recognition": TaskSpec(
        "the text in an image, or what is spoken: a string for each sample",
        "cer",
        results="compressctl.tasks.text:STRINGS",
        has_loss=False,
    ),
    "detection": TaskSpec(
        "for each sample its boxes, (k, 5): x1, y1, x2, y2 in pixels of the model's input, class; a sixth number of 1 marks a crowd",
        "map",
        results="compressctl.tasks.detection:BOXES",
        has_loss=False,
    ),
    "custom": TaskSpec("whatever the metric of your own takes", has_loss=False),
}


@dataclass(frozen=True)
class Tally:
    """What of a model's decoded results is as the original's. reference: what the original gives, of which `kept` is found again;
    added: what the original does not give. equal_samples: whose results are wholly the same.

    by_class: the three by class number. edits: characters of text to change, of `characters` of the original's; both None elsewhere,
    and edits None where texts are too long to count them.
    """

    reference: int
    kept: int
    added: int
    equal_samples: int
    by_class: Mapping[int, tuple[int, int, int]]
    edits: int | None = None
    characters: int | None = None

    def __add__(self, more: Tally) -> Tally:
        """Of two groups of samples together."""
        classes = dict(self.by_class)
        for number, counts in more.by_class.items():
            was = classes.get(number, (0, 0, 0))
            classes[number] = (was[0] + counts[0], was[1] + counts[1], was[2] + counts[2])
        return Tally(
            self.reference + more.reference,
            self.kept + more.kept,
            self.added + more.added,
            self.equal_samples + more.equal_samples,
            dict(sorted(classes.items())),
            _both(self.edits, more.edits),
            _both(self.characters, more.characters),
        )


def _both(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


class ComparedResults(Protocol):
    """How a task's decoded results are compared. unit: what is counted. rule: when one counts as kept."""

    unit: str
    rule: str

    def as_labels(self, results: np.ndarray) -> np.ndarray:
        """The original's results in the form of labels, to score others by. results: (n,) objects."""
        ...

    def tally(self, before: np.ndarray, after: np.ndarray) -> Tally:
        """before: (n,) objects, the original's. after: another model's on the same samples."""
        ...


@dataclass(frozen=True)
class Learning:
    """What labels teach. loss: the recipe author's function, what the decoder's params define, or one between pairs by name; None for
    the task's own.
    distance: how the decoder's params say that a student's outputs are compared with a teacher's, None for what is usual.

    heads: by head, where labels have a field for each; place: of the output that it learns, weight: of its loss.
    """

    task: Task = "classification"
    loss: Loss | PairLoss | None = None
    heads: Mapping[str, Learning] = field(default_factory=dict)
    place: int = 0
    weight: float = 1.0
    distance: Distance | None = None

    @property
    def has_loss(self) -> bool:
        if self.heads:
            return all(head.has_loss for head in self.heads.values())
        return self.loss is not None or TASKS[self.task].has_loss


class EndResults(Protocol):
    """What a function reads with several files that work together, of which one is judged."""

    def read(self, session: Session, split: Split, *, is_original: bool = False) -> Iterator[tuple[Batch, list[Any]]]:
        """Batches of the samples that the function is given, with a result for each sample; session: the file that is judged.

        is_original: it is as it came, and so are the other files then.
        """
        ...


@dataclass(frozen=True)
class Judge:
    """What a model's outputs are judged by. decode: None where the metric takes one output as it is. place: of that output.

    heads: by head, each with an output and a metric of its own, where labels have a field for each.
    together: reads end results with other files' help, which are scored then in place of this file's outputs.
    """

    task: Task = "custom"
    metric: MetricSpec | None = None
    decode: Decode | None = None
    place: int = 0
    heads: Mapping[str, Judge] = field(default_factory=dict)
    together: EndResults | None = None

    @property
    def parts(self) -> Mapping[str, Judge]:
        """What judges, by head; alone under an empty name where there are no heads."""
        return self.heads or {"": self}

    @property
    def compared(self) -> ComparedResults | None:
        """How results are compared with the original's; None where nothing is decoded."""
        from compressctl.core.registry import load

        place = TASKS[self.task].results
        compared: ComparedResults | None = load(place) if place and (self.decode or self.together) else None
        return compared
