"""Quantization that a file carried, fitted to targets whose kernels take another form of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper
from support.graphs import residual_model

from compressctl.core.model import Model
from compressctl.core.quant import QuantPlan, TensorQuant
from compressctl.core.target import Target
from compressctl.graph.codes import weight_codes, weight_values
from compressctl.graph.requantize import fitted

VNNI, AVX2 = "x86-vnni", "x86-avx2"


def _weight(model: Model, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(tensor) for tensor in model.body.graph.initializer if tensor.name == name)


def _with_weights(dtype: str, zero_point: int) -> Model:
    """Per tensor, as onnxruntime's quantizer writes uint8 weights."""
    model = residual_model()
    assert model.quant is not None
    quants = {}
    for name in ("w1", "w2"):
        values = _weight(model, name)
        scale = np.asarray(np.abs(values).max() / 100, np.float32)
        quants[name] = TensorQuant(dtype, scale, np.asarray(zero_point, dtype))
    return replace(model, quant=replace(model.quant, weights=quants))


@pytest.mark.parametrize(
    ("backend", "profile", "changes"),
    [
        ("onnxruntime", VNNI, False),
        ("onnxruntime", AVX2, False),
        ("onnxruntime", "arm64", True),
        ("openvino", VNNI, True),
        ("tensorrt", "nvidia-sm80", True),
    ],
)
def test_weights_that_are_not_around_zero_are_where_kernels_want_it(backend: str, profile: str, changes: bool) -> None:
    model = _with_weights("uint8", 120)
    found, notes = fitted(model, Target(backend, profile=profile))  # type: ignore[arg-type]
    assert found.quant is not None
    if not changes:
        assert found.quant == model.quant
        assert notes == ()
        return
    assert notes == ("2 weights were rounded again, around zero, as its kernels take them",)
    for name, quant in found.quant.weights.items():
        values = _weight(model, name)
        assert (quant.dtype, quant.axis) == ("int8", 0)
        assert not np.any(quant.zero_point)
        span = np.abs(values).reshape(8, -1).max(axis=1)[:, None, None, None]
        assert np.all(np.abs(weight_values(values, quant) - values) <= span / 127 / 2 + 1e-7)


def test_unsigned_codes_around_128_are_the_same_numbers_signed() -> None:
    model = _with_weights("uint8", 128)
    found, notes = fitted(model, Target("openvino", profile=VNNI))
    assert found.quant is not None
    assert model.quant is not None
    assert notes == ("2 weights were rounded again, as signed codes of the same values",)
    for name, quant in found.quant.weights.items():
        values = _weight(model, name)
        assert np.array_equal(weight_values(values, quant), weight_values(values, model.quant.weights[name]))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_full_eight_bits_do_not_overflow_without_vnni(backend: str) -> None:
    model = residual_model()
    assert fitted(model, Target(backend, profile=VNNI)) == (model, ())
    found, notes = fitted(model, Target(backend, profile=AVX2))
    assert found.quant is not None
    assert notes == ("2 weights were rounded again, so that no two products overflow without VNNI",)
    for name, quant in found.quant.weights.items():
        codes = weight_codes(_weight(model, name), quant).astype(int)
        # Kernels read a kernel position's input channels one after the other.
        rows = codes.transpose(0, 2, 3, 1).reshape(8, -1)
        pairs = rows[:, :-1] + rows[:, 1:]
        assert np.abs(pairs).max() * 255 <= 2**15 - 1 + 255
    assert fitted(found, Target(backend, profile=AVX2)) == (found, ())


@pytest.mark.parametrize(("backend", "kept"), [("onnxruntime", 4), ("openvino", 0), ("tensorrt", 0)])
def test_sixteen_bits_stay_float_where_nothing_multiplies_them(tmp_path: Path, backend: str, kept: int) -> None:
    model = residual_model()
    assert model.quant is not None
    wide = {
        name: TensorQuant(
            "uint16", np.asarray(quant.scale / 257, np.float32), np.asarray(int(quant.zero_point) * 257, np.uint16)
        )
        for name, quant in model.quant.activations.items()
    }
    found, notes = fitted(replace(model, quant=QuantPlan(wide, model.quant.weights)), Target(backend, profile=VNNI))
    assert found.quant is not None
    assert len(found.quant.activations) == kept
    assert bool(notes) is not bool(kept)
