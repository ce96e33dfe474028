"""What enters each layer over a split: means, energies and products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.core.data import Split
from compressctl.layers.layer import Layer
from compressctl.layers.network import Inputs, Network, split_batches
from compressctl.numerics.second_moments import Picked, SecondMoments

ROWS = 4096
"""Inputs of one layer that one batch contributes to its statistics: some ten thousand over a usual calibration split."""


@dataclass(frozen=True)
class Moments:
    """In the shape of the layer's weight, float64. mean: of what each weight multiplies. squares: the sum of its squares.

    count: how many rows were seen.
    """

    mean: np.ndarray
    squares: np.ndarray
    count: int


@dataclass(frozen=True)
class Grams:
    """mean: of what each weight multiplies, in the weight's shape. products: the mean of x x^T over the layer's inputs, as more samples are
    expected to show it (`SecondMoments`), (groups, columns, columns); columns are kernel position, then input channel."""

    mean: np.ndarray
    products: np.ndarray


def input_moments(
    network: Network, layers: Sequence[Layer], split: Split, seed: int, rows_per_batch: int = ROWS
) -> dict[str, Moments]:
    """By layer; layers whose inputs cannot be seen are missing."""
    squares: dict[str, np.ndarray | float] = {}

    def add(layer: Layer, rows: np.ndarray, _: np.ndarray) -> None:
        squares[layer.name] = squares.get(layer.name, 0.0) + np.square(rows, dtype=np.float64).sum(axis=0)

    return {
        layer.name: Moments(mean, per_output(np.asarray(squares[layer.name]), layer), count)
        for layer, mean, count in _seen(network, layers, split, add, seed, rows_per_batch)
    }


def input_grams(
    network: Network, layers: Sequence[Layer], split: Split, seed: int, rows_per_batch: int = ROWS
) -> dict[str, Grams]:
    """By layer; layers whose inputs cannot be seen are missing."""
    products: dict[str, SecondMoments] = {}

    def add(layer: Layer, rows: np.ndarray, samples: np.ndarray) -> None:
        groups = layer.outline.groups
        split_up = rows.reshape(*rows.shape[:2], groups, -1).transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)
        products.setdefault(layer.name, SecondMoments(split_up.shape[2], groups)).add(split_up, samples)

    return {
        layer.name: Grams(mean, products.pop(layer.name).matrices())
        for layer, mean, _ in _seen(network, layers, split, add, seed, rows_per_batch)
    }


def hold_mean_output(network: Network, layer: Layer, weight: np.ndarray, mean_input: np.ndarray) -> None:
    """Shift the layer's bias by what another weight changes in its mean output.

    A layer is linear in its input, so that its mean input tells. mean_input: of what each weight multiplies, in its shape.
    """
    moved = (layer.weight - weight) * mean_input
    network.shift(layer.name, moved.reshape(len(moved), -1).sum(axis=1).astype(np.float32))


def per_output(values: np.ndarray, layer: Layer) -> np.ndarray:
    """(kernel positions, channels of all groups) in the weight's shape, read-only: each output reads its own group's channels. Without groups it takes no
    more memory than one output's."""
    groups = layer.outline.groups
    by_group = values.reshape(len(values), groups, -1).transpose(1, 2, 0)
    if groups == 1:
        return np.broadcast_to(by_group.reshape(1, *layer.weight.shape[1:]), layer.weight.shape)
    return np.repeat(by_group, len(layer.weight) // groups, axis=0).reshape(layer.weight.shape)


def _seen(
    network: Network,
    layers: Sequence[Layer],
    split: Split,
    add: Callable[[Layer, np.ndarray, np.ndarray], None],
    seed: int,
    rows_per_batch: int,
) -> list[tuple[Layer, np.ndarray, int]]:
    """Of each layer that was seen, over at most so many rows of its inputs per batch, drawn evenly: their mean in the weight's shape, and how
    many they were. add: gets each layer's rows, and which of the batch's samples each is of."""
    rng = np.random.default_rng(seed)
    by_name = {layer.name: layer for layer in layers}
    sums: dict[str, tuple[np.ndarray | float, int]] = {}
    batch = 1

    def batches() -> Iterator[Inputs]:
        nonlocal batch
        for inputs in split_batches(split, network.signature, network.batch_size):
            batch = next((len(array) for array in inputs.values() if array.ndim), 1)
            yield inputs

    def pick(count: int) -> np.ndarray:
        if count <= rows_per_batch:
            return np.arange(count)
        return np.sort(rng.choice(count, rows_per_batch, replace=False))

    def see(name: str, inputs: np.ndarray) -> None:
        picked = Picked(pick, batch)
        rows = by_name[name].outline.rows(inputs, picked)
        total, count = sums.get(name, (0.0, 0))
        sums[name] = total + rows.sum(axis=0, dtype=np.float64), count + len(rows)
        add(by_name[name], rows, picked.samples)

    network.watch(list(by_name), batches(), see)
    found = [(layer, *sums[layer.name]) for layer in layers if layer.name in sums]
    return [(layer, per_output(np.asarray(total / count), layer), count) for layer, total, count in found]
