"""How much the loss minds a change in each weight: squared gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from compressctl.core.data import Split
from compressctl.core.errors import StageError
from compressctl.core.model import Signature
from compressctl.core.tasks import Learning
from compressctl.training.data import tensor_batches
from compressctl.training.objective import task_objective

_BATCH = 4
"""Gradients of single samples would be squared; a few at a time are nearly as good and run several times faster."""


def fisher(
    network: nn.Module, names: Sequence[str], split: Split, signature: Signature, learning: Learning
) -> dict[str, np.ndarray]:
    """By parameter, in its shape, float64: the mean over batches of the squared gradient of the task's loss.

    The network is in eval mode and stays as it is. Raises StageError when the split is empty.
    Source: Choi et al. 2017, section 3.3 (the diagonal of the Fisher information for that of the Hessian).
    """
    objective = task_objective(learning)
    parameters = {name: parameter for name, parameter in network.named_parameters() if name in set(names)}
    sums = {name: np.zeros(tuple(parameter.shape)) for name, parameter in parameters.items()}
    batches = 0
    for batch in tensor_batches(split, signature, _BATCH):
        gradients = torch.autograd.grad(objective(network, batch), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.detach().double().numpy() ** 2
        batches += 1
    if not batches:
        raise StageError("importance: fisher needs labelled calibration samples, and there are none")
    return {name: total / batches for name, total in sums.items()}
