"""BatchNorm's running means and variances, measured anew."""

from __future__ import annotations

import itertools

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compressctl.core.data import Split, tuples_of
from compressctl.core.model import Signature
from compressctl.graph.torch_outputs import device_of
from compressctl.training.data import tensor_batches

SAMPLES = 4096
_SEED = 0


def recalibrate_bn(
    network: nn.Module, split: Split, signature: Signature, *, samples: int = SAMPLES, batch_size: int = 128
) -> int:
    """Replace each BatchNorm's running statistics by their mean over batches of the split, in place.

    After a cut, or for weights that were averaged, the old statistics belong to another network. The samples are the same
    at each call; no labels are read. Everything else stays: weights, and every module's training flag. Returns how many
    BatchNorms were measured: 0 for a network without any, which is then not run.
    Source: Izmailov et al. 2018 (stochastic weight averaging), section 3.2.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms or len(split) == 0:
        return 0
    before = [(module, module.training) for module in network.modules()]
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way to say: the plain mean over all batches
        norm.train()
    try:
        _run(network, split, signature, samples, batch_size)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, was_training in before:
            module.training = was_training
    return len(norms)


def _run(network: nn.Module, split: Split, signature: Signature, samples: int, batch_size: int) -> None:
    device = device_of(network)
    batches = tensor_batches(split, signature, batch_size, shuffle_seed=_SEED)
    whole = tuples_of(split).whole(batch_size)
    with torch.no_grad():
        for number, batch in enumerate(itertools.islice(batches, max(1, samples // whole))):
            # A small rest would weigh as much as a whole batch, and a norm over a single value has no variance.
            if number == 0 or len(batch.inputs[0]) == whole:
                network(*(tensor.to(device) for tensor in batch.inputs))
