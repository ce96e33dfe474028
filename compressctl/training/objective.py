"""What training lowers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressctl.core.errors import UsageError
from compressctl.core.tasks import Task
from compressctl.graph.torch_outputs import named_outputs
from compressctl.numerics.next_token import next_token_loss
from compressctl.training.data import TensorBatch

_CONTRAST_TEMPERATURE = 0.1


class Objective(Protocol):
    """Runs the network on a batch and gives the mean loss over its samples, a scalar that gradients flow from.

    The batch is on the network's device. An objective that is an nn.Module has its own parameters trained along (a
    distillation's projections, say), except those that do not require gradients (a teacher's). Where several processes
    train together each calls it on its part of the batch, so that a loss between samples compares within such a part.
    """

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor: ...


def first_output(network: nn.Module, batch: TensorBatch) -> Tensor:
    """What the network returns for a batch; its first output where there are several."""
    return next(iter(named_outputs(network(*batch.inputs)).values()))


def task_objective(task: Task, label_smoothing: float = 0.0) -> Objective:
    """The usual loss of a task between the first output and the labels. Raises UsageError for a task without one."""
    loss = task_loss(task, label_smoothing)

    def objective(network: nn.Module, batch: TensorBatch) -> Tensor:
        if batch.labels is None:
            raise UsageError("training needs labels, and the data has none", hint="name them in the data section")
        return loss(first_output(network, batch), batch.labels)

    return objective


def task_loss(task: Task, label_smoothing: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
    """A mean loss of (outputs, labels), samples along axis 0 of both. Raises UsageError for the task `custom`.

    classification: cross-entropy, (n, classes) with (n,) classes or (n, classes) shares. regression: mean squared error.
    language-model: cross-entropy of each position's output (n, tokens, vocabulary) with the label after it, labels being the
    tokens themselves (n, tokens); -100 does not count. See `numerics/next_token.py`.
    embedding: 1 - cosine to wanted vectors where labels are (n, d); where they are classes, each sample is told from the
    batch's others by its own class (Khosla et al. 2020, supervised contrastive learning, equation 2).
    """
    match task:
        case "classification":
            return lambda outputs, labels: functional.cross_entropy(
                outputs.float(), labels, label_smoothing=label_smoothing
            )
        case "regression":
            return lambda outputs, labels: functional.mse_loss(outputs.float().flatten(), labels.float().flatten())
        case "language-model":
            return lambda outputs, labels: next_token_loss(outputs, labels, label_smoothing)
        case "embedding":
            return _embedding_loss
    raise UsageError(
        f"training has no loss for task {task!r}",
        hint="set task to classification, regression, language-model or embedding, or write a technique with its own objective",
    )


def _embedding_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    vectors = outputs.float().flatten(1)
    if labels.is_floating_point() and labels.ndim > 1 and labels.flatten(1).shape == vectors.shape:
        return (1 - functional.cosine_similarity(vectors, labels.float().flatten(1))).mean()
    if labels.is_floating_point() or labels.ndim != 1:
        raise UsageError(
            f"an embedding is trained on wanted vectors of its own size or on classes, and the labels are "
            f"{list(labels.shape)} {str(labels.dtype).removeprefix('torch.')} for outputs {list(vectors.shape)}"
        )
    return _supervised_contrast(functional.normalize(vectors), labels)


def _supervised_contrast(vectors: Tensor, labels: Tensor) -> Tensor:
    """vectors: (n, d) of length 1. A sample whose class occurs once in the batch has nothing to be near to: it counts 0."""
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    similarity = (vectors @ vectors.T / _CONTRAST_TEMPERATURE).masked_fill(itself, -1e9)
    is_positive = (labels[:, None] == labels[None, :]) & ~itself
    log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
    positives = is_positive.sum(dim=1)
    return -((log_share * is_positive).sum(dim=1) / positives.clamp(min=1)).mean()
