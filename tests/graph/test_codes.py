"""Codes of large weights, made part by part."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.core.quant import TensorQuant
from compressctl.graph import codes
from compressctl.graph.codes import weight_codes, weight_values


@st.composite
def planned(draw: st.DrawFn) -> tuple[np.ndarray, TensorQuant]:
    """A weight with a plan: one scale, one a channel, or one a block of an axis."""
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    axis = draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    block = None if axis is None or draw(st.booleans()) else draw(st.integers(1, 5))
    if axis is None:
        scales: tuple[int, ...] = ()
    elif block is None:
        scales = (shape[axis],)
    else:
        scales = tuple(-(-size // block) if place == axis % len(shape) else size for place, size in enumerate(shape))
    dtype = draw(st.sampled_from(["int8", "uint8", "int4", "uint4"]))
    point = random.integers(0, 7, scales).astype(dtype)
    quant = TensorQuant(dtype, random.uniform(0.01, 0.2, scales).astype(np.float32), point, axis, block)
    return random.normal(size=shape).astype(np.float32), quant


@settings(max_examples=300, deadline=None)
@given(planned(), st.integers(1, 40))
def test_parts_are_the_whole(asked: tuple[np.ndarray, TensorQuant], at_once: int) -> None:
    values, quant = asked
    whole = weight_codes(values, quant), weight_values(values, quant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes, "_MOST_AT_ONCE", at_once)
        parts = weight_codes(values, quant), weight_values(values, quant)
    assert [part.dtype for part in parts] == [part.dtype for part in whole]
    assert (parts[0].astype(int) == whole[0].astype(int)).all()
    assert (parts[1] == whole[1]).all()


@pytest.mark.parametrize(("axis", "block"), [(None, None), (0, None), (1, None), (0, 32), (1, 32)])
def test_a_large_weight_takes_little_more_than_what_it_becomes(axis: int | None, block: int | None) -> None:
    values = np.ones((4096, 4096), np.float32)
    scales = () if axis is None else (4096,) if block is None else (128, 4096) if axis == 0 else (4096, 128)
    quant = TensorQuant("int8", np.full(scales, 0.1, np.float32), np.zeros(scales, np.int8), axis, block)
    tracemalloc.start()
    try:
        found = weight_values(values, quant)
        assert tracemalloc.get_traced_memory()[1] < 2 * values.nbytes
    finally:
        tracemalloc.stop()
    assert np.allclose(found, 1.0)
