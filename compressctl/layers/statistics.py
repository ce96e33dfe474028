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

    def squares(layer: Layer, rows: np.ndarray) -> np.ndarray:
        return np.asarray(np.square(rows, dtype=np.float64).sum(axis=0))

    found = _summed(network, layers, split, squares, seed, rows_per_batch)
    return {layer.name: Moments(mean, per_output(total, layer), count) for layer, mean, total, count in found}


def input_grams(
    network: Network, layers: Sequence[Layer], split: Split, seed: int, rows_per_batch: int = ROWS
) -> dict[str, Grams]:
    """By layer; layers whose inputs cannot be seen are missing."""

    def products(layer: Layer, rows: np.ndarray) -> np.ndarray:
        groups = layer.outline.groups
        split_up = rows.reshape(*rows.shape[:2], groups, -1).transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)
        return np.asarray((split_up.transpose(0, 2, 1) @ split_up).astype(np.float64))

    found = _summed(network, layers, split, products, seed, rows_per_batch)
    return {layer.name: Grams(mean, total) for layer, mean, total, _ in found}


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


def _summed(
    network: Network,
    layers: Sequence[Layer],
    split: Split,
    of: Callable[[Layer, np.ndarray], np.ndarray],
    seed: int,
    rows_per_batch: int,
) -> list[tuple[Layer, np.ndarray, np.ndarray, int]]:
    """Of each layer that was seen, over at most so many rows of its inputs per batch, drawn evenly: their mean in the weight's shape,
    the sum of what `of` makes of them, and how many they were."""
    rng = np.random.default_rng(seed)
    by_name = {layer.name: layer for layer in layers}
    sums: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}

    def pick(count: int) -> np.ndarray:
        if count <= rows_per_batch:
            return np.arange(count)
        return np.sort(rng.choice(count, rows_per_batch, replace=False))

    def see(name: str, inputs: np.ndarray) -> None:
        rows = by_name[name].outline.rows(inputs, pick)
        total, others, count = sums.get(name, (0.0, 0.0, 0))
        sums[name] = total + rows.sum(axis=0, dtype=np.float64), others + of(by_name[name], rows), count + len(rows)

    network.watch(list(by_name), split_batches(split, network.signature, network.batch_size), see)
    found = [(layer, *sums[layer.name]) for layer in layers if layer.name in sums]
    return [(layer, per_output(total / count, layer), others, count) for layer, total, others, count in found]
