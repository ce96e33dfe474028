"""Checks of a model against its data that take seconds, made before anything that takes long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compressctl.core.data import Batch, Dataset, Split, tuples_of
from compressctl.core.errors import UsageError
from compressctl.core.failures import refused_in
from compressctl.core.model import Model
from compressctl.core.tasks import TASKS, UNLABELLED, Learning, Task
from compressctl.core.technique import RunContext
from compressctl.training.params import TrainingParams

_FEW = 8


def check_labels(model: Model, batch: Batch, learning: Learning) -> None:
    """Raise UsageError when the task's metric cannot hold the batch's labels against the output that they belong to.

    What the signature leaves open about the output is taken to fit, and a batch without labels fits. Runs nothing.
    """
    labels = batch.labels
    if labels is None:
        return
    for name, head in learning.heads.items():
        if name not in (labels.dtype.names or ()):
            fields = ", ".join(labels.dtype.names or ()) or "no heads"
            raise UsageError(
                f"the data has no labels for the head {name} (it has labels for {fields})",
                hint=f"name them by head, as in `labels: {{{name}: ARRAY}}`",
            )
        _check_fit(model.signature.outputs[head.place].shape, labels[name], head.task)
    if not learning.heads:
        _check_fit(model.signature.outputs[0].shape, labels, learning.task)


def _check_fit(outputs: Sequence[int | str], labels: np.ndarray, task: Task) -> None:
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise UsageError(
            f"the labels of {int((~np.isfinite(labels)).reshape(len(labels), -1).any(axis=1).sum())} of the first "
            f"{len(labels)} samples are no numbers (NaN or infinite)",
            hint="leave these samples out, or mend their labels",
        )
    if task == "classification":
        _check_classes(outputs, labels)
    elif task == "regression":
        _check_values(outputs, labels)
    elif task in ("segmentation", "token-classification", "frame-classification") and labels.dtype.kind in "iu":
        axis = TASKS[task].class_axis
        assert axis is not None
        _check_places(outputs, labels, axis % len(outputs), task)


def check_training_labels(model: Model, run: RunContext) -> None:
    """`check_labels` on what a training reads first: samples that it learns from, and those that choose its epoch."""
    if run.data is None or (run.metric is None and not run.learning.heads):
        return
    for name in ("train", "validation"):
        batch = next(run.data.split(name).batches(32), None)
        if batch is not None:
            check_labels(model, batch, run.learning)


def check_batch_size(params: TrainingParams, split: Split, run: RunContext) -> None:
    """Raise UsageError where a batch holds no whole tuple of samples that belong together, or leaves a process a single pair where
    pairs are ranked."""
    is_taught = getattr(params, "label_weight", None) != 0  # 0: a teacher alone
    is_ranked = is_taught and _ranks_pairs(split, run.learning)
    wrong = tuples_of(split).too_small(params.batch_size, is_ranked=is_ranked, processes=run.processes)
    if wrong is not None:
        raise UsageError(wrong[0], hint=wrong[1])


def _ranks_pairs(split: Split, learning: Learning) -> bool:
    """Whether the loss is cosent, by name or since the labels of pairs are scores."""
    if learning.task != "embedding" or tuples_of(split).size != 2 or learning.loss not in (None, "cosent"):
        return False
    labels = next(split.batches(1)).labels
    return learning.loss == "cosent" or (labels is not None and labels.dtype.kind == "f" and labels.ndim == 1)


def check_loss(model: Model, data: Dataset, learning: Learning) -> None:
    """Compute the task's loss on a few training samples. model: in torch form, which stays as it is.

    Raises UsageError where the labels do not fit the outputs, whatever the loss says about it.
    """
    from compressctl.graph.torch_outputs import device_of
    from compressctl.training.data import tensor_batches
    from compressctl.training.objective import task_objective

    batch = next(data.split("train").batches(_FEW), None)
    if batch is None:
        return
    check_labels(model, batch, learning)
    task = ", ".join(head.task for head in learning.heads.values()) or learning.task
    tensors = next(tensor_batches(data.split("train"), model.signature, _FEW))
    try:
        # With gradients, so that an author's loss that has none is refused here.
        loss = float(task_objective(learning)(model.body.eval(), tensors.to(device_of(model.body))).detach())
    except UsageError:
        raise
    except Exception as error:
        said = f"the loss of task {task} cannot be computed on the first training samples"
        raise refused_in(said, error) or UsageError(
            f"{said}: {error}",
            hint="check that data.labels are what the task takes; `compressctl explain` says which",
        ) from error
    if not np.isfinite(loss):
        raise UsageError(
            f"the loss of task {task} is {loss} on the first training samples",
            hint="check the network's outputs and the labels: training would start from no number",
        )


def _check_classes(outputs: Sequence[int | str], labels: np.ndarray) -> None:
    shapes = f"here the labels are {_shape(('n', *labels.shape[1:]))} {labels.dtype} and the outputs {_shape(('n', *outputs[1:]))}"
    takes = "task classification takes one class per sample, labels of shape (n,) for outputs of shape (n, classes)"
    if labels.size != len(labels):
        same_places = labels.shape[1:] == tuple(outputs[2:])
        if labels.ndim == 2 and labels.shape[1:] == tuple(outputs[1:]):
            hint = "one-hot labels become classes by labels.argmax(1); for several numbers per sample there is task: regression"
        elif same_places:
            hint = "classes for each pixel are task: segmentation, for each token or frame token-classification or frame-classification"
        else:
            hint = "give one whole number per sample; for numbers that are no classes there is task: regression"
        raise UsageError(f"{takes}; {shapes}", hint=hint)
    classes = _elements(outputs[1:])
    if classes is None:
        return
    if len(outputs) > 2 and max(int(size) for size in outputs[1:]) != classes:
        raise UsageError(
            f"{takes}; {shapes}", hint="the network must give one row of class scores per sample: pool or flatten it"
        )
    highest = max(classes, 2) - 1  # a single output decides by its sign
    wrong = labels[(labels < 0) | (labels > highest) | (labels != np.floor(labels))]
    if wrong.size:
        raise UsageError(
            f"the network tells {highest + 1} classes apart, 0 to {highest}, and a label is {wrong.reshape(-1)[0]}",
            hint="count the classes from 0; for numbers that are no classes there is task: regression",
        )


def _check_places(outputs: Sequence[int | str], labels: np.ndarray, axis: int, task: Task) -> None:
    """A class for each pixel, token or frame. axis: of the outputs, counts classes."""
    places = [size for position, size in enumerate(outputs) if position not in (0, axis)]
    classes: int | None
    if len(outputs) == labels.ndim:  # a single score for each place has no axis of classes
        places, classes = list(outputs[1:]), 2
    else:
        size = outputs[axis]
        classes = size if isinstance(size, int) else None
    fits = len(places) == labels.ndim - 1 and all(
        not isinstance(wanted, int) or wanted == given for wanted, given in zip(places, labels.shape[1:], strict=False)
    )
    if not fits:
        raise UsageError(
            f"task {task} takes a class for each place of the first output: here the labels are {_shape(('n', *labels.shape[1:]))} and the "
            f"outputs {_shape(('n', *outputs[1:]))}",
            hint="labels have the outputs' own height and width, or length",
        )
    counted = labels[~np.isin(labels, UNLABELLED)]
    limit = None if classes is None else max(2, classes)
    wrong = counted[(counted < 0) | (counted >= limit)] if limit is not None else counted[counted < 0]
    if wrong.size:
        raise UsageError(
            f"the network tells {limit} classes apart, and a label is {wrong[0]}",
            hint="count the classes from 0; -100 and 255 mark places without a label",
        )


def _check_values(outputs: Sequence[int | str], labels: np.ndarray) -> None:
    wanted, given = _elements(outputs[1:]), labels.size // max(1, len(labels))
    if wanted is not None and wanted != given:
        raise UsageError(
            f"task regression takes as many numbers per sample as the first output gives; here the labels are "
            f"{_shape(('n', *labels.shape[1:]))} and the outputs {_shape(('n', *outputs[1:]))}",
            hint="labels belong to the network's first output: give that output's values and no others",
        )


def _elements(sizes: Sequence[int | str]) -> int | None:
    """None where a size is open."""
    product = 1
    for size in sizes:
        if not isinstance(size, int):
            return None
        product *= size
    return product


def _shape(sizes: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
