"""What training lowers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressctl.core.data import ALONE, Tuples
from compressctl.core.errors import UsageError
from compressctl.core.tasks import TASKS, UNLABELLED, Learning, Loss, Task
from compressctl.graph.torch_outputs import named_outputs
from compressctl.numerics.next_token import next_token_loss
from compressctl.training.data import TensorBatch
from compressctl.training.logits import as_binary_logits, as_logits
from compressctl.training.pair_losses import pair_loss

_CONTRAST_TEMPERATURE = 0.1


class Objective(Protocol):
    """Runs the network on a batch and gives the mean loss over its samples, a scalar that gradients flow from.

    The batch is on the network's device. An objective that is an nn.Module has its own parameters trained along (a
    distillation's projections, say), except those that do not require gradients (a teacher's). Where several processes
    train together each calls it on its part of the batch, so that a loss between samples compares within such a part.
    """

    def __call__(self, network: nn.Module, batch: TensorBatch) -> Tensor: ...


class TaskLoss(Protocol):
    """A mean loss of outputs and labels, samples along axis 0 of both; tuples: how they belong together."""

    def __call__(self, outputs: Tensor, labels: Any, tuples: Tuples = ALONE) -> Tensor: ...


def first_output(network: nn.Module, batch: TensorBatch) -> Tensor:
    """What the network returns for a batch; its first output where there are several."""
    return next(iter(named_outputs(network(*batch.inputs)).values()))


def task_objective(learning: Task | Learning, label_smoothing: float = 0.0) -> Objective:
    """The loss between the first output and the labels; of several heads, the weighted sum of each one's with its own labels.

    Raises UsageError where there is none.
    """
    if isinstance(learning, Learning) and learning.heads:
        return _heads_objective(learning.heads, label_smoothing)
    loss = task_loss(learning, label_smoothing)

    def objective(network: nn.Module, batch: TensorBatch) -> Tensor:
        if batch.labels is None:
            raise UsageError("training needs labels, and the data has none", hint="name them in the data section")
        return loss(first_output(network, batch), batch.labels, batch.tuples)

    return objective


def _heads_objective(heads: Mapping[str, Learning], label_smoothing: float) -> Objective:
    losses = {name: task_loss(head, label_smoothing) for name, head in heads.items()}

    def objective(network: nn.Module, batch: TensorBatch) -> Tensor:
        if batch.heads is None:
            raise UsageError(
                "training needs labels for each head, and the data has none", hint="name them in the data section"
            )
        outputs = list(named_outputs(network(*batch.inputs)).values())
        parts = [
            heads[name].weight * loss(outputs[heads[name].place], batch.heads[name], batch.tuples)
            for name, loss in losses.items()
        ]
        return torch.stack(parts).sum()

    return objective


def task_loss(learning: Task | Learning, label_smoothing: float = 0.0) -> TaskLoss:
    """The loss of outputs with labels, which are a tensor, for a function of the author's a `LabelList` where they are texts or boxes.

    Raises UsageError where the task has none, and no function is named. Outputs are logits, or the probabilities that a Softmax or Sigmoid makes of them.

    classification: cross-entropy, (n, classes) with (n,) classes or (n, classes) shares. multi-label, frame-multi-label: binary
    cross-entropy of logits with as many labels of 0 and 1. regression: mean squared error. segmentation, token-classification, frame-classification:
    cross-entropy at each pixel, token or frame that has a label; binary where there is one score.
    language-model: cross-entropy of each position's output (n, tokens, vocabulary) with the label after it, labels being the
    tokens themselves (n, tokens); -100 does not count. See `numerics/next_token.py`.
    ranking: logistic loss of the differences between scores of samples of one query, of which one is more relevant (Burges et al. 2005,
    Learning to Rank using Gradient Descent, equation 3).
    embedding: CoSENT where samples are pairs with scores (n,), or the named loss between pairs, see `pair_losses.py`; 1 - cosine to wanted
    vectors where labels are (n, d); where they are classes, each sample is told from the batch's others by its own class (Khosla et al. 2020,
    supervised contrastive learning, equation 2).
    """
    if isinstance(learning, Learning) and learning.loss is not None:
        named = learning.loss
        if not isinstance(named, str):
            return _authors(named)
        return lambda outputs, labels, tuples=ALONE: pair_loss(named, outputs, labels, tuples)
    task = learning.task if isinstance(learning, Learning) else learning
    match task:
        case "classification":
            return lambda outputs, labels, tuples=ALONE: functional.cross_entropy(
                as_logits(outputs, 1).float(), labels, label_smoothing=label_smoothing
            )
        case "multi-label" | "frame-multi-label":
            return lambda outputs, labels, tuples=ALONE: functional.binary_cross_entropy_with_logits(
                as_binary_logits(outputs).float().flatten(1), labels.float().flatten(1)
            )
        case "ranking":
            return _pairwise_loss
        case "regression":
            return lambda outputs, labels, tuples=ALONE: functional.mse_loss(
                outputs.float().flatten(), labels.float().flatten()
            )
        case "segmentation":
            return lambda outputs, labels, tuples=ALONE: _loss_of_places(outputs, labels, label_smoothing)
        case "token-classification" | "frame-classification":
            return lambda outputs, labels, tuples=ALONE: _loss_of_places(
                _classes_second(outputs), labels, label_smoothing
            )
        case "language-model":
            return lambda outputs, labels, tuples=ALONE: next_token_loss(as_logits(outputs), labels, label_smoothing)
        case "embedding":
            return _embedding_loss
    known = ", ".join(name for name, spec in TASKS.items() if spec.has_loss)
    raise UsageError(
        f"training has no loss for task {task!r}",
        hint=f"name one of your own, `loss: file.py:name`, a function of outputs and labels, or learn from a teacher alone "
        f"(distill.logits with label_weight: 0); recognition has one where `decode: ctc` reads the first output, and these tasks: {known}",
    )


def _authors(function: Loss) -> TaskLoss:
    def loss(outputs: Tensor, labels: Any, tuples: Tuples = ALONE) -> Tensor:
        found = function(outputs, labels)
        if not isinstance(found, Tensor) or found.numel() != 1:
            shown = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UsageError(
                f"the recipe's loss gave {shown}, and training lowers one number", hint="return a scalar tensor"
            )
        if outputs.requires_grad and not found.requires_grad:
            raise UsageError(
                "the recipe's loss gave a number that has no gradient, and training follows it",
                hint="compute it of the outputs with torch alone: numpy, detach, rounding and comparisons lose the gradient",
            )
        return found.reshape(())

    return loss


def _classes_second(outputs: Tensor) -> Tensor:
    """(n, classes, positions) of (n, positions, classes); (n, 1, positions) of (n, positions)."""
    return outputs[:, None] if outputs.ndim == 2 else outputs.transpose(1, 2)


def _loss_of_places(outputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """outputs: (n, classes, ...). labels: (n, ...) classes; those of UNLABELLED do not count. 0 where no place has a label."""
    counted = labels != UNLABELLED[0]
    for other in UNLABELLED[1:]:
        counted &= labels != other
    if not counted.any():
        return outputs.sum() * 0
    outputs = as_logits(outputs, 1)
    if outputs.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(outputs.float()[:, 0][counted], labels[counted].float())
    wanted = labels.masked_fill(~counted, UNLABELLED[0])
    return functional.cross_entropy(
        outputs.float(), wanted, ignore_index=UNLABELLED[0], label_smoothing=label_smoothing
    )


def _pairwise_loss(outputs: Tensor, labels: Tensor, tuples: Tuples = ALONE) -> Tensor:
    """outputs: a score for each sample. labels: (n, 2), query and relevance. 0 for a batch without a pair to order."""
    if labels.ndim != 2 or labels.shape[1] != 2 or outputs.numel() != len(labels):
        raise UsageError(
            "ranking takes one score for each sample, and labels of its query and its relevance, (n, 2); here they are "
            f"{list(outputs.shape)} and {list(labels.shape)}"
        )
    scores, (queries, relevance) = outputs.float().flatten(), labels.T
    comes_before = (queries[:, None] == queries) & (relevance[:, None] > relevance)
    if not comes_before.any():
        return outputs.sum() * 0
    return functional.softplus(scores - scores[:, None])[comes_before].mean()


def _embedding_loss(outputs: Tensor, labels: Tensor, tuples: Tuples = ALONE) -> Tensor:
    if tuples.size == 2 and labels.is_floating_point() and labels.ndim == 1:
        return pair_loss("cosent", outputs, labels, tuples)
    vectors = outputs.float().flatten(1)
    if labels.is_floating_point() and labels.ndim > 1 and labels.flatten(1).shape == vectors.shape:
        return (1 - functional.cosine_similarity(vectors, labels.float().flatten(1))).mean()
    if labels.is_floating_point() or labels.ndim != 1:
        raise UsageError(
            f"an embedding is trained on scores of pairs, wanted vectors of its own size or classes, and the labels are "
            f"{list(labels.shape)} {str(labels.dtype).removeprefix('torch.')} for outputs {list(vectors.shape)}",
            hint="numbers for single samples score pairs where the data say so, as `data: {source: sentence_pairs}` does",
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
