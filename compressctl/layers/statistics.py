"""What enters each layer over a split: means, energies and products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.core.data import Split
from compressctl.layers.layer import Layer
from compressctl.layers.network import Network, split_batches

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
    """mean: of what each weight multiplies, in the weight's shape. products: the sum of x x^T over the layer's inputs,
    (groups, columns, columns); columns are kernel position, then input channel."""

    mean: np.ndarray
    products: np.ndarray


def input_moments(
    network: Network, layers: Sequence[Layer], split: Split, seed: int, rows_per_batch: int = ROWS
) -> dict[str, Moments]:
    """By layer; layers whose inputs cannot be seen are missing."""
    sums: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def see(name: str, rows: np.ndarray) -> None:
        sums[name] = sums.get(name, 0.0) + rows.sum(axis=0, dtype=np.float64)
        squares[name] = squares.get(name, 0.0) + np.square(rows, dtype=np.float64).sum(axis=0)
        counts[name] = counts.get(name, 0) + len(rows)

    _watch_rows(network, layers, split, see, seed, rows_per_batch)
    return {
        layer.name: Moments(
            per_output(sums[layer.name] / counts[layer.name], layer),
            per_output(squares[layer.name], layer),
            counts[layer.name],
        )
        for layer in layers
        if layer.name in counts
    }


def input_grams(
    network: Network, layers: Sequence[Layer], split: Split, seed: int, rows_per_batch: int = ROWS
) -> dict[str, Grams]:
    """By layer; layers whose inputs cannot be seen are missing."""
    groups = {layer.name: layer.outline.groups for layer in layers}
    products: dict[str, np.ndarray] = {}
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def see(name: str, rows: np.ndarray) -> None:
        sums[name] = sums.get(name, 0.0) + rows.sum(axis=0, dtype=np.float64)
        counts[name] = counts.get(name, 0) + len(rows)
        split_up = rows.reshape(*rows.shape[:2], groups[name], -1).transpose(2, 0, 1, 3)
        split_up = split_up.reshape(groups[name], len(rows), -1)
        products[name] = products.get(name, 0.0) + (split_up.transpose(0, 2, 1) @ split_up).astype(np.float64)

    _watch_rows(network, layers, split, see, seed, rows_per_batch)
    return {
        layer.name: Grams(per_output(sums[layer.name] / counts[layer.name], layer), products[layer.name])
        for layer in layers
        if layer.name in counts
    }


def hold_mean_output(network: Network, layer: Layer, weight: np.ndarray, mean_input: np.ndarray) -> None:
    """Shift the layer's bias by what another weight changes in its mean output.

    A layer is linear in its input, so that its mean input tells. mean_input: of what each weight multiplies, in its shape.
    """
    moved = (layer.weight - weight) * mean_input
    network.shift(layer.name, moved.reshape(len(moved), -1).sum(axis=1).astype(np.float32))


def per_output(values: np.ndarray, layer: Layer) -> np.ndarray:
    """(kernel positions, channels of all groups) in the weight's shape: each output reads its own group's channels."""
    groups = layer.outline.groups
    by_group = values.reshape(len(values), groups, -1).transpose(1, 2, 0)
    return np.repeat(by_group, len(layer.weight) // groups, axis=0).reshape(layer.weight.shape)


def _watch_rows(
    network: Network,
    layers: Sequence[Layer],
    split: Split,
    see: Callable[[str, np.ndarray], None],
    seed: int,
    rows_per_batch: int,
) -> None:
    """Show at most so many rows of each layer's inputs per batch, drawn evenly."""
    rng = np.random.default_rng(seed)
    outlines = {layer.name: layer.outline for layer in layers}

    def pick(count: int) -> np.ndarray:
        if count <= rows_per_batch:
            return np.arange(count)
        return np.sort(rng.choice(count, rows_per_batch, replace=False))

    batches = split_batches(split, network.signature, network.batch_size)
    network.watch(list(outlines), batches, lambda name, inputs: see(name, outlines[name].rows(inputs, pick)))
