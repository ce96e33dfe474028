"""Losses between student and teacher, each against a computation in float64 that shares no code with it, and their laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from compressctl.techniques.distill._adapters import same_places  # noqa: E402
from compressctl.techniques.distill._feature_losses import (  # noqa: E402  # noqa: E402
    angle_loss,
    attention_map,
    attention_transfer,
    contrast,
    distance_loss,
)
from compressctl.training.supervision.distances import cosine_distance, squared_difference  # noqa: E402
from compressctl.training.supervision.dkd import dkd  # noqa: E402
from compressctl.training.supervision.kd import as_classes, kl, standardized  # noqa: E402

SEEDS = st.integers(0, 10_000)
ROWS, CLASSES = 12, 7


def normal(seed: int, *shape: int, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, shape)


def softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def kl_rows(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    return (teacher * (np.log(teacher) - np.log(student))).sum(-1)


def tensor(values: np.ndarray) -> "torch.Tensor":
    return torch.as_tensor(values.astype(np.float32))


@given(SEEDS, st.sampled_from([0.5, 1.0, 2.0, 4.0, 20.0]))
def test_kl_is_the_divergence_of_softened_classes_times_the_squared_temperature(seed: int, temperature: float) -> None:
    student, teacher = normal(seed, ROWS, CLASSES, scale=3), normal(seed + 1, ROWS, CLASSES, scale=3)
    expected = temperature**2 * kl_rows(softmax(teacher / temperature), softmax(student / temperature)).mean()
    assert float(kl(tensor(student), tensor(teacher), temperature)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_kl_per_token_leaves_out_what_the_mask_hides() -> None:
    student, teacher = normal(1, 3, 5, 11), normal(2, 3, 5, 11)
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    rows = kl_rows(softmax(teacher), softmax(student))
    expected = rows[mask == 1].mean()
    assert float(kl(tensor(student), tensor(teacher), 1.0, torch.as_tensor(mask))) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_kl_hardly_depends_on_a_high_temperature() -> None:
    """Hinton et al. 2015, equation 4: for logits small against T it is (z - v) / classes, with zero means."""
    student = tensor(normal(3, 4, CLASSES, scale=0.5)).requires_grad_()
    teacher = tensor(normal(4, 4, CLASSES, scale=0.5))
    kl(student, teacher, 50.0).backward()
    centred = [x - x.mean(-1, keepdim=True) for x in (student.detach(), teacher)]
    assert torch.allclose(student.grad * 4, (centred[0] - centred[1]) / CLASSES, atol=5e-3)


def test_one_logit_counts_as_two_classes() -> None:
    student, teacher = normal(5, 30, 1, scale=2), normal(6, 30, 1, scale=2)
    p, q = (1 / (1 + np.exp(-x[:, 0])) for x in (teacher, student))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    found = kl(as_classes(tensor(student), 1), as_classes(tensor(teacher), 1), 1.0)
    assert float(found) == pytest.approx(expected, rel=1e-4)


@given(SEEDS, st.floats(0, 3), st.floats(0, 9), st.sampled_from([1.0, 4.0]))
def test_dkd_weighs_the_target_and_the_others_apart(seed: int, alpha: float, beta: float, temperature: float) -> None:
    student, teacher = normal(seed, ROWS, CLASSES, scale=2), normal(seed + 1, ROWS, CLASSES, scale=2)
    target = np.random.default_rng(seed).integers(0, CLASSES, ROWS)
    rows = []
    for z, v, t in zip(student / temperature, teacher / temperature, target, strict=True):
        p, q = softmax(v), softmax(z)
        pair_p, pair_q = np.array([p[t], 1 - p[t]]), np.array([q[t], 1 - q[t]])
        other_p, other_q = softmax(np.delete(v, t)), softmax(np.delete(z, t))
        rows.append(alpha * kl_rows(pair_p, pair_q) + beta * kl_rows(other_p, other_q))
    found = dkd(tensor(student), tensor(teacher), torch.as_tensor(target), alpha, beta, temperature)
    assert float(found) == pytest.approx(temperature**2 * np.mean(rows), rel=1e-3, abs=1e-4)


@given(SEEDS)
def test_dkd_is_kl_when_the_others_weigh_what_the_teacher_leaves_them(seed: int) -> None:
    student, teacher = normal(seed, 1, CLASSES, scale=2), normal(seed + 1, 1, CLASSES, scale=2)
    target = seed % CLASSES
    left = 1 - softmax(teacher)[0, target]
    found = dkd(tensor(student), tensor(teacher), torch.tensor([target]), 1.0, float(left), 1.0)
    assert float(found) == pytest.approx(float(kl(tensor(student), tensor(teacher), 1.0)), rel=1e-3, abs=1e-5)


@given(SEEDS)
def test_dkd_with_both_weights_one_is_kl_and_what_kl_takes_from_the_others(seed: int) -> None:
    """KD = TCKD + (1 - p_target) NCKD (equation 6), so that at alpha = beta = 1 the difference is p_target * NCKD."""
    student, teacher = normal(seed, 1, CLASSES, scale=2), normal(seed + 1, 1, CLASSES, scale=2)
    target = seed % CLASSES
    others = kl_rows(softmax(np.delete(teacher, target)), softmax(np.delete(student, target)))
    more = softmax(teacher)[0, target] * others
    found = dkd(tensor(student), tensor(teacher), torch.tensor([target]), 1.0, 1.0, 1.0)
    assert float(found - kl(tensor(student), tensor(teacher), 1.0)) == pytest.approx(float(more), rel=1e-3, abs=1e-5)


def test_dkd_of_a_very_sure_teacher_is_finite_and_so_is_its_gradient() -> None:
    student = torch.zeros(2, 10, requires_grad=True)
    teacher = torch.zeros(2, 10)
    teacher[:, 3] = 200.0
    loss = dkd(student, teacher, torch.tensor([3, 3]), 1.0, 8.0, 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


@given(SEEDS, st.floats(-50, 50), st.floats(0.1, 30))
def test_standardized_logits_do_not_change_with_a_shift_or_a_scale(seed: int, shift: float, scale: float) -> None:
    logits = normal(seed, ROWS, CLASSES)
    plain, moved = standardized(tensor(logits)), standardized(tensor(logits * scale + shift))
    assert torch.allclose(plain, moved, atol=2e-3)
    expected = (logits - logits.mean(1, keepdims=True)) / logits.std(1, keepdims=True)
    assert np.allclose(plain.numpy(), expected, atol=1e-4)


def test_attention_is_where_the_energy_is_and_ignores_how_much() -> None:
    features = normal(7, 4, 6, 5, 5)
    energy = (features**2).mean(1).reshape(4, -1)
    expected = energy / np.linalg.norm(energy, axis=1, keepdims=True)
    assert np.allclose(attention_map(tensor(features)).numpy(), expected, atol=1e-5)
    assert float(attention_transfer(tensor(features), tensor(features * 7))) == pytest.approx(0, abs=1e-10)
    other = normal(8, 4, 3, 5, 5)
    second = (other**2).mean(1).reshape(4, -1)
    wanted = ((second / np.linalg.norm(second, axis=1, keepdims=True) - expected) ** 2).sum(1).mean()
    assert float(attention_transfer(tensor(other), tensor(features))) == pytest.approx(wanted, rel=1e-4)


def test_hints_meet_at_the_smaller_resolution() -> None:
    student, teacher = normal(9, 2, 3, 8, 8), normal(10, 2, 3, 4, 4)
    pooled = student.reshape(2, 3, 4, 2, 4, 2).mean((3, 5))
    first, second = same_places(tensor(student), tensor(teacher))
    assert float(squared_difference(first, second)) == pytest.approx(((pooled - teacher) ** 2).mean(), rel=1e-4)


def huber(difference: np.ndarray) -> float:
    size = np.abs(difference)
    return float(np.where(size < 1, size**2 / 2, size - 0.5).mean())


def distances(points: np.ndarray) -> np.ndarray:
    found = np.array([[np.linalg.norm(a - b) for b in points] for a in points])
    return found / found[found > 0].mean()


def cosines(points: np.ndarray) -> np.ndarray:
    count = len(points)
    found = np.zeros((count, count, count))
    for i, j, k in np.ndindex(count, count, count):
        one, other = points[i] - points[j], points[k] - points[j]
        size = np.linalg.norm(one) * np.linalg.norm(other)
        found[j, i, k] = one @ other / size if size > 0 else 0
    return found


def test_relational_losses_are_those_of_all_pairs_and_triples() -> None:
    student, teacher = normal(11, 6, 4), normal(12, 6, 9)
    wanted = huber(distances(student) - distances(teacher))
    assert float(distance_loss(tensor(student), tensor(teacher))) == pytest.approx(wanted, rel=1e-4)
    wanted = huber(cosines(student) - cosines(teacher))
    assert float(angle_loss(tensor(student), tensor(teacher))) == pytest.approx(wanted, rel=1e-3)


@given(SEEDS, st.floats(0.1, 20), st.floats(-5, 5))
def test_relations_stay_when_a_space_is_turned_scaled_and_moved(seed: int, scale: float, shift: float) -> None:
    points = normal(seed, 8, 5)
    turn, _ = np.linalg.qr(normal(seed + 1, 5, 5))
    moved = tensor(points @ turn * scale + shift)
    assert float(distance_loss(moved, tensor(points))) == pytest.approx(0, abs=1e-5)
    assert float(angle_loss(moved, tensor(points))) == pytest.approx(0, abs=1e-4)


def test_relational_gradients_are_finite_where_two_samples_are_the_same() -> None:
    points = tensor(np.repeat(normal(13, 3, 4), 2, axis=0)).requires_grad_()
    (distance_loss(points, tensor(normal(14, 6, 4))) + angle_loss(points, tensor(normal(15, 6, 4)))).backward()
    assert torch.isfinite(points.grad).all()


def test_contrast_is_the_cross_entropy_of_finding_the_own_partner() -> None:
    student, teacher = normal(16, 6, 5), normal(17, 6, 5)
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (student, teacher))
    similar = first @ second.T / 0.1
    rows, columns = np.log(np.diag(softmax(similar))), np.log(np.diag(softmax(similar.T)))
    found = contrast(tensor(student), tensor(teacher), 0.1)
    assert float(found) == pytest.approx(-(rows.mean() + columns.mean()) / 2, rel=1e-4)


def test_contrast_is_log_n_where_everything_is_alike_and_low_where_partners_match() -> None:
    alike = torch.ones(8, 4)
    assert float(contrast(alike, alike, 0.1)) == pytest.approx(np.log(8), rel=1e-5)
    apart = torch.eye(8)
    assert float(contrast(apart, apart, 0.1)) < 0.001
    assert float(contrast(apart, apart.roll(1, 0), 0.1)) > 5


def test_samples_of_one_class_are_no_opposites() -> None:
    student = tensor(normal(18, 6, 5))
    labels = torch.zeros(6, dtype=torch.int64)
    assert float(contrast(student, tensor(normal(19, 6, 5)), 0.1, labels)) == pytest.approx(0, abs=1e-6)


def test_outputs_that_are_no_logits_compare_by_square_or_by_angle() -> None:
    student, teacher = normal(20, 9, 4), normal(21, 9, 4)
    assert float(squared_difference(tensor(student), tensor(teacher))) == pytest.approx(
        ((student - teacher) ** 2).mean(), rel=1e-5
    )
    sizes = np.linalg.norm(student, axis=1) * np.linalg.norm(teacher, axis=1)
    wanted = (1 - (student * teacher).sum(1) / sizes).mean()
    assert float(cosine_distance(tensor(student), tensor(teacher))) == pytest.approx(wanted, rel=1e-4)
