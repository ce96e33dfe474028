"""From what a recipe says to what judges a model's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from compressctl.core.errors import UsageError
from compressctl.core.registry import load
from compressctl.core.source import LoadDecoder, MetricSpec, decoders, metrics
from compressctl.core.tasks import Decode, Distance, Judge, Learning, Loss, PairLoss
from compressctl.recipe.schema import FunctionSection, Head, MetricSection, Recipe, onnx_file
from compressctl.sources.fingerprint import existing, source_fingerprint
from compressctl.sources.load import model_fingerprint
from compressctl.sources.python_code import author_function, code_files
from compressctl.tasks.params import DecoderParams, PythonDecoderParams


def judge_of(recipe: Recipe, outputs: Sequence[str]) -> Judge:
    """outputs: the model's, by name. Raises UsageError where a function of the author's, or a head's output, is not there."""
    heads = {
        name: Judge(
            head.task, metric_of(head, recipe.base), _decode(head, recipe.base, _output(name, head, outputs)), place
        )
        for name, head, place in _places(recipe, outputs)
    }
    if heads:
        return Judge(recipe.task, heads=heads)
    return Judge(recipe.task, metric_of(recipe, recipe.base), _decode(recipe, recipe.base, None))


def learning_of(recipe: Recipe, outputs: Sequence[str]) -> Learning:
    """outputs: the model's, by name. Raises UsageError where a function of the author's, or a head's output, is not there."""
    heads = {
        name: Learning(head.task, _loss(head, recipe.base, outputs[place]), {}, place, head.weight)
        for name, head, place in _places(recipe, outputs)
    }
    first = outputs[0] if outputs else None
    distance = None if heads else _distance(recipe, first)
    return Learning(recipe.task, _loss(recipe, recipe.base, first), heads, distance=distance)


def _places(recipe: Recipe, outputs: Sequence[str]) -> Iterator[tuple[str, Head, int]]:
    for name, head in recipe.heads.items():
        yield name, head, outputs.index(_output(name, head, outputs))


def _output(name: str, head: Head, outputs: Sequence[str]) -> str:
    output = head.output or name
    if output not in outputs:
        raise UsageError(
            f"heads.{name}: the model has no output {output!r}",
            hint=f"name it with `output`; the model has {', '.join(outputs)}",
        )
    return output


def metric_of(where: Recipe | Head, base: Path) -> MetricSpec | None:
    """What scores, None where nothing does."""
    if isinstance(where.metric, MetricSection):
        from compressctl.tasks.author_functions import AuthorMetric

        section = where.metric
        return AuthorMetric(
            name=section.name,
            summary=f"the function {section.function}",
            tasks=(),
            higher_is_better=section.higher_is_better,
            unit=section.unit,
            implementation="",
            place=section.function,
            function=author_function(section.function, base),
            args=section.args,
        )
    name = where.metric_name
    return metrics.get(name) if name else None


def _decode(where: Recipe | Head, base: Path, output: str | None) -> Decode | None:
    """output: the head's, which its decoder reads where the recipe names no other."""
    if where.decode is None:
        return None
    params = where.decode.params
    if output is not None and getattr(params, "output", output) is None:
        params = params.model_copy(update={"output": output})
    make = cast(LoadDecoder, load(decoders.get(where.decode.use).implementation))
    return make(params, base)


def _loss(where: Recipe | Head, base: Path, output: str | None) -> Loss | PairLoss | None:
    """The one that the recipe names, its author's function or the one of the decoder that reads the output that is trained."""
    if isinstance(where.loss, str):
        return where.loss
    if where.loss is not None:
        from compressctl.tasks.author_functions import author_loss

        return author_loss(where.loss, base)
    made = _of_decoder(where, base, output, "loss")
    return cast("Loss | None", made)


def _distance(recipe: Recipe, output: str | None) -> Distance | None:
    return cast("Distance | None", _of_decoder(recipe, recipe.base, output, "distance"))


def _of_decoder(where: Recipe | Head, base: Path, output: str | None, what: str) -> object | None:
    """None where the decoder defines none, or reads another output, or steps that another output counts."""
    if where.decode is None:
        return None
    place, params = getattr(decoders.get(where.decode.use), what), where.decode.params
    reads, counts = getattr(params, "output", None), getattr(params, "lengths", None)
    if not place or counts is not None or reads not in (None, output):
        return None
    made: object = load(place)(params, base)
    return made


def taught_by(recipe: Recipe) -> list[object]:
    """Everything that decides what labels teach, ready for a hash. Runs none of it."""
    found: list[object] = []
    for name, where in recipe.judges.items():
        head = [name, where.output, where.weight] if isinstance(where, Head) else []
        loss = where.loss
        code: list[object] = [loss] if isinstance(loss, str) else []
        if isinstance(loss, FunctionSection):
            code.append(source_fingerprint("loss", 1, loss, code_files(loss.function, recipe.base)))
        if where.decode is not None and any(
            (decoders.get(where.decode.use).loss, decoders.get(where.decode.use).distance)
        ):
            code += _decoder_fingerprint(where, recipe.base)
        found.append([where.task, *head, *code])
    return found


def judged_by(recipe: Recipe) -> list[object]:
    """Everything that decides how outputs are judged, files and functions included, ready for a hash. Runs none of it."""
    found: list[object] = called_by(recipe)
    for name, where in recipe.judges.items():
        found.append([name, where.task, where.output if isinstance(where, Head) else None])
        if isinstance(where.metric, MetricSection):
            files = code_files(where.metric.function, recipe.base)
            found.append(source_fingerprint("metric", 1, where.metric, files))
        elif where.metric_name:
            found.append([where.metric_name, metrics.get(where.metric_name).version])
        found += [_decoder_fingerprint(where, recipe.base)] if where.decode is not None else []
    return found


def _decoder_fingerprint(where: Recipe | Head, base: Path) -> list[str]:
    assert where.decode is not None
    spec = decoders.get(where.decode.use)
    files = _files(where.decode.params, base)
    return [spec.name, source_fingerprint("decode", spec.version, where.decode.params, files)]


def called_by(recipe: Recipe) -> list[object]:
    """Everything that decides what the recipe's function calls the model with, the other files included, ready for a hash."""
    if recipe.pipeline is None:
        return []
    section = recipe.pipeline.section
    function = source_fingerprint("pipeline", 1, section, code_files(section.function, recipe.base))
    files = {name: onnx_file(file) for name, file in section.compressed.items()}
    others = {
        name: model_fingerprint(model, recipe.base)
        for name, model in (
            *sorted(recipe.pipeline.models.items()),
            *sorted((f"compressed.{name}", file) for name, file in files.items()),
        )
    }
    return [function, others]


def _files(params: BaseModel, base: Path) -> dict[str, Path]:
    """What decides what a decoder does, besides its params: its author's code, and files that they name."""
    if isinstance(params, PythonDecoderParams):
        return dict(code_files(params.function, base))
    named = params.files(base) if isinstance(params, DecoderParams) else {}
    return {name: existing(path, what=f"decode.{name}:") for name, path in named.items()}
