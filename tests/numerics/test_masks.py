"""Masks: exact counts, patterns that hold everywhere, nothing dropped that scores higher than what stays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressctl.numerics.masks import block_means, global_masks, layer_mask, n_of_m_mask, row_mask

shapes = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 13))
shares = st.floats(0, 1)
seeds = st.integers(0, 2**32 - 1)
blocks = st.tuples(st.integers(1, 4), st.integers(1, 4))


def _scores(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) + 1e-6


@given(seeds, shapes, shares)
def test_a_layer_loses_exactly_its_share_and_only_the_lowest(seed: int, shape: tuple[int, ...], share: float) -> None:
    scores = _scores(seed, shape)
    kept = layer_mask(scores, share)
    assert np.count_nonzero(~kept) == round(share * scores.size)
    assert scores[~kept].max(initial=0) <= scores[kept].min(initial=np.inf)


@given(seeds, shapes, shares, blocks)
def test_masking_twice_changes_nothing(seed: int, shape: tuple[int, ...], share: float, block: tuple[int, int]) -> None:
    weight = _scores(seed, shape)
    for mask in (
        lambda w: layer_mask(w, share, block),
        lambda w: row_mask(w, share, block),
        lambda w: n_of_m_mask(w, 2, 4),
    ):
        once = weight * mask(weight)
        assert np.array_equal(once * mask(once), once)


@given(seeds, shapes, shares, blocks)
def test_blocks_stand_or_fall_whole_and_the_weakest_fall(
    seed: int, shape: tuple[int, ...], share: float, block: tuple[int, int]
) -> None:
    scores = _scores(seed, shape)
    kept = layer_mask(scores, share, block)
    stay, fall = [], []
    for top in range(0, shape[0], block[0]):
        for position in range(shape[1]):
            for left in range(0, shape[2], block[1]):
                here = (slice(top, top + block[0]), position, slice(left, left + block[1]))
                assert len(np.unique(kept[here])) == 1
                (stay if kept[here].flat[0] else fall).append(scores[here].mean())
    assert len(fall) == round(share * (len(stay) + len(fall)))
    assert max(fall, default=0) <= min(stay, default=np.inf) + 1e-12


@given(seeds, st.lists(shapes, min_size=1, max_size=4), shares)
def test_over_all_layers_the_lowest_fall_wherever_they_are(
    seed: int, several: list[tuple[int, ...]], share: float
) -> None:
    scores = [_scores(seed + place, shape) * (place + 1) for place, shape in enumerate(several)]
    kept = global_masks(scores, share)
    everything = np.concatenate([layer.reshape(-1) for layer in scores])
    stays = np.concatenate([layer.reshape(-1) for layer in kept])
    assert [layer.shape for layer in kept] == [layer.shape for layer in scores]
    assert np.count_nonzero(~stays) == round(share * everything.size)
    assert everything[~stays].max(initial=0) <= everything[stays].min(initial=np.inf)


@given(seeds, shapes, shares)
def test_every_row_loses_its_share(seed: int, shape: tuple[int, ...], share: float) -> None:
    kept = row_mask(_scores(seed, shape), share).reshape(shape[0], -1)
    assert set(np.count_nonzero(~kept, axis=1)) == {round(share * kept.shape[1])}


@given(seeds, shapes, st.sampled_from([(2, 4), (1, 4), (4, 8), (1, 2), (3, 5)]))
def test_n_of_m_holds_in_every_group_and_keeps_the_highest(
    seed: int, shape: tuple[int, ...], ratio: tuple[int, int]
) -> None:
    n, m = ratio
    scores = _scores(seed, shape)
    kept = n_of_m_mask(scores, n, m)
    for left in range(0, shape[2], m):
        here, stays = scores[..., left : left + m], kept[..., left : left + m]
        assert (stays.sum(axis=-1) == min(n, here.shape[-1])).all()
        lowest_kept = np.where(stays, here, np.inf).min(axis=-1)
        assert (np.where(stays, -np.inf, here).max(axis=-1) <= lowest_kept).all()


def test_a_smaller_block_at_the_edge_is_compared_by_its_mean() -> None:
    scores = np.array([[1.0, 1.0, 1.0, 1.0, 3.0]])[:, None, :]
    assert block_means(scores, (1, 2)).reshape(-1) == pytest.approx([1, 1, 3])
    assert layer_mask(scores, 2 / 3, (1, 2)).reshape(-1).tolist() == [False] * 4 + [True]
