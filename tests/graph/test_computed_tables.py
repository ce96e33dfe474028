"""A first look at a table may only say no where the whole table says no."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.graph import computed_tables
from compressctl.graph.computed_tables import is_computed_table
from compressctl.graph.tensors import from_array

SEEDS = st.integers(0, 10**6)
NOISE = st.sampled_from([0, 1e-4, 3e-3, 1e-2])


def _agree(values: np.ndarray, patch: pytest.MonkeyPatch) -> bool:
    tensor = from_array(values.astype(np.float32), "table")
    with patch.context() as without:
        without.setattr(computed_tables, "_may_be_one", lambda _: True)
        slow = is_computed_table(tensor)
    return is_computed_table(tensor) == slow


@given(SEEDS, NOISE, st.floats(-3, 3), st.sampled_from([1e-3, 0.5, 0.99, 1.01, 2.0, 1e3]))
def test_series(seed: int, noise: float, start: float, ratio: float) -> None:
    random = np.random.default_rng(seed)
    jitter = 1 + noise * random.uniform(-1, 1, 24)
    with pytest.MonkeyPatch.context() as patch:
        assert _agree(start + np.cumsum(jitter), patch)
        assert _agree(10.0**start * ratio ** np.cumsum(jitter[:12].repeat(2) / 2), patch)


@given(SEEDS, NOISE, st.floats(0, np.pi), st.integers(1, 4))
def test_sinusoids(seed: int, noise: float, most: float, columns: int) -> None:
    random = np.random.default_rng(seed)
    frequency, phase = random.uniform(0, most, columns), random.uniform(0, 2 * np.pi, columns)
    table = np.sin(np.arange(40)[:, None] * frequency + phase) * random.uniform(0.01, 10, columns)
    with pytest.MonkeyPatch.context() as patch:
        assert _agree(table + noise * random.uniform(-1, 1, table.shape), patch)


@given(SEEDS, st.sampled_from([0.0, 1.0, -1e4, -np.inf, np.nan]))
def test_masks(seed: int, first: float) -> None:
    table = np.random.default_rng(seed).choice([0.0, -1e4], (20, 20))
    table[0, 0] = first
    with pytest.MonkeyPatch.context() as patch:
        assert _agree(table, patch)
        assert _agree(np.tri(20, 30), patch)


@given(SEEDS)
def test_learned_numbers(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert _agree(np.random.default_rng(seed).normal(size=(30, 5)), patch)


@pytest.mark.parametrize("shape", [(64, 0), (0,), (1, 64, 0), (0, 64)])
def test_a_constant_of_nothing_is_no_table(shape: tuple[int, ...]) -> None:
    assert not is_computed_table(from_array(np.zeros(shape, np.float32), "table"))
