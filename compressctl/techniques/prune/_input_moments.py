"""What enters each weight, over the calibration data: its mean and its energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compressctl.core.data import Split
from compressctl.techniques.prune._sparse_layers import Layer, Weights

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


def input_moments(
    weights: Weights, layers: Sequence[Layer], split: Split, rows_per_batch: int = ROWS
) -> dict[str, Moments]:
    """By layer; layers whose inputs cannot be seen are missing."""
    sums: dict[str, np.ndarray] = {}
    squares: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def see(name: str, rows: np.ndarray) -> None:
        sums[name] = sums.get(name, 0.0) + rows.sum(axis=0, dtype=np.float64)
        squares[name] = squares.get(name, 0.0) + np.square(rows, dtype=np.float64).sum(axis=0)
        counts[name] = counts.get(name, 0) + len(rows)

    weights.watch([layer.name for layer in layers], split, see, rows_per_batch)
    return {
        layer.name: Moments(
            per_output(sums[layer.name] / counts[layer.name], layer),
            per_output(squares[layer.name], layer),
            counts[layer.name],
        )
        for layer in layers
        if layer.name in counts
    }


def per_output(values: np.ndarray, layer: Layer) -> np.ndarray:
    """(positions, channels of all groups) as (out, positions, in): each output reads its own group's channels."""
    out, positions, channels = layer.weight.shape
    by_group = values.reshape(positions, layer.groups, channels).transpose(1, 0, 2)
    return np.repeat(by_group, out // layer.groups, axis=0)


def input_grams(
    weights: Weights, layers: Sequence[Layer], split: Split, rows_per_batch: int = ROWS
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The mean input of each weight, in its shape, and the sum of x x^T over a layer's inputs, (groups, columns, columns).

    Columns are kernel position, then input channel. By layer; layers whose inputs cannot be seen are missing.
    """
    by_name = {layer.name: layer for layer in layers}
    found: dict[str, np.ndarray] = {}
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def see(name: str, rows: np.ndarray) -> None:
        sums[name] = sums.get(name, 0.0) + rows.sum(axis=0, dtype=np.float64)
        counts[name] = counts.get(name, 0) + len(rows)
        groups = by_name[name].groups
        split_up = rows.reshape(*rows.shape[:2], groups, -1).transpose(2, 0, 1, 3).reshape(groups, len(rows), -1)
        found[name] = found.get(name, 0.0) + (split_up.transpose(0, 2, 1) @ split_up).astype(np.float64)

    weights.watch(list(by_name), split, see, rows_per_batch)
    return {name: per_output(total / counts[name], by_name[name]) for name, total in sums.items()}, found
