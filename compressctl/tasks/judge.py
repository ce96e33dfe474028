"""From what a recipe says to what judges a model's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from pydantic import BaseModel

from compressctl.core.registry import load
from compressctl.core.source import LoadDecoder, MetricSpec, decoders, metrics
from compressctl.core.tasks import Decode, Judge, Learning
from compressctl.recipe.schema import MetricSection, Recipe
from compressctl.sources.fingerprint import source_fingerprint
from compressctl.sources.python_code import author_function, code_files
from compressctl.tasks.params import PythonDecoderParams


def judge_of(recipe: Recipe) -> Judge:
    """Raises UsageError where a function of the author's is not there."""
    return Judge(recipe.task, metric_of(recipe), _decode(recipe))


def metric_of(recipe: Recipe) -> MetricSpec | None:
    """What scores, None where nothing does."""
    if isinstance(recipe.metric, MetricSection):
        from compressctl.tasks.author_functions import AuthorMetric

        section = recipe.metric
        return AuthorMetric(
            name=section.name,
            summary=f"the function {section.function}",
            tasks=(),
            higher_is_better=section.higher_is_better,
            unit=section.unit,
            implementation="",
            place=section.function,
            function=author_function(section.function, recipe.base),
            args=section.args,
        )
    name = recipe.metric_name
    return metrics.get(name) if name else None


def _decode(recipe: Recipe) -> Decode | None:
    if recipe.decode is None:
        return None
    make = cast(LoadDecoder, load(decoders.get(recipe.decode.use).implementation))
    return make(recipe.decode.params, recipe.base)


def learning_of(recipe: Recipe) -> Learning:
    """Raises UsageError where a function of the author's is not there."""
    if recipe.loss is None:
        return Learning(recipe.task)
    from compressctl.tasks.author_functions import author_loss

    return Learning(recipe.task, author_loss(recipe.loss, recipe.base))


def taught_by(recipe: Recipe) -> list[object]:
    """Everything that decides what labels teach, ready for a hash. Runs none of it."""
    if recipe.loss is None:
        return [recipe.task]
    code = code_files(recipe.loss.function, recipe.base)
    return [recipe.task, source_fingerprint("loss", 1, recipe.loss, code)]


def judged_by(recipe: Recipe) -> list[object]:
    """Everything that decides how outputs are judged, files and functions included, ready for a hash. Runs none of it."""
    found: list[object] = [recipe.task]
    if isinstance(recipe.metric, MetricSection):
        files = code_files(recipe.metric.function, recipe.base)
        found.append(source_fingerprint("metric", 1, recipe.metric, files))
    elif recipe.metric_name:
        found.append([recipe.metric_name, metrics.get(recipe.metric_name).version])
    if recipe.decode is not None:
        spec = decoders.get(recipe.decode.use)
        code = _files(recipe.decode.params, recipe.base)
        found.append([spec.name, source_fingerprint("decode", spec.version, recipe.decode.params, code)])
    return found


def _files(params: BaseModel, base: Path) -> dict[str, Path]:
    """What decides what a decoder does, besides its params: its author's code."""
    if isinstance(params, PythonDecoderParams):
        return dict(code_files(params.function, base))
    return {}
