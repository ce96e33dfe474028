"""How many classes a model tells apart, of which labels are one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressctl.core.model import TensorSpec
from compressctl.recipe.schema import Head, Recipe
from compressctl.tasks.params import ArgmaxParams, DetrParams, SequenceParams, SsdParams, YoloParams


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
    if isinstance(params, YoloParams):
        return _of_candidates(params, outputs)
    if isinstance(params, SsdParams | DetrParams):
        return _beside_boxes(params, outputs)
    if not isinstance(params, ArgmaxParams | SequenceParams):
        return None
    decoded = next((spec for spec in outputs if params.output in (None, spec.name)), None)
    return None if decoded is None else _along(decoded, params.axis)


def _of_candidates(params: YoloParams, outputs: Sequence[TensorSpec]) -> int | None:
    """Of an output (n, boxes, 4 + classes), or (n, 4 + classes, boxes): the decoder takes the longer axis for the boxes'."""
    output = next((spec for spec in outputs if params.output in (None, spec.name)), None)
    if output is None or len(output.shape) != 3:
        return None
    sizes, axis = output.shape[1:], params.boxes_axis
    if axis is None:
        known = [size for size in sizes if isinstance(size, int)]
        numbers = min(known) if len(known) == 2 else None
    else:
        size = sizes[2 - axis]
        numbers = size if isinstance(size, int) else None
    first_class = 5 if params.objectness else 4
    return numbers - first_class if numbers is not None and numbers > first_class else None


def _beside_boxes(params: SsdParams | DetrParams, outputs: Sequence[TensorSpec]) -> int | None:
    """Of an output (n, boxes, classes), one of which may be that of no object. None where a file gives each box a class itself."""
    if isinstance(params, SsdParams):
        named, is_empty_counted = params.scores_output, params.background is not None
        if params.classes_output is not None:
            return None
    else:
        named, is_empty_counted = params.logits_output, params.activation == "softmax"
    fitting = [
        spec.shape[-1]
        for spec in outputs
        if (spec.name == named if named is not None else len(spec.shape) == 3 and spec.shape[-1] != 4)
    ]
    size = fitting[0] if len(fitting) == 1 else None
    return size - is_empty_counted if isinstance(size, int) and size > is_empty_counted else None


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
