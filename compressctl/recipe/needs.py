"""What a stage of a recipe is handed beside its model, and what of it the recipe lacks."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from pydantic import BaseModel

from compressctl.core.data import Tuples
from compressctl.core.errors import Problem
from compressctl.core.needs import FROM_DATA, Need, Needs, TechniqueParams, declared_needs
from compressctl.core.source import datasets, decoders
from compressctl.core.tasks import TASKS
from compressctl.core.technique import TechniqueSpec
from compressctl.recipe.schema import Head, Recipe, Stage

_BISECTING = Needs.of(Need.CALIBRATION_DATA, reads=(Need.SESSION,))
"""To rank the parts that can be given back by the outputs that each moves; the gate itself is held by the pipeline."""


def stage_needs(stage: Stage, spec: TechniqueSpec) -> Needs:
    """What its params declare, and what holding its gate takes where the technique itself gives parts back."""
    found = declared_needs(stage.params)
    return found | _BISECTING if bisects(stage, spec) else found


def bisects(stage: Stage, spec: TechniqueSpec) -> bool:
    """Whether the technique shall hold the gate, and can."""
    return stage.gate is not None and spec.bisects and stage.gate.otherwise in (None, "bisect")


def unmet_needs(recipe: Recipe, stage: Stage, spec: TechniqueSpec, path: str) -> Iterator[Problem]:
    """What the stage or its gate cannot work without and the recipe does not give. No file is opened.

    path: of the stage in the recipe.
    """
    yield from _of_params(recipe, stage, path)
    yield from _of_batches(recipe, stage.params, path)
    if stage.gate is not None:
        yield from _of_gate(recipe, bisects(stage, spec), f"{path}.gate")


def _of_params(recipe: Recipe, stage: Stage, path: str) -> Iterator[Problem]:
    requires = declared_needs(stage.params).requires
    if Need.TASK_LOSS in requires and not all(_has_loss(where) for where in recipe.judges.values()):
        hint = (
            "set `task` to what the model does, name a `loss: file.py:name`, or learn from a teacher alone (distill.logits; "
            "`teacher` with `label_weight: 0`)"
        )
        words = f"{stage.use} measures the task's own loss here, and the task {recipe.task} has none"
        yield Problem(words, f"{path}.use", hint)
    if recipe.data is None:
        needed = requires & FROM_DATA
        if needed:
            yield _unmet(stage, path, needed, ", ".join(sorted(needed)), "add a `data` section")
        return
    sizes = recipe.data.sizes
    if Need.CALIBRATION_DATA in requires and sizes.calibration == 0:
        hint = "set data.calibration to 100 or more"
        yield _unmet(stage, path, {Need.CALIBRATION_DATA}, "calibration data", hint)
    if Need.VALIDATION_DATA in requires and sizes.validation == 0:
        hint = "set data.validation to 0.1 or more"
        yield _unmet(stage, path, {Need.VALIDATION_DATA}, "validation data", hint)
    if Need.METRIC in requires and recipe.metric_name is None:
        hint = f"set `metric` to one that fits task {recipe.task}, which has none of its own"
        yield _unmet(stage, path, {Need.METRIC}, "a metric", hint)


def _of_batches(recipe: Recipe, params: BaseModel, path: str) -> Iterator[Problem]:
    """Trainings whose batches hold no whole tuple of samples that belong together, or a single pair where pairs are ranked."""
    if recipe.data is None or not isinstance(params, TechniqueParams):
        return
    for name in type(params).model_fields:
        yield from _of_batches(recipe, getattr(params, name), f"{path}.{name}")
    batch_size = getattr(params, "batch_size", None)
    if not params.is_training or not isinstance(batch_size, int):
        return
    tuples = Tuples(datasets.get(recipe.data.source).tuple_size)
    # Scores of pairs teach by cosent where the recipe names no loss; 0: a teacher alone.
    is_ranked = tuples.size == 2 and recipe.task == "embedding" and recipe.loss in (None, "cosent")
    is_taught = getattr(params, "label_weight", None) != 0
    wrong = tuples.too_small(batch_size, is_ranked=is_ranked and is_taught)
    if wrong is not None:
        yield Problem(wrong[0], f"{path}.batch_size", wrong[1])


def _has_loss(where: Recipe | Head) -> bool:
    """Of the author's, the task's own, or the decoder's."""
    of_decoder = where.decode is not None and decoders.get(where.decode.use).loss
    return where.loss is not None or TASKS[where.task].has_loss or bool(of_decoder)


def _of_gate(recipe: Recipe, is_bisected: bool, path: str) -> Iterator[Problem]:
    if recipe.data is None:
        words = "a gate needs data: labelled data for accuracy_drop, any for agreement, cosine, sqnr_db, kept and added"
        yield Problem(words, path, "add a `data` section")
        return
    if recipe.data.sizes.validation == 0:
        yield Problem("a gate chooses on the validation split, which is empty", path, "set data.validation")
    if is_bisected and recipe.data.sizes.calibration == 0:
        hint = "set data.calibration to 100 or more, or set gate.otherwise to stop or undo"
        yield Problem("a gate that bisects ranks layers on the calibration split, which is empty", path, hint)


def _unmet(stage: Stage, path: str, needs: Set[Need], words: str, hint: str) -> Problem:
    """At the one param that the recipe sets and without which nothing would be missing, where there is such."""
    name = _asking(stage.params, needs)
    if name is None:
        return Problem(f"{stage.use} needs {words}", path, hint)
    asked = f"`{name}{_shown(getattr(stage.params, name))}`"
    return Problem(f"{stage.use} needs {words} for {asked}", f"{path}.{name}", f"{hint}, or leave `{name}` out")


def _asking(params: BaseModel, needs: Set[Need]) -> str | None:
    for name in sorted(params.model_fields_set):
        info = type(params).model_fields[name]
        if info.is_required():
            continue
        without = params.model_copy(update={name: info.get_default(call_default_factory=True)})
        if not needs & declared_needs(without).requires:
            return name
    return None


def _shown(value: Any) -> str:
    """Words and numbers as YAML writes them; nothing for what takes more than a line."""
    if isinstance(value, bool):
        return f": {str(value).lower()}"
    return f": {value}" if isinstance(value, str | int | float) else ""
