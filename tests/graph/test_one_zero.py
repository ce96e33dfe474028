"""Negative zeros of weights become zeros; nothing else changes."""

import numpy as np
from onnx import helper, numpy_helper
from support.every_tensor import model_of

from compressctl.graph.normalize_negative_zero import one_zero


def test_a_negative_zero_in_a_weight_becomes_zero() -> None:
    weight = np.array([[0.0, -0.0], [-1.5, 2.0]], np.float32)
    model = model_of([numpy_helper.from_array(weight, "w"), helper.make_tensor("s", 1, (1,), [-0.0])])
    one_zero(model.graph)
    found, scalar = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    assert not np.signbit(found[0]).any()
    np.testing.assert_array_equal(found, weight)
    assert np.signbit(scalar[0])


def test_a_weight_without_one_keeps_how_it_is_stored() -> None:
    model = model_of([helper.make_tensor("w", 1, (1, 2), [0.0, 1.0])])
    before = model.SerializeToString()
    one_zero(model.graph)
    assert model.SerializeToString() == before
