"""A dataset that no one collected: for training without data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from compressctl.core.data import Batch, Dataset, Split, SplitName, parts_of
from compressctl.core.model import Signature
from compressctl.techniques.distill._noise import Noise
from compressctl.training.data import TensorBatch
from compressctl.training.objective import Objective

Draw = Callable[[np.ndarray], Mapping[str, np.ndarray]]
"""Inputs by name for samples with these numbers."""


@dataclass(frozen=True)
class MadeSplit:
    count: int
    draw: Draw

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int, *, shuffle_seed: int | None = None) -> Iterator[Batch]:
        for chosen in parts_of(np.arange(self.count), size, shuffle_seed):
            yield Batch(self.draw(chosen), None, chosen)


@dataclass(frozen=True)
class MadeDataset:
    """Made samples to train on; the other splits are the recipe's, empty where it has none."""

    train: MadeSplit
    real: Dataset | None

    @property
    def classes(self) -> Sequence[str] | None:
        return None if self.real is None else self.real.classes

    def split(self, name: SplitName) -> Split:
        if name == "train":
            return self.train
        return replace(self.train, count=0) if self.real is None else self.real.split(name)


def drawing(noise: Sequence[Noise], signature: Signature, seed: int) -> Draw:
    """Noise that the seed, the numbers and their order decide: no state, so that a resumed run draws the same."""

    def draw(numbers: np.ndarray) -> Mapping[str, np.ndarray]:
        rng = np.random.default_rng([seed, crc32(np.ascontiguousarray(numbers, np.int64).tobytes())])
        return {spec.name: part.draw(len(numbers), rng) for spec, part in zip(signature.inputs, noise, strict=True)}

    return draw


def stored(inputs: np.ndarray, name: str) -> Draw:
    """The samples at these positions of an array."""
    return lambda numbers: {name: inputs[numbers]}


class Afresh(nn.Module):
    """An objective on inputs that are drawn anew for every batch: noise is free, so that no sample need come twice.

    A module, so that an objective with parameters has them trained.
    """

    def __init__(self, objective: Objective, draw: Draw, signature: Signature) -> None:
        super().__init__()
        self.objective = objective
        self.draw, self.signature = draw, signature

    def forward(self, network: nn.Module, batch: TensorBatch) -> Tensor:
        if not network.training or batch.indices is None:  # validated on samples that are what they are
            return self.objective(network, batch)
        drawn = self.draw(batch.indices.cpu().numpy())
        device = batch.inputs[0].device
        inputs = tuple(torch.as_tensor(drawn[spec.name]).to(device) for spec in self.signature.inputs)
        return self.objective(network, TensorBatch(inputs, None))
