"""How much a changed network loses: on labels, or by how far its outputs are from the whole network's, its norms measured anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from compressctl.core.data import first_filled
from compressctl.core.errors import UsageError
from compressctl.core.model import TorchModel
from compressctl.core.technique import RunContext
from compressctl.graph.torch_outputs import named_outputs
from compressctl.numerics.output_distance import kl_divergence, relative_squared_distance
from compressctl.training.batchnorm_recalibration import recalibrate_bn
from compressctl.training.data import TensorBatch, tensor_batches
from compressctl.training.objective import task_objective

By = Literal["labels", "outputs"]

_ENOUGH = 512
"""Samples on which norms are measured while networks are only compared."""

_AT_ONCE = 128


def loss_of(model: TorchModel, by: By, samples: int, bn_samples: int, run: RunContext) -> Callable[[nn.Module], float]:
    """Of networks made of the model: the task's loss on the validation split (calibration where there is none), or by outputs their distance from
    the model's. Norms are measured again on training samples first, in place. Raises UsageError without samples."""
    split = first_filled(run.data, "validation", "calibration", "train")
    if split is None:
        raise UsageError("networks are told apart by what they make of samples, and there are none", hint="add data")
    learned = first_filled(run.data, "train", "calibration")
    batches = list(itertools.islice(tensor_batches(split, model.signature, _AT_ONCE), max(1, samples // _AT_ONCE)))
    of_batch = _distance(model, batches, run) if by == "outputs" else _objective(batches, run)

    def loss(network: nn.Module) -> float:
        if learned is not None and bn_samples:
            recalibrate_bn(network, learned, model.signature, samples=min(bn_samples, _ENOUGH))
        network.eval()
        with torch.no_grad():
            total = sum(of_batch(network, place) * len(batch.inputs[0]) for place, batch in enumerate(batches))
        return total / sum(len(batch.inputs[0]) for batch in batches)

    return loss


def _objective(batches: Sequence[TensorBatch], run: RunContext) -> Callable[[nn.Module, int], float]:
    objective = task_objective(run.learning)
    return lambda network, place: objective(network, batches[place]).item()


def _distance(model: TorchModel, batches: Sequence[TensorBatch], run: RunContext) -> Callable[[nn.Module, int], float]:
    """Between all floats that a network gives for a batch and what the model gives: KL divergence of classes, else relative squared distance."""
    far = kl_divergence if run.task in ("classification", "language-model") else relative_squared_distance

    def outputs(network: nn.Module, batch: TensorBatch) -> dict[str, np.ndarray]:
        given = named_outputs(network(*batch.inputs))
        return {name: value.cpu().numpy() for name, value in given.items() if value.is_floating_point()}

    with torch.no_grad():
        wanted = [outputs(model.body.eval(), batch) for batch in batches]

    def distance(network: nn.Module, place: int) -> float:
        found = outputs(network, batches[place])
        return sum(far(value, found[name]) for name, value in wanted[place].items())

    return distance
