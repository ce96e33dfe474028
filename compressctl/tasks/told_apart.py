"""How many classes a model tells apart, of which labels are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressctl.core.model import TensorSpec
from compressctl.recipe.schema import Head, Recipe
from compressctl.tasks.params import ArgmaxParams, SequenceParams


def class_count(recipe: Recipe, outputs: Sequence[TensorSpec]) -> int | None:
    """None where shapes do not say, where a function of the author's decides, and for tasks without such labels, or with heads."""
    return None if recipe.heads else _count(recipe, outputs)


def class_counts(recipe: Recipe, outputs: Sequence[TensorSpec]) -> Mapping[str, int | None]:
    """The same by head, of the output that each judges."""
    return {
        name: _count(head, [spec for spec in outputs if spec.name == (head.output or name)])
        for name, head in recipe.heads.items()
    }


def _count(where: Recipe | Head, outputs: Sequence[TensorSpec]) -> int | None:
    if not outputs:
        return None
    if where.task == "classification":
        return _of_scores(outputs[0])
    params = where.decode.params if where.decode is not None else None
    if not isinstance(params, ArgmaxParams | SequenceParams):
        return None
    decoded = next((spec for spec in outputs if params.output in (None, spec.name)), None)
    return None if decoded is None else _along(decoded, params.axis)


def _of_scores(output: TensorSpec) -> int | None:
    """A single score tells two classes apart. Of more than one axis besides the batch's any may be the classes'."""
    shape = output.shape[1:]
    sizes = [size for size in shape if isinstance(size, int)]
    return max(2, *sizes) if sizes and len(sizes) == len(shape) else None


def _along(output: TensorSpec, axis: int) -> int | None:
    """axis: of the output with its samples along axis 0."""
    sizes = list(output.shape)
    if output.batch_axis:
        sizes.insert(0, sizes.pop(output.batch_axis))
    if output.batch_axis is None or not -len(sizes) <= axis < len(sizes):
        return None
    size = sizes[axis]
    return max(2, size) if isinstance(size, int) and axis % len(sizes) else None
