"""Distances of outputs: nothing for equal ones, more for those that are farther, whatever scores look like."""

import numpy as np
import pytest

from compressctl.numerics.output_distance import kl_divergence, relative_squared_distance, squared_distance

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(8, 5))


@pytest.mark.parametrize("distance", [kl_divergence, squared_distance, relative_squared_distance])
@pytest.mark.parametrize("shape", [(8, 5), (8, 1), (8,), (2, 3, 1), ()])
def test_equal_outputs_are_no_distance_apart_and_others_are(distance: object, shape: tuple[int, ...]) -> None:
    assert callable(distance)
    wanted = RNG.normal(size=shape)
    assert distance(wanted, wanted) == pytest.approx(0, abs=1e-12)
    assert 0 < distance(wanted, wanted + 0.1 * RNG.uniform(0.5, 1, size=shape)) < distance(wanted, -wanted - 3)


def test_a_single_score_is_one_class_against_none() -> None:
    """The logit of one class, and the two probabilities that it stands for."""
    first, second = SCORES[:, :1], SCORES[:, 1:2]
    two = [np.concatenate([p, 1 - p], axis=-1) for p in (1 / (1 + np.exp(-first)), 1 / (1 + np.exp(-second)))]
    assert kl_divergence(first, second) == pytest.approx(kl_divergence(*two))
    assert kl_divergence(two[0][:, :1], two[1][:, :1]) == pytest.approx(kl_divergence(*two))


def test_a_relative_distance_knows_no_unit() -> None:
    near = relative_squared_distance(SCORES, SCORES + 0.1)
    assert relative_squared_distance(1000 * SCORES, 1000 * (SCORES + 0.1)) == pytest.approx(near)
    assert relative_squared_distance(SCORES, np.full_like(SCORES, SCORES.mean())) == pytest.approx(1)
    assert relative_squared_distance(np.ones(4), np.ones(4) + 0.5) == pytest.approx(0.25)
    assert relative_squared_distance(np.ones((0, 3)), np.ones((0, 3))) == 0
