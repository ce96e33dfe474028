"""What few decisions tell of many: how far scores moved, beside how far the winning ones are from the next."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from compressctl.core.model import Signature, TensorSpec
from compressctl.measure.fidelity import Comparison
from compressctl.measure.margins import MOST, Margins, expected_churn, most_churn

SEEDS = st.integers(0, 10_000)


def _scores(seed: int, count: int, noise: float, classes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Logits of samples of which some are hard, and what a file makes of them."""
    random = np.random.default_rng(seed)
    before = random.normal(0, 3, (count, classes))
    return before, before + random.normal(0, noise, before.shape)


def _change(found: Margins) -> float:
    assert found.moved is not None
    return found.moved.change


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5])
def test_a_few_decisions_tell_how_many_of_many_change(noise: float) -> None:
    before, after = _scores(0, 20_000, noise)
    counted = float(np.mean(before.argmax(1) != after.argmax(1)))
    all_margins = Margins(1)
    all_margins.add(before[:MOST])
    assert all_margins.of_original is not None
    told = []
    for place in range(0, 2000, 10):
        few = Margins(1)
        few.add(before[place : place + 10], after[place : place + 10])
        assert few.moved is not None
        assert few.moved.seen == 10
        told.append(expected_churn(all_margins.of_original, few.moved))
    assert 0.5 * counted < np.median(told) < 2 * counted
    assert np.quantile(told, 0.95) < 3 * counted


@given(seed=SEEDS, shift=st.floats(-5, 5))
def test_shares_logarithms_and_logits_say_the_same(seed: int, shift: float) -> None:
    before, after = _scores(seed, 8, 0.3)
    shares = Margins(1), Margins(1), Margins(1)
    shares[0].add(softmax(before, axis=1), softmax(after, axis=1))
    shares[1].add(np.log(softmax(before, axis=1)), np.log(softmax(after, axis=1)))
    shares[2].add(before + shift, after + shift)
    changes = [_change(part) for part in shares]
    assert changes == pytest.approx([changes[0]] * 3, rel=1e-3)
    for part in shares[1:]:
        assert part.of_original == pytest.approx(shares[0].of_original, rel=1e-3, abs=1e-6)


@given(seed=SEEDS)
def test_the_axis_of_classes_and_the_calls_do_not_matter(seed: int) -> None:
    before, after = _scores(seed, 12, 0.3)
    rows, columns, calls = Margins(1), Margins(1), Margins(1)
    rows.add(before, after)
    columns.add(before.T[None], after.T[None])
    for place in range(0, 12, 3):
        calls.add(before[place : place + 3], after[place : place + 3])
    assert _change(columns) == _change(calls) == pytest.approx(_change(rows))
    assert columns.of_original == calls.of_original == rows.of_original


def test_one_probability_decides_at_a_half() -> None:
    found = Margins(None)
    found.add(np.array([0.5 + 1e-4, 0.9, 0.001]), np.array([0.5 - 1e-4, 0.9, 0.001]))
    assert found.of_original == pytest.approx((4e-4, np.log(9), np.log(999)), rel=1e-3)
    assert _change(found) == pytest.approx(8e-4 / np.sqrt(3), rel=1e-2)


@pytest.mark.parametrize("scale", [0.5, 0.9, 1.03, 4.0])
@pytest.mark.parametrize("as_shares", [False, True])
def test_a_common_scale_changes_no_decision(scale: float, as_shares: bool) -> None:
    before, _ = _scores(5, 200, 0.0)
    after = scale * before
    found = Margins(1)
    found.add(*(softmax(part, axis=1) if as_shares else part for part in (before, after)))
    assert found.of_original is not None
    assert found.moved is not None
    assert expected_churn(found.of_original, found.moved) < 1e-3


@pytest.mark.parametrize("stored", ["bytes", "float16"])
def test_coarse_steps_at_the_ends_of_a_probability_are_no_change(stored: str) -> None:
    before = 1 / (1 + np.exp(-np.random.default_rng(0).normal(0, 6, 300)))
    after = np.round(before * 255) / 255 if stored == "bytes" else before.astype(np.float16)
    found = Margins(None)
    found.add(before, after)
    assert found.of_original is not None
    assert found.moved is not None
    assert expected_churn(found.of_original, found.moved) < 0.015


def test_saturated_shares_have_a_margin_and_tell_no_change() -> None:
    sure = np.eye(4, dtype=np.float32)[:3]
    found = Margins(1)
    found.add(sure, sure)
    assert found.of_original is not None
    assert np.isfinite(found.of_original).all()
    assert found.moved is None


def test_what_is_no_number_is_left_out() -> None:
    before, after = _scores(1, 3, 0.1)
    after[1] = np.nan
    found = Margins(1)
    found.add(before, after)
    assert found.of_original is not None
    assert len(found.of_original) == 3
    assert found.moved is not None
    assert found.moved.seen == 2


def test_classes_that_are_masked_out_leave_the_others() -> None:
    before, after = _scores(2, 6, 0.1)
    masked, other = before.copy(), after.copy()
    masked[:, 3:] = other[:, 3:] = -np.inf
    found, alone = Margins(1), Margins(1)
    found.add(masked, other)
    alone.add(before[:, :3], after[:, :3])
    assert found.of_original == alone.of_original
    assert found.moved == alone.moved


@pytest.mark.parametrize("sizes", [(3, 9), (5, 1), (2, 6, 4), (4, 0, 3)])
def test_the_number_of_classes_may_differ_between_calls(sizes: tuple[int, ...]) -> None:
    random, found = np.random.default_rng(0), Margins(1)
    comparison = Comparison(Signature((), (TensorSpec("logits", "float32", ("N", "C")),)))
    for size in sizes:
        before = random.normal(size=(1, size)).astype(np.float32)
        found.add(before, before + np.float32(0.1))
        comparison.add({"logits": before}, {"logits": before + np.float32(0.1)}, 1)
    assert found.decisions == sum(size > 1 for size in sizes)
    assert comparison.result()[0].agreement == 1


def test_no_share_is_expected_that_the_count_excludes() -> None:
    assert most_churn(0, 300) == pytest.approx(0.00994, abs=1e-4)
    assert most_churn(0, 9) == pytest.approx(0.283, abs=1e-3)
    assert most_churn(9, 9) == 1
    comparison = Comparison(Signature((), (TensorSpec("logits", "float32", ("N", 3)),)))
    close = np.tile([[0.0, 0.001, -5.0]], (300, 1))
    comparison.add({"logits": close}, {"logits": close + np.array([0, 0, 4.0])}, 300)
    [found] = comparison.result()
    assert found.churn == 0
    assert found.expected_churn == pytest.approx(most_churn(0, 300))


def test_many_decisions_are_counted_instead() -> None:
    before, after = _scores(2, MOST + 1, 0.1)
    found = Margins(1)
    found.add(before[:MOST], after[:MOST])
    assert found.of_original is not None
    found.add(before[MOST:], after[MOST:])
    assert found.of_original is None
    assert found.moved is None


def test_a_comparison_says_it_of_few_decisions_and_counts_many() -> None:
    comparison = Comparison(Signature((), (TensorSpec("logits", "float32", ("N", 12)),)))
    before, after = _scores(3, MOST, 0.5)
    comparison.add({"logits": before}, {"logits": after}, MOST)
    [few] = comparison.result()
    assert few.decisions == MOST
    assert few.expected_churn is not None
    assert few.churn == pytest.approx(few.expected_churn, abs=0.06)
    assert len(comparison.margins()["logits"]) == MOST
    comparison.add({"logits": before}, {"logits": after}, MOST)
    [many] = comparison.result()
    assert (many.decisions, many.expected_churn, many.score_change) == (2 * MOST, None, None)
    assert comparison.margins() == {}
