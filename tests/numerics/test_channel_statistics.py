"""Noise by channel over calls whose shapes differ, as along open axes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.numerics.channel_statistics import channel_statistics, noise_to_signal

SHAPES = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=4)


@given(SHAPES, st.integers(0, 2**31))
def test_noise_of_calls_of_any_shape_is_by_channel_where_all_have_as_many_and_else_of_the_whole(
    shapes: list[tuple[int, int, int]], seed: int
) -> None:
    random = np.random.default_rng(seed)
    wanted = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    found = [values + 0.1 * random.standard_normal(values.shape).astype(np.float32) for values in wanted]
    ratios = noise_to_signal(wanted, found, 1)
    signal = sum(float(np.sum(values.astype(np.float64) ** 2)) for values in wanted)
    noise = sum(float(np.sum((was.astype(np.float64) - now) ** 2)) for was, now in zip(wanted, found, strict=True))
    counts = {shape[1] for shape in shapes}
    assert len(ratios) == (counts.pop() if len(counts) == 1 else 1)
    weights = (
        sum(np.sum(values.astype(np.float64) ** 2, axis=(0, 2)) for values in wanted) if len(ratios) > 1 else signal
    )
    assert float(np.sum(ratios * weights)) == pytest.approx(noise, rel=1e-6)


@given(SHAPES, st.integers(0, 2**31))
def test_statistics_add_up_whatever_the_shapes(shapes: list[tuple[int, int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    calls = [random.standard_normal(shape) for shape in shapes]
    added = channel_statistics(calls[0], 1)
    for call in calls[1:]:
        added = added.added(channel_statistics(call, 1))
    assert float(added.total.sum()) == pytest.approx(sum(float(call.sum()) for call in calls))
    assert float(added.count.sum()) == sum(call.size for call in calls)
