"""What training lowers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional

from compressctl.core.errors import UsageError
from compressctl.core.source import Task
from compressctl.graph.torch_outputs import named_outputs
from compressctl.training.data import TensorBatch


class Objective(Protocol):
    """Runs the network on a batch and gives the mean loss, a scalar that gradients flow from."""

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
    """Classification: cross-entropy. Regression: mean squared error. Outputs and labels have the samples along axis 0."""
    if task == "classification":
        return lambda outputs, labels: functional.cross_entropy(
            outputs.float(), labels, label_smoothing=label_smoothing
        )
    if task == "regression":
        return lambda outputs, labels: functional.mse_loss(outputs.float().flatten(), labels.float().flatten())
    raise UsageError(f"training has no loss for task {task!r}", hint="classification and regression have one")
