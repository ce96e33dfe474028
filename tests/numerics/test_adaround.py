"""AdaRound on layers small enough to try every rounding."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressctl.numerics.adaround import Layer, adaround, nearest

UNBOUNDED = (-np.inf, np.inf)
RELU = (0.0, np.inf)


def layer_of(weight: np.ndarray, bounds: tuple[float, float] = UNBOUNDED, bias: float = 0.0) -> Layer:
    """4 bits, a scale for each output; weight: (groups, out, in)."""
    weight = weight.astype(np.float32)
    scale = (np.abs(weight).max(axis=2, keepdims=True) / 7).astype(np.float32)
    return Layer(weight, scale, -8, 7, np.full((len(weight), 1, weight.shape[1]), bias, np.float32), bounds)


def correlated(rng: np.random.Generator, groups: int, rows: int, columns: int) -> np.ndarray:
    hidden = rng.normal(size=(groups, rows, 3))
    return (hidden @ rng.normal(size=(groups, 3, columns)) + 0.3 * rng.normal(size=(groups, rows, columns))).astype("f")


def by_hand(layer: Layer, codes: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> float:
    """The mean squared error in float64, one output at a time."""
    low, high = layer.bounds
    found = [
        np.clip(x.astype(float) @ (c * s).astype(float).T + b, low, high)
        for x, c, s, b in zip(inputs, codes, layer.scale, layer.bias, strict=True)
    ]
    return float(np.mean((np.stack(found) - targets) ** 2))


@pytest.mark.parametrize("bounds", [UNBOUNDED, RELU], ids=["plain", "relu"])
def test_it_finds_a_rounding_close_to_the_best_of_all(bounds: tuple[float, float]) -> None:
    rng = np.random.default_rng(0)
    layer = layer_of(rng.normal(size=(1, 1, 9)), bounds)
    inputs = correlated(rng, 1, 500, 9)
    targets = layer.output(inputs, layer.weight)
    floor = np.floor(layer.weight / layer.scale)
    every = [np.clip(floor + np.asarray(up, float), -8, 7) for up in product((0, 1), repeat=9)]
    errors = sorted(by_hand(layer, codes, inputs, targets) for codes in every)
    learned = by_hand(layer, adaround(layer, inputs, targets, 800, 128, np.random.default_rng(1)), inputs, targets)
    assert learned <= errors[len(errors) // 100]
    assert learned < by_hand(layer, nearest(layer), inputs, targets)


def test_what_the_activation_cuts_off_does_not_count() -> None:
    """Most outputs are below zero, behind a Relu: the others alone decide."""
    rng = np.random.default_rng(2)
    few, many = correlated(rng, 1, 500, 12), 3 * correlated(rng, 1, 1500, 12)
    # The last input turns the output off, whatever else the many bring.
    off = np.concatenate([np.zeros(500), np.full(1500, 40)]).astype(np.float32)
    inputs = np.concatenate([np.concatenate([few, many], axis=1), off[None, :, None]], axis=2)
    weight = np.concatenate([rng.normal(size=(1, 8, 12)), np.full((1, 8, 1), -3.0)], axis=2)
    plain, cut = layer_of(weight), layer_of(weight, RELU)
    targets = cut.output(inputs, cut.weight)
    with_it = adaround(cut, inputs, targets, 800, 256, np.random.default_rng(3))
    without = adaround(plain, inputs, plain.output(inputs, plain.weight), 800, 256, np.random.default_rng(3))
    assert by_hand(cut, with_it, inputs, targets) < 0.7 * by_hand(cut, without, inputs, targets)


def test_it_makes_good_what_its_inputs_lost_already() -> None:
    """Targets come from other inputs than those that the layer gets, as behind a quantized layer."""
    rng = np.random.default_rng(4)
    layer = layer_of(rng.normal(size=(1, 4, 12)))
    exact = correlated(rng, 1, 1000, 12)
    coarse = np.rint(exact * 2) / 2 + np.float32(0.1)
    targets = layer.output(exact, layer.weight)
    knows = adaround(layer, coarse, targets, 800, 256, np.random.default_rng(5))
    does_not = adaround(layer, exact, targets, 800, 256, np.random.default_rng(5))
    assert by_hand(layer, knows, coarse, targets) < by_hand(layer, does_not, coarse, targets)


def test_each_group_is_rounded_for_its_own_inputs() -> None:
    """The groups' inputs differ: codes that are good for one group's are worse for another's."""
    rng = np.random.default_rng(6)
    weight = np.repeat(rng.normal(size=(1, 6, 12)), 2, axis=0)
    layer, inputs = layer_of(weight), correlated(rng, 2, 600, 12)
    targets = layer.output(inputs, layer.weight)
    learned = adaround(layer, inputs, targets, 800, 128, np.random.default_rng(7))
    own = by_hand(layer, learned, inputs, targets)
    assert own < 0.8 * by_hand(layer, nearest(layer), inputs, targets)
    assert own < 0.8 * by_hand(layer, learned[::-1], inputs, targets)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3.0))
def test_every_code_is_a_neighbour_of_its_weight_or_at_the_end_of_the_range(seed: int, shrunk: float) -> None:
    rng = np.random.default_rng(seed)
    whole = layer_of(rng.normal(size=(1, 3, 5)))
    layer = Layer(whole.weight, whole.scale * np.float32(shrunk), -8, 7, whole.bias, RELU)
    inputs = correlated(rng, 1, 50, 5)
    codes = adaround(layer, inputs, layer.output(inputs, layer.weight), 30, 16, rng)
    ratio = np.clip(layer.weight / layer.scale, -8, 7)
    assert np.all(codes == np.rint(codes))
    assert np.all((codes >= -8) & (codes <= 7))
    assert np.all(np.abs(codes - ratio) <= 1 + 1e-5)


def test_the_same_seed_gives_the_same_codes() -> None:
    rng = np.random.default_rng(8)
    layer, inputs = layer_of(rng.normal(size=(1, 4, 8))), correlated(rng, 1, 200, 8)
    targets = layer.output(inputs, layer.weight)
    first, second = (adaround(layer, inputs, targets, 50, 32, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, second)


def test_the_error_of_codes_is_the_layers_own() -> None:
    rng = np.random.default_rng(10)
    layer, inputs = layer_of(rng.normal(size=(2, 4, 8)), RELU, bias=0.3), correlated(rng, 2, 200, 8)
    targets = layer.output(inputs, layer.weight)
    assert layer.error(nearest(layer), inputs, targets) == pytest.approx(
        by_hand(layer, nearest(layer), inputs, targets), rel=1e-4
    )


@pytest.mark.parametrize("case", ["no input", "no weight", "no output"])
def test_what_is_always_zero_is_rounded_to_something_finite(case: str) -> None:
    """Inputs of zeros, an output with tiny weights, and a Relu that lets nothing through in the float network."""
    rng = np.random.default_rng(11)
    weight, inputs = rng.normal(size=(1, 3, 6)), correlated(rng, 1, 100, 6)
    if case == "no input":
        inputs = inputs * 0
    if case == "no weight":
        weight[0, 1] *= 1e-9
    layer = layer_of(weight, RELU)
    targets = layer.output(inputs, layer.weight) * np.float32(case != "no output")
    with np.errstate(all="raise", under="ignore"):
        codes = adaround(layer, inputs, targets, 100, 32, rng)
    assert np.all(np.abs(codes - np.clip(layer.weight / layer.scale, -8, 7)) <= 1 + 1e-4)
