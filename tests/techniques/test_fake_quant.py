"""Rounding with gradients, beside the same arithmetic in numpy and the papers' formulae in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

torch = pytest.importorskip("torch")

from compressctl.core.quant import TensorQuant  # noqa: E402
from compressctl.graph.codes import weight_codes, weight_values  # noqa: E402
from compressctl.numerics.affine import dequantize, quantize  # noqa: E402
from compressctl.techniques.quantize._binary_ternary import BinaryWeight, EdeSchedule, TernaryWeight  # noqa: E402
from compressctl.techniques.quantize._fake_quant import InputQuantizer, SteadyScales, WeightQuantizer, fitted_scale  # noqa: E402
from compressctl.techniques.quantize._learned_plan import on_grid  # noqa: E402
from compressctl.training.hooks import StepInfo  # noqa: E402

NUMBERS = st.floats(-4, 4, width=32)


def activation(scale: float, point: int) -> TensorQuant:
    return TensorQuant("uint8", np.asarray(scale, np.float32), np.asarray(point, np.uint8))


@given(arrays(np.float32, 40, elements=NUMBERS), st.sampled_from([0, 17, 128]), st.booleans())
def test_an_activation_is_rounded_as_the_runtime_rounds_it(values: np.ndarray, point: int, is_learned: bool) -> None:
    quant = activation(1 / 64, point)  # a power of two: x / s and x * (1 / s) are then the same float
    wanted = dequantize(quantize(values, quant.scale, quant.zero_point, "uint8"), quant.scale, quant.zero_point)
    given_values = torch.tensor(values, requires_grad=is_learned)
    found = InputQuantizer(quant, is_learned=is_learned)(given_values)
    assert np.array_equal(found.detach().numpy(), wanted)


@pytest.mark.parametrize("point", [0, 100])
def test_gradients_are_those_of_lsq(point: int) -> None:
    """Esser et al. 2020, equations 3 and 5, value by value."""
    rng = np.random.default_rng(point)
    values, slopes = rng.normal(0, 2, (4, 50)), rng.normal(size=(4, 50))
    scale, low, high = 0.02, -point, 255 - point
    steps = values / scale
    is_inside = (low < steps) & (steps < high)
    to_scale = np.where(is_inside, np.rint(steps) - steps, np.where(steps <= low, low, high))
    wanted = (slopes * to_scale).sum() / np.sqrt(50 * max(high, -low))

    quantizer = InputQuantizer(activation(scale, point), is_learned=True)
    x = torch.tensor(values, dtype=torch.float32, requires_grad=True)
    quantizer(x).backward(torch.tensor(slopes, dtype=torch.float32))
    assert quantizer.scale.grad is not None
    assert quantizer.scale.grad.item() == pytest.approx(wanted, rel=1e-3)
    assert np.allclose(x.grad, slopes * is_inside, atol=1e-6)


def test_the_gradient_of_a_weights_scale_is_that_of_lsq_by_channel() -> None:
    rng = np.random.default_rng(0)
    weight, slopes = rng.normal(0, 1, (3, 20)), rng.normal(size=(3, 20))
    scale = np.array([0.1, 0.2, 0.05])
    steps = weight / scale[:, None]
    to_scale = np.where(np.abs(steps) < 7, np.rint(steps) - steps, 7 * np.sign(steps))
    wanted = (slopes * to_scale).sum(1) / np.sqrt(20 * 7)

    quantizer = WeightQuantizer(7, torch.tensor(scale, dtype=torch.float32))
    quantizer(torch.tensor(weight, dtype=torch.float32)).backward(torch.tensor(slopes, dtype=torch.float32))
    assert quantizer.scale is not None
    assert np.allclose(quantizer.scale.grad, wanted, rtol=1e-4)


@pytest.mark.parametrize("is_learned", [True, False])
@pytest.mark.parametrize("limit", [127, 7, 1])
def test_a_weight_is_rounded_as_the_plan_stores_it(limit: int, is_learned: bool) -> None:
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(limit))
    quantizer = WeightQuantizer(limit, fitted_scale(weight, limit) if is_learned else None)
    scale = (quantizer.values(weight).abs().amax((1, 2, 3)) / quantizer.codes(weight).abs().amax((1, 2, 3))).numpy()
    quant = TensorQuant("int8", scale, np.zeros(6, np.int8), 0, None, -limit, limit)
    assert np.array_equal(quantizer.codes(weight).numpy(), weight_codes(weight.numpy(), quant))
    assert np.allclose(quantizer.values(weight), weight_values(weight.numpy(), quant), rtol=1e-6)
    assert np.allclose(quantizer(weight).detach(), quantizer.values(weight), atol=1e-6)


@pytest.mark.parametrize("limit", [7, 1])
def test_a_fitted_scale_costs_less_than_the_whole_range(limit: int) -> None:
    weight = torch.randn(5, 200, generator=torch.Generator().manual_seed(0))

    def error(scale: "torch.Tensor") -> "torch.Tensor":
        return (WeightQuantizer(limit, scale).values(weight) - weight).square().sum(1)

    assert (error(fitted_scale(weight, limit)) < error(weight.abs().amax(1) / limit)).all()


@given(
    arrays(np.int64, (4, 9), elements=st.integers(-7, 7)),
    arrays(np.float64, 4, elements=st.floats(0.01, 3) | st.floats(-3, -0.01)),
)
def test_a_channels_factor_turns_codes_into_the_same_codes(codes: np.ndarray, factors: np.ndarray) -> None:
    """Folding BatchNorm commutes with rounding: the exported weight's codes are the trained ones, up to the factor's sign."""
    folded = (codes * 0.03 * factors[:, None]).astype(np.float32)
    quant = on_grid(folded, 0, codes, 7)
    assert quant is not None
    assert np.array_equal(weight_codes(folded, quant), np.sign(factors)[:, None] * codes)


def test_weights_that_were_not_made_of_these_codes_are_recognised() -> None:
    codes = np.random.default_rng(0).integers(-7, 8, (4, 9))
    assert on_grid((codes * 0.1).astype(np.float32), 0, codes, 7) is not None
    assert on_grid((codes * 0.1).T.astype(np.float32), 1, codes, 7) is not None
    assert on_grid((codes * 0.1 + np.eye(4, 9) * 0.01).astype(np.float32), 0, codes, 7) is None
    assert on_grid((codes[:3] * 0.1).astype(np.float32), 0, codes, 7) is None


@pytest.mark.parametrize("is_balanced", [True, False])
def test_a_binary_weight_has_two_values_per_channel(is_balanced: bool) -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1)) + 0.3
    found = BinaryWeight(is_balanced=is_balanced, is_estimated=True).values(weight).reshape(5, -1)
    rows = weight.reshape(5, -1).double()
    rows = rows - rows.mean(1, keepdim=True) if is_balanced else rows
    assert np.allclose(found, rows.sign() * rows.abs().mean(1, keepdim=True), rtol=1e-5)
    assert [len(row.unique()) for row in found] == [2] * 5


def test_the_sign_of_nothing_is_plus() -> None:
    found = BinaryWeight(is_balanced=False, is_estimated=False).values(torch.tensor([[0.0, 2.0], [-1.0, 0.0]]))
    assert found.tolist() == [[1.0, 1.0], [-0.5, 0.5]]


def test_the_estimators_gradient_is_ir_nets() -> None:
    """Qin et al. 2020, equations 8 and 9, for a channel whose scale and deviation are 1."""
    values = np.array([[-1.0, 1.0, -1.0, 1.0]])
    slopes = np.array([[0.5, -2.0, 1.0, 0.25]])
    for epoch, steepness in ((0, 0.1), (1, 1.0), (2, 10.0)):
        weight = BinaryWeight(is_balanced=False, is_estimated=True)
        EdeSchedule([weight], 3).before_epoch(torch.nn.Identity(), StepInfo(0, 30, epoch))
        x = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        weight(x).backward(torch.tensor(slopes, dtype=torch.float32))
        estimated = slopes * max(1 / steepness, 1) * steepness * (1 - np.tanh(values * steepness) ** 2)
        of_scale = np.sign(values) * (slopes * np.sign(values)).mean()
        assert np.allclose(x.grad, estimated + of_scale, rtol=1e-4, atol=1e-6)


def test_a_ternary_weight_is_twns() -> None:
    """Li and Liu 2016, equations 5 and 6."""
    weight = np.random.default_rng(2).normal(size=(4, 30))
    threshold = 0.7 * np.abs(weight).mean(1, keepdims=True)
    kept = np.abs(weight) > threshold
    scale = (np.abs(weight) * kept).sum(1, keepdims=True) / kept.sum(1, keepdims=True)
    given_weight = torch.tensor(weight, dtype=torch.float32, requires_grad=True)
    ternary = TernaryWeight()
    assert np.allclose(ternary.values(given_weight), np.sign(weight) * kept * scale, rtol=1e-5)
    ternary(given_weight).sum().backward()
    assert (given_weight.grad == 1).all()


def test_a_steep_loss_moves_a_scale_by_a_share_of_itself() -> None:
    network = torch.nn.Sequential(InputQuantizer(activation(0.02, 0), is_learned=True))
    network(torch.full((3, 4), 100.0)).sum().backward()
    SteadyScales().before_step(network, StepInfo(0, 1, 0))
    assert network[0].scale.grad.item() == pytest.approx(0.1 * 0.02)


def test_a_scale_stays_within_what_a_clip_lets_through() -> None:
    """Where the highest code does a ReLU6's work, a larger scale would let through what the Clip cuts off."""
    quantizer = InputQuantizer(activation(4 / 255, 0), is_learned=True, bound=6.0)
    with torch.no_grad():
        quantizer.scale.fill_(1.0)
    assert float(quantizer.quant().scale) == pytest.approx(6 / 255)
    assert quantizer(torch.tensor([9.0])).item() == pytest.approx(6.0)
