"""What decides which techniques fit: the model's form and layers, its data, and what can judge a file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compressctl.core.cache import Cache
from compressctl.core.data import SplitName
from compressctl.core.events import Listener
from compressctl.core.model import OnnxModel, TorchModel
from compressctl.core.tasks import TASKS
from compressctl.graph.index import all_nodes
from compressctl.graph.summary import Summary, summarize
from compressctl.measure.score import predict_all
from compressctl.pipeline.evaluator import opened as session_of
from compressctl.pipeline.event_listeners import Warnings
from compressctl.pipeline.executor import Executor
from compressctl.pipeline.workspace import Workspace, in_float32, open_backend
from compressctl.recipe.schema import Recipe
from compressctl.search.known_samples import KnownSamples, known_samples
from compressctl.search.opened import opened
from compressctl.sources.called import scored_samples

_SPLITS: tuple[SplitName, ...] = ("train", "validation", "calibration", "test")
_MOST_SAMPLES, _FIRST_SAMPLES, _SECONDS = 200, 4, 10.0
"""That margins are told from, of which the first tell whether there are any, and for how many more there is time."""

_KINDS: Mapping[str, tuple[str, ...]] = {
    "convolutions": ("Conv", "ConvTranspose"),
    "products": ("Gemm", "MatMul"),
    "recurrent": ("LSTM", "GRU", "RNN"),
    "embeddings": ("Gather",),
}
_ATTENDS = ("Softmax", "Attention", "MultiHeadAttention")


@dataclass(frozen=True)
class Facts:
    """shares: of all parameters, by kind of layer that holds them in float32. operators: by the graph's node. quantized: what is rounded already, in
    words.

    samples: by split; empty without data. metric: its name where labels and a metric score files, with the unit of a drop; heads:
    several of them do. attends: softmaxes and attentions of the graph. decodes: whether results are read off outputs and compared. decided: outputs that look like scores of
    classes, whose decisions can be compared. original_bytes: of the float file as the target's runtime takes it. margins: where outputs judge, by
    output how far each of the original's decisions is from being another one, on all samples but those of the test split; see margins.py. known: where a
    network can be trained, that the original was trained on the samples that choose; None where it does not look so.
    becomes_network: whether a network can be made of the graph, for what prunes and trains; no_network: why not, where that was tried. lacks_norms:
    whether that has convolutions without one, as where BatchNorm was folded into them.
    """

    is_torch: bool
    parameters: int
    shares: Mapping[str, float]
    original_bytes: int
    operators: Mapping[str, str] = field(default_factory=dict)
    quantized: tuple[str, ...] = ()
    attends: int = 0
    samples: Mapping[str, int] = field(default_factory=dict)
    is_random: bool = False
    has_labels: bool = False
    metric: str | None = None
    unit: str = ""
    has_heads: bool = False
    decodes: bool = False
    task: str = "custom"
    margins: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    known: KnownSamples | None = None
    becomes_network: bool = False
    no_network: str = ""
    lacks_norms: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def has_data(self) -> bool:
        """Real samples."""
        return bool(self.samples) and not self.is_random

    @property
    def is_judged(self) -> bool:
        """Whether any sample that nothing else looks at tells what a file lost."""
        return self.has_data and self.samples.get("validation", 0) > 0

    @property
    def can_calibrate(self) -> bool:
        return self.has_data and self.samples.get("calibration", 0) > 0

    @property
    def can_train(self) -> bool:
        """Whether a network can be trained, and is told when it is better: without labels the original would teach it alone."""
        return self.has_network and self.has_lessons

    @property
    def has_lessons(self) -> bool:
        return self.is_judged and self.has_labels and self.samples.get("train", 0) > 0

    @property
    def has_network(self) -> bool:
        return self.is_torch or self.becomes_network

    @property
    def scores(self) -> bool:
        """Whether labels decide what is lost."""
        return self.has_labels and (self.metric is not None or self.has_heads)

    def dealt(self, validation: int, calibration: int) -> Facts:
        """With other numbers of samples in these splits, and the rest of the same ones to train on."""
        pool = sum(self.samples[name] for name in ("train", "validation", "calibration"))
        others = {"validation": validation, "calibration": calibration, "train": pool - validation - calibration}
        return replace(self, samples={**self.samples, **others})

    def share(self, *kinds: str) -> float:
        return sum(self.shares.get(kind, 0.0) for kind in kinds)


def read_facts(recipe: Recipe, cache: Cache | None, listeners: Sequence[Listener] = ()) -> Facts:
    """Load model and data, and try one batch, as every run does before its stages. Raises what that raises."""
    warnings = Warnings()
    with opened(recipe, cache, (warnings, *listeners)) as executor:
        found = facts_of(executor)
        judged_by_outputs = found.has_data and not found.scores and not found.decodes
        margins = _margins(executor) if judged_by_outputs else {}
        known = known_samples(executor) if found.can_train and not found.quantized else None
        return replace(found, margins=margins, known=known, warnings=tuple(warnings.messages))


def _margins(executor: Executor) -> dict[str, tuple[float, ...]]:
    """On the first samples of every split but the test's: the original is fitted to none of them."""
    workspace, model = executor.workspace, executor.workspace.original_graph()
    target = replace(workspace.target, options=in_float32(workspace.target.options))
    session = session_of(model, open_backend(target.backend), target, workspace.host)
    splits = [scored_samples(workspace.dataset().split(name)) for name in ("validation", "calibration", "train")]
    splits = [split for split in splits if len(split)]
    found: dict[str, tuple[float, ...]] = {}
    if not splits:
        return found
    began = time.monotonic()
    first = predict_all([session], [model], splits[0], target, most=_FIRST_SAMPLES)
    if not first.margins:
        return found
    each = (time.monotonic() - began) / first.samples
    left = min(_MOST_SAMPLES, max(_FIRST_SAMPLES, int(_SECONDS / each)))
    for split in splits:
        if left > 0:
            seen = predict_all([session], [model], split, target, most=left)
            left -= seen.samples
            for output, margins in seen.margins.items():
                found[output] = (*found.get(output, ()), *margins)
    return found


def facts_of(executor: Executor) -> Facts:
    """Of what is opened already, without warnings."""
    workspace = executor.workspace
    recipe, original = workspace.recipe, workspace.original_graph()
    summary = summarize(original.body)
    with tempfile.TemporaryDirectory() as folder:
        size = _bytes(original, workspace, Path(folder))
    return Facts(
        is_torch=isinstance(workspace.loaded(), TorchModel),
        parameters=summary.parameters,
        shares=_shares(summary),
        original_bytes=size,
        operators={layer.name: layer.op for layer in summary.layers},
        quantized=tuple(map(str, summary.quantized)),
        attends=sum(node.op_type in _ATTENDS for node in all_nodes(original.body.graph)),
        task=recipe.task,
        has_heads=bool(recipe.heads),
        decodes=recipe.decode is not None or TASKS[recipe.task].decoder is not None,
        **_of_data(recipe, workspace),
    )


def _of_data(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    if recipe.data is None:
        return {}
    data, metric = workspace.dataset(), workspace.judge.metric
    first = next(scored_samples(data.split("validation")).batches(1), None)
    return {
        "samples": {name: len(scored_samples(data.split(name))) for name in _SPLITS},
        "is_random": bool(getattr(data, "is_random", False)),
        "has_labels": first is not None and first.labels is not None,
        "metric": metric.name if metric else None,
        "unit": metric.unit if metric else "",
    }


def _shares(summary: Summary) -> dict[str, float]:
    found = dict.fromkeys(_KINDS, 0)
    for layer in summary.layers:
        for kind, operators in _KINDS.items():
            if layer.op in operators and layer.parameter_bytes in (2 * layer.parameters, 4 * layer.parameters):
                found[kind] += layer.parameters
    return {kind: count / max(summary.parameters, 1) for kind, count in found.items()}


def _bytes(original: OnnxModel, workspace: Workspace, folder: Path) -> int:
    """Of the file that every other one is held against."""
    target = replace(workspace.target, options=in_float32(workspace.target.options))
    place = folder / "float"
    place.mkdir()
    built = open_backend(target.backend).build(original, target, place)
    return sum(file.stat().st_size for file in built.files)
