"""SparseGPT against least squares, and what it gains where inputs are correlated."""

import numpy as np
import pytest

from compressctl.numerics.masks import layer_mask, n_of_m_mask
from compressctl.numerics.sparsegpt import Zeros, sparsegpt


def _layer(out: int, positions: int, channels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A weight and inputs (samples, columns) that are mixtures of a few sources, as activations are."""
    rng = np.random.default_rng(seed)
    columns = positions * channels
    sources = rng.normal(size=(800, max(columns // 3, 1)))
    inputs = sources @ rng.normal(size=(sources.shape[1], columns)) + 0.2 * rng.normal(size=(800, columns))
    return rng.normal(size=(out, positions, channels)).astype(np.float32), inputs


def _output_error(weight: np.ndarray, pruned: np.ndarray, inputs: np.ndarray) -> float:
    rows = len(weight)
    return float(np.square(inputs @ (weight - pruned).reshape(rows, -1).T.astype(np.float64)).sum())


def test_what_remains_solves_the_least_squares_problem_of_each_column_in_turn() -> None:
    """Recomputed without any inverse: column by column, weights to the right are refitted by lstsq."""
    weight, inputs = _layer(3, 1, 8)
    pruned = sparsegpt(weight, inputs.T @ inputs, Zeros(share=0.5), damping=1e-9)
    zero = pruned.reshape(3, -1) == 0
    for row in range(3):
        expected = weight[row].reshape(-1).astype(np.float64)
        for column in range(8):
            if zero[row, column]:
                rest = inputs[:, column + 1 :]
                lost = inputs[:, column] * expected[column]
                expected[column + 1 :] += np.linalg.lstsq(rest, lost, rcond=None)[0]
                expected[column] = 0
        assert pruned[row].reshape(-1) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("shape", [(16, 1, 64), (8, 9, 24), (5, 1, 300)])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_exactly_the_share_is_zero_at_less_error_than_by_magnitude(shape: tuple[int, int, int], share: float) -> None:
    weight, inputs = _layer(*shape)
    pruned = sparsegpt(weight, inputs.T @ inputs, Zeros(share=share))
    assert np.count_nonzero(pruned == 0) == round(share * weight.size)
    by_magnitude = weight * layer_mask(np.abs(weight), share)
    assert _output_error(weight, pruned, inputs) < 0.9 * _output_error(weight, by_magnitude, inputs)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
def test_n_of_m_holds_along_input_channels_at_less_error_than_by_magnitude(n: int, m: int) -> None:
    weight, inputs = _layer(6, 3, 22)
    pruned = sparsegpt(weight, inputs.T @ inputs, Zeros(n_of_m=(n, m)))
    for left in range(0, 22, m):
        assert (np.count_nonzero(pruned[..., left : left + m], axis=-1) <= n).all()
    by_magnitude = weight * n_of_m_mask(np.abs(weight), n, m)
    assert _output_error(weight, pruned, inputs) < _output_error(weight, by_magnitude, inputs)


def test_blocks_are_zero_whole() -> None:
    weight, inputs = _layer(8, 1, 24)
    pruned = sparsegpt(weight, inputs.T @ inputs, Zeros(share=0.5, block=(4, 2)))
    blocks = (pruned == 0).reshape(2, 4, 12, 2).transpose(0, 2, 1, 3).reshape(24, 8)
    assert np.count_nonzero(blocks.all(axis=1)) == 12
    assert not (blocks.any(axis=1) & ~blocks.all(axis=1)).any()


def test_nothing_to_prune_changes_nothing() -> None:
    weight, inputs = _layer(4, 1, 8)
    assert np.array_equal(sparsegpt(weight, inputs.T @ inputs, Zeros(share=0.0)), weight)


def test_inputs_that_were_never_seen_are_pruned_first() -> None:
    weight, inputs = _layer(4, 1, 8)
    inputs[:, [2, 5]] = 0
    pruned = sparsegpt(weight, inputs.T @ inputs, Zeros(share=0.25))
    assert not pruned[:, 0, [2, 5]].any()


def test_a_gram_matrix_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="8 columns"):
        sparsegpt(np.ones((2, 2, 4), np.float32), np.eye(4), Zeros(share=0.5))
