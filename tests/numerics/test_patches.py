"""Rows under a kernel, against the convolution that they stand for."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from compressctl.numerics.patches import output_positions, patches

CASES = [
    ((2, 3, 7), (3,), (1,), ((1, 1),), (1,)),
    ((2, 3, 8, 9), (3, 2), (2, 1), ((1, 1), (0, 0)), (1, 2)),
    ((1, 2, 4, 5, 6), (2, 3, 1), (1, 2, 1), ((0, 0), (1, 1), (0, 0)), (1, 1, 1)),
]


@pytest.mark.parametrize(("shape", "kernel", "strides", "pads", "dilations"), CASES, ids=["1d", "2d", "3d"])
def test_rows_times_the_weight_are_the_convolution(shape, kernel, strides, pads, dilations) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    inputs, weight = rng.normal(size=shape), rng.normal(size=(4, shape[1], *kernel))
    rows = patches(inputs, kernel, strides, pads, dilations)
    canonical = np.moveaxis(weight.reshape(4, shape[1], -1), 1, 2)
    conv = (functional.conv1d, functional.conv2d, functional.conv3d)[len(kernel) - 1]
    expected = conv(
        torch.tensor(inputs), torch.tensor(weight), stride=strides, padding=[a for a, _ in pads], dilation=dilations
    ).numpy()
    assert len(rows) == output_positions(inputs, kernel, strides, pads, dilations)
    flat = np.moveaxis(expected, 1, -1).reshape(-1, 4)
    assert rows.reshape(len(rows), -1) @ canonical.reshape(4, -1).T == pytest.approx(flat)


def test_chosen_rows_are_those_of_all_rows() -> None:
    inputs = np.random.default_rng(0).normal(size=(3, 2, 5, 5))
    arguments = ((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    chosen = np.array([0, 7, 24, 25, 74])
    assert np.array_equal(patches(inputs, *arguments, rows=chosen), patches(inputs, *arguments)[chosen])
