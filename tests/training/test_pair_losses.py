"""Losses between the vectors of pairs, against numpy and against the laws that they keep."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from compressctl.core.data import ALONE, Tuples  # noqa: E402
from compressctl.core.errors import UsageError  # noqa: E402
from compressctl.core.tasks import Learning  # noqa: E402
from compressctl.training.objective import task_loss  # noqa: E402
from compressctl.training.pair_losses import cosent, pair_loss, wanted_cosines  # noqa: E402

PAIRS = Tuples(2)
RNG = np.random.default_rng(0)


def batch(pairs: int, scores: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    given = RNG.integers(0, 6, pairs) if scores is None else scores
    outputs = RNG.normal(size=(2 * pairs, 5)).astype(np.float32)
    return torch.as_tensor(outputs), torch.as_tensor(np.repeat(given, 2).astype(np.float32))


def cosines(outputs: Tensor) -> np.ndarray:
    rows = outputs.double().numpy()
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.sum(unit[::2] * unit[1::2], axis=1)


def test_cosent_is_its_formula() -> None:
    outputs, labels = batch(7)
    similarity, scores = cosines(outputs), labels[::2].numpy()
    total = sum(
        math.exp(20 * (similarity[j] - similarity[i])) for i in range(7) for j in range(7) if scores[i] > scores[j]
    )
    assert pair_loss("cosent", outputs, labels, PAIRS).item() == pytest.approx(math.log(1 + total), rel=1e-5)


def test_cosine_is_the_mean_squared_error_on_the_scores_own_scale() -> None:
    outputs, labels = batch(7)
    expected = np.mean((cosines(outputs) - labels[::2].numpy() / 5) ** 2)
    assert pair_loss("cosine", outputs, labels, Tuples(2, (0.0, 5.0))).item() == pytest.approx(expected, rel=1e-5)


def test_scores_that_are_cosines_stay() -> None:
    scores = torch.tensor([-1.0, 0.25, 1.0])
    assert torch.equal(wanted_cosines(scores, PAIRS), scores)
    assert wanted_cosines(torch.tensor([1.0, 3.0]), Tuples(2, (1.0, 5.0))).tolist() == [0.0, 0.5]


def test_a_perfect_order_costs_next_to_nothing_and_a_reversed_one_much() -> None:
    similarity, scores = torch.linspace(-0.9, 0.9, 4), torch.arange(4.0)
    assert cosent(similarity, scores) < 1e-4
    assert cosent(similarity.flip(0), scores) > 30


@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=12), st.integers(0, 1000))
def test_only_the_order_of_scores_counts(similarity: list[float], seed: int) -> None:
    scores = torch.as_tensor(np.random.default_rng(seed).integers(0, 4, len(similarity)).astype(np.float32))
    given = torch.tensor(similarity)
    expected = cosent(given, scores)
    assert torch.equal(cosent(given, scores * 3 - 7), expected)
    assert torch.equal(cosent(given, scores.exp()), expected)


@given(st.permutations(range(6)))
def test_the_order_of_pairs_in_a_batch_does_not_count(order: list[int]) -> None:
    similarity, scores = torch.linspace(-1, 1, 6).cos(), torch.tensor([0.0, 2, 1, 1, 5, 3])
    assert torch.isclose(cosent(similarity[order], scores[order]), cosent(similarity, scores))


def test_gradients_are_those_of_the_formula() -> None:
    similarity = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([1.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda given: cosent(given, scores), (similarity,))


@pytest.mark.parametrize("pairs", [1, 3])
def test_pairs_of_one_score_have_no_order_and_no_gradient(pairs: int) -> None:
    outputs, labels = batch(pairs, np.full(pairs, 2.0))
    outputs.requires_grad_()
    loss = pair_loss("cosent", outputs, labels, PAIRS)
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()


def test_scored_pairs_are_trained_by_cosent_where_no_loss_is_named() -> None:
    outputs, labels = batch(5)
    named = task_loss(Learning("embedding", "cosent"))(outputs, labels, PAIRS)
    assert torch.equal(task_loss("embedding")(outputs, labels, PAIRS), named)
    assert torch.equal(task_loss(Learning("embedding"))(outputs, labels, PAIRS), named)


def test_pairs_of_samples_with_classes_are_told_apart_by_class() -> None:
    outputs, labels = batch(5)
    assert torch.equal(
        task_loss("embedding")(outputs, labels.long(), PAIRS), task_loss("embedding")(outputs, labels.long())
    )


@pytest.mark.parametrize(
    ("labels", "tuples", "message"),
    [
        ([1.0, 1, 2, 2], ALONE, "samples do not come in pairs"),
        ([1.0, 1, 2, 2], Tuples(3), "samples do not come in pairs"),
        ([1.0, 2, 2, 1], PAIRS, "two samples in a row with the same score"),
        ([[1.0]] * 4, PAIRS, "a score for each pair"),
    ],
)
def test_what_are_no_scored_pairs_is_one_message(labels: list[float], tuples: Tuples, message: str) -> None:
    for name in ("cosent", "cosine"):
        with pytest.raises(UsageError, match=message):
            task_loss(Learning("embedding", name))(torch.ones(4, 3), torch.tensor(labels), tuples)


def test_half_a_pair_in_a_batch_is_one_message() -> None:
    with pytest.raises(UsageError, match="two samples in a row"):
        pair_loss("cosent", torch.ones(3, 2), torch.ones(3), PAIRS)


@pytest.mark.parametrize("score_range", [(0.0, 1.0), (3.0, 3.0)])
def test_a_score_that_is_no_cosine_is_one_message(score_range: tuple[float, float]) -> None:
    outputs, labels = batch(2, np.array([3.0, 4.0]))
    with pytest.raises(UsageError, match="which is no cosine where"):
        pair_loss("cosine", outputs, labels, Tuples(2, score_range))
